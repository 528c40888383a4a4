# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
import os
import random
import sys
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from conftest import oblique_nifti, phantom
from monai.data import MetaTensor
from monai.transforms import Compose, RandGaussianNoise
from scipy.ndimage import gaussian_filter

import monai_n2v
from monai_n2v.apps.inspect import check_image, choose_device
from monai_n2v.bundle import find_bundle, train
from monai_n2v.cli.main import main

FEATURES = {"features": [16, 16, 32, 64, 128, 16]}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A network of each dimension, trained for a few steps with the bundle's own defaults."""
    folders = {}
    for dims, shape in ((2, (48, 40)), (3, (24, 20, 16))):
        folder = tmp_path_factory.mktemp(f"model{dims}")
        image = MetaTensor(phantom(shape)[1][None])
        settings = {
            "epochs": 1,
            "epoch_length": 3,
            "batch_size": 2,
            "progress": False,
            "device": "$torch.device('cpu')",
        }
        train(find_bundle(f"n2v_denoise_{dims}d"), [{"image": image}], folder, ["anneal.json"], **settings)
        folders[dims] = folder / "models" / "model.pt"
    return folders


@pytest.mark.parametrize("name", ["tta", "keep_padding"])
def test_a_text_is_no_switch(name):
    with pytest.raises(ValueError, match=f"{name} must be True or False, got 'no'"):
        monai_n2v.denoise(np.ones((32, 32), np.float32), **{name: "no"})


@pytest.mark.parametrize("kind", ["ndarray", "tensor", "metatensor", "nibabel", "path"])
def test_same_kind_out_as_in(kind, models, tmp_path):
    noisy = phantom((22, 20, 16))[1]
    image = oblique_nifti(noisy)
    nibabel.save(image, tmp_path / "x.nii.gz")
    x = {
        "ndarray": noisy,
        "tensor": torch.from_numpy(noisy),
        "metatensor": MetaTensor(noisy[None], meta={"filename_or_obj": "x"}),
        "nibabel": image,
        "path": tmp_path / "x.nii.gz",
    }[kind]
    before = noisy.copy()
    out = monai_n2v.denoise(x, model=models[3], device="cpu")
    assert np.array_equal(noisy, before)
    if kind == "path":
        assert out == tmp_path / "x_denoised.nii.gz"
        out = nibabel.load(out)
        with pytest.raises(FileExistsError, match="output must not exist yet"):
            monai_n2v.denoise(x, model=models[3])
    else:
        assert type(out) is type(x)
        assert out.shape == x.shape
    values = out.get_fdata(dtype=np.float32) if hasattr(out, "dataobj") else np.asarray(out).reshape(noisy.shape)
    reference = monai_n2v.denoise(noisy, model=models[3], device="cpu")
    np.testing.assert_allclose(values, reference, atol=1e-4)
    if kind == "metatensor":
        assert out.meta["filename_or_obj"] == "x"


@pytest.mark.parametrize(
    ("shape", "dims"), [((40, 36), 2), ((1, 40, 36), 2), ((40, 36, 1), 2), ((30, 28, 3), 2), ((20, 18, 16, 2), 3)]
)
def test_shapes_of_arrays(shape, dims, models):
    out = monai_n2v.denoise(phantom(shape)[1], model=models[dims], device="cpu")
    assert out.shape == shape
    assert out.dtype == np.float32


def test_volumes_of_arrays_and_channels_of_tensors_are_denoised_alike(models):
    noisy = np.stack([phantom((20, 18, 16), seed=k)[1] + 100 * k for k in range(2)], axis=-1)
    whole = monai_n2v.denoise(noisy, model=models[3], device="cpu")
    tensor = monai_n2v.denoise(torch.from_numpy(np.moveaxis(noisy, -1, 0).copy()), model=models[3], device="cpu")
    for k in range(2):
        alone = monai_n2v.denoise(noisy[..., k], model=models[3], device="cpu")
        np.testing.assert_allclose(whole[..., k], alone, atol=1e-3)
        np.testing.assert_allclose(tensor[k], alone, atol=1e-3)


@pytest.mark.parametrize(("scale", "shift"), [(3.5, 0.0), (1.0, -2000.0), (1e-4, 7.0), (250.0, 1e5)])
@pytest.mark.parametrize("dims", [2, 3])
def test_denoise_follows_intensity_scale_and_shift(dims, scale, shift, models):
    noisy = phantom((40, 36) if dims == 2 else (24, 20, 16))[1].astype(np.float64)
    plain = monai_n2v.denoise(noisy, model=models[dims], device="cpu")
    changed = monai_n2v.denoise((scale * noisy + shift).astype(np.float32), model=models[dims], device="cpu")
    expected = scale * plain.astype(np.float64) + shift
    rounding = 2 * np.finfo(np.float32).eps * np.abs(expected).max()
    assert np.abs(changed - expected).max() <= 1e-4 * np.ptp(scale * noisy) + rounding


def state_of_the_process() -> dict[str, object]:
    """Everything a call might change behind its caller's back."""
    import monai.utils.misc

    root = logging.getLogger()
    loggers = {"": root, **{name: one for name, one in root.manager.loggerDict.items() if hasattr(one, "handlers")}}
    drawn = Compose([RandGaussianNoise(prob=1.0)])  # seeds its transforms from MONAI's seed, where one is set
    return {
        "python": random.getstate(),
        "numpy": [part.tolist() if hasattr(part, "tolist") else part for part in np.random.get_state()],
        "torch": torch.random.get_rng_state().tolist(),
        "monai": monai.utils.misc._seed,
        "compose": drawn.R.get_state()[1].tolist() if monai.utils.misc._seed is not None else None,
        "cudnn": (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark, torch.backends.cudnn.enabled),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
        "grad": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
        "warnings": list(warnings.filters),
        "loggers": {
            name: (one.level, list(one.handlers), one.propagate, one.disabled, list(one.filters))
            for name, one in loggers.items()
        },
        "excepthook": sys.excepthook,
        "environment": dict(os.environ),
        "folder": Path.cwd(),
    }


@pytest.mark.parametrize("monai_seed", [None, 5])
@pytest.mark.parametrize("how", ["training", "model", "failure"])
def test_denoise_leaves_the_process_as_it_was(how, monai_seed, models, monkeypatch):
    import monai.utils.misc

    import monai_n2v.apps.train as training

    real = training.train
    monkeypatch.setattr(training, "train", lambda *a, **k: real(*a, **{**k, "epoch_length": 2}))
    noisy = phantom((40, 36))[1]
    options = {"training": {"epochs": 1, "scheme": "n2v"}, "model": {"model": models[2]}, "failure": {"epochs": 1}}[how]
    monai_n2v.denoise(noisy, device="cpu", **options)  # modules that are loaded only then bring loggers of their own
    if how == "failure":

        def diverge(*args, **kwargs):
            torch.manual_seed(99)
            logging.getLogger("monai").setLevel(logging.DEBUG + 1)
            logging.getLogger("monai").setLevel(logging.NOTSET)
            raise ValueError("diverged")

        monkeypatch.setattr("monai_n2v.inferers.SymmetricInferer.__call__", diverge)
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    monkeypatch.setattr(monai.utils.misc, "_seed", monai_seed)
    before = state_of_the_process()
    if how == "failure":
        with pytest.raises(ValueError, match="diverged"):
            monai_n2v.denoise(noisy, device="cpu", **options)
    else:
        monai_n2v.denoise(noisy, device="cpu", **options)
    after = state_of_the_process()
    for name, value in before.items():
        if name == "loggers":
            assert {k: after[name][k] for k in value} == value
        else:
            assert after[name] == value, name


def test_training_on_the_image_itself_is_repeatable(monkeypatch):
    import monai_n2v.apps.train as training

    real = training.train
    monkeypatch.setattr(training, "train", lambda *a, **k: real(*a, **{**k, "epoch_length": 2}))
    noisy = phantom((40, 36))[1]
    first = monai_n2v.denoise(noisy, epochs=1, scheme="n2v", device="cpu")
    assert np.array_equal(monai_n2v.denoise(noisy, epochs=1, scheme="n2v", device="cpu"), first)
    assert not np.array_equal(monai_n2v.denoise(noisy, epochs=1, scheme="n2v", device="cpu", seed=1), first)


def test_model_may_be_a_bundle_folder_or_its_weights(models, tmp_path):
    import shutil

    bundle = tmp_path / "bundle"
    shutil.copytree(find_bundle("n2v_denoise_3d"), bundle)
    (bundle / "models").mkdir(exist_ok=True)
    shutil.copy(models[3], bundle / "models" / "model.pt")
    noisy = phantom((20, 18, 16))[1]
    results = [monai_n2v.denoise(noisy, model=m, device="cpu") for m in (models[3], bundle, models[3].parent.parent)]
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_unfit_models_refused(models, tmp_path):
    noisy = phantom((20, 18, 16))[1]
    with pytest.raises(ValueError, match="model must fit an image of 2 axes"):
        monai_n2v.denoise(noisy[..., 0], model=models[3])
    with pytest.raises(FileNotFoundError, match="model must be a trained bundle"):
        monai_n2v.denoise(noisy, model=tmp_path)
    with pytest.raises(FileNotFoundError, match="Train the bundle, or leave model out"):
        monai_n2v.denoise(noisy, model=tmp_path / "none.pt")
    (tmp_path / "bad.pt").write_text("no weights")
    with pytest.raises(ValueError, match="model must be a file of network weights"):
        monai_n2v.denoise(noisy, model=tmp_path / "bad.pt")
    state = torch.load(models[3], weights_only=True)
    torch.save({name: tensor[:1] for name, tensor in state.items() if tensor.ndim}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="model must hold weights of the network its bundle configures"):
        monai_n2v.denoise(noisy, model=tmp_path / "other.pt", device="cpu")


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_thin_volumes_are_cut_across_their_shortest_axis(axis, models):
    noisy = phantom((30, 28, 4))[1]
    flat = monai_n2v.denoise(noisy, model=models[2], device="cpu")
    turned = monai_n2v.denoise(np.moveaxis(noisy, -1, axis), model=models[2], device="cpu")
    np.testing.assert_allclose(np.moveaxis(turned, axis, -1), flat, atol=1e-3)


@pytest.mark.parametrize("dims", [2, 3])
def test_complex_arrays_are_denoised_by_their_parts(dims, models):
    noisy = phantom((32, 28, 24)[:dims])[1]
    other = phantom(noisy.shape, seed=1)[1]
    result = monai_n2v.denoise(noisy + 1j * other, model=models[dims], device="cpu")
    assert result.dtype == np.complex64
    for part, image in ((result.real, noisy), (result.imag, other)):
        np.testing.assert_allclose(part, monai_n2v.denoise(image, model=models[dims], device="cpu"), atol=1e-3)
    conjugate = torch.from_numpy(noisy - 1j * other)[None].conj()  # a view that computes when it is read
    tensor = monai_n2v.denoise(conjugate, model=models[dims], device="cpu")
    np.testing.assert_array_equal(tensor[0].numpy(), result)


@pytest.mark.parametrize("dims", [2, 3])
def test_constant_complex_image_is_refused(dims):
    with pytest.raises(ValueError, match=r"image must vary, got the constant -2 and 3\. There is nothing"):
        monai_n2v.denoise(np.full((12,) * dims, 3 - 2j), scheme="prior")


@pytest.mark.parametrize(("name", "meant"), [("fast", 'scheme="prior"'), ("from_scratch", "prior=False")])
def test_options_of_the_command_line_are_named_as_python_has_them(name, meant):
    with pytest.raises(TypeError, match=f"got {name}. Did you mean {meant}?"):
        monai_n2v.denoise(phantom((16, 16))[1], **{name: True})
    with pytest.raises(TypeError, match=r"got epoch. Did you mean epochs\?"):
        monai_n2v.denoise(phantom((16, 16))[1], epoch=3)


@pytest.mark.parametrize(
    "question",
    [{"model": "x", "epochs": 3}, {"model": "x", "scheme": "prior"}, {"epochs": 2, "max_time": 3.0}, {"epochs": 0}],
)
def test_contradicting_settings_refused(question):
    with pytest.raises(ValueError, match="must"):
        monai_n2v.denoise(phantom((16, 16))[1], **question)


@pytest.mark.parametrize(
    "question",
    [
        *({"epochs": 1.5}, {"epochs": True}, {"epochs": "3"}, {"max_time": "20"}, {"max_time": float("nan")}),
        *(
            {"prior": "no"},
            {"seed": "a"},
            {"keep_padding": "no"},
            {"spatial_dims": 4},
            {"output": "x.nii"},
            {"series": "1"},
        ),
    ],
)
def test_values_of_another_kind_refused(question):
    with pytest.raises(ValueError, match=f"{next(iter(question))} must "):
        monai_n2v.denoise(phantom((16, 16))[1], device="cpu", **question)


def test_unknown_option_refused():
    with pytest.raises(TypeError, match="options must be of epochs"):
        monai_n2v.denoise(phantom((16, 16))[1], epoch=3)


def test_place_that_cannot_be_written_refused_before_training(tmp_path):
    nibabel.save(oblique_nifti(phantom((16, 16, 16))[1]), tmp_path / "x.nii")
    with pytest.raises(ValueError, match="output must be of the input's kind"):
        monai_n2v.denoise(tmp_path / "x.nii", output=tmp_path / "x.png")


@pytest.mark.parametrize("bad", ["shape", "line", "kind", "text"])
def test_unfit_inputs_refused(bad):
    x = {"shape": np.ones((2, 2, 2, 2, 2)), "line": np.ones((9, 1)), "kind": [1, 2], "text": np.full((9, 9), "a")}[bad]
    with pytest.raises((ValueError, TypeError), match="must"):
        monai_n2v.denoise(x)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            np.full((9, 9), 1.5, dtype=object),
            r"x must hold numbers, got an array of object\. Convert it, such as by x\.as",
        ),
        (np.ma.masked_less(phantom((16, 16))[1], 30), r"x must be a plain ndarray .* got MaskedArray\. Fill what is"),
        (np.matrix(phantom((16, 16))[1]), r"x must be a plain ndarray .* got matrix\. Pass numpy\.asarray\(x\)"),
        (np.ones((2, 8, 8, 8, 8)), r"x must have voxels and 2 to 4 axes, got shape \(2, 8, 8, 8, 8\)\. Pass"),
        (
            phantom((16, 16))[1] * np.float32(1e36),
            r"image must have a largest value from 1e-18 to 1e\+18 in size, got 1",
        ),
        (
            phantom((16, 16))[1].astype(float) * 1e-300,
            r"image must have a largest value from 1e-18 to 1e\+18 in size, got .*e-298",
        ),
    ],
)
def test_arrays_of_another_kind_are_refused_in_a_sentence(x, message):
    with pytest.raises((TypeError, ValueError), match=message):
        monai_n2v.denoise(x, scheme="prior", device="cpu")


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.complex128])
def test_noise_that_float32_does_not_hold_beside_an_offset_is_denoised(dtype):
    clean, noisy = (2e9 + 40 * image.astype(np.float64) for image in phantom((64, 60)))
    noisy[:9] = 0 if dtype is not np.complex128 else 2e9
    noisy = noisy + 1j * noisy if dtype is np.complex128 else np.round(noisy).astype(dtype)
    result = monai_n2v.denoise(noisy, scheme="prior", device="cpu")
    assert result.dtype == (np.complex128 if dtype is np.complex128 else np.float64)
    assert np.array_equal(result[:9], noisy[:9])
    noise, error = (float(np.std((image.real - clean)[9:])) for image in (noisy, result))
    assert error < 0.5 * noise


def test_map_and_image_that_are_exchanged_are_told(tmp_path, capsys):
    noisy, smooth = phantom((24, 20, 18))[1] + 100, np.random.default_rng(0).normal(size=(24, 20, 18))
    smooth = 2 + gaussian_filter(smooth, 4)
    for name, values in (("noisy.nii", noisy), ("map.nii", smooth.astype(np.float32))):
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / name)
    names = [str(tmp_path / name) for name in ("map.nii", "out.nii", "noisy.nii")]
    asked = [part for pair in zip(("-i", "-o", "--noise-map"), names) for part in pair]
    assert main(["denoise", *asked, "--fast", "--device", "cpu"]) == 1
    assert "noise_map must be smoother than the image" in capsys.readouterr().err
    assert not (tmp_path / "out.nii").exists()


def test_check_names_the_file():
    with pytest.raises(ValueError, match=r"got the constant 3 for scan\.nii"):
        check_image(np.full((1, 9, 9), 3.0), "scan.nii")


def test_device_auto_and_missing():
    assert choose_device("auto") in ("cpu", "cuda:0")
    assert choose_device("cpu") == "cpu"
    with pytest.raises(ValueError, match="device must be one of this machine"):
        choose_device("cuda:77")
