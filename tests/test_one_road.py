# SPDX-License-Identifier: Apache-2.0
"""Every entry gives the same voxels: the bundle by MONAI's command, ``monai-n2v``, ``denoise()`` and MONAI Label."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
import torch
from conftest import phantom
from monai.bundle import ConfigParser, ConfigWorkflow
from PIL import Image
from samples import dicom_series, head, magnitude, oblique_affine, random_network

import monai_n2v
from monai_n2v.bundle.resources import bundle_name, copy_bundle
from monai_n2v.cli.main import main
from monai_n2v.io.images import read_volume

FEATURES = {2: [4, 4, 8, 8, 8, 4], 3: [2, 2, 4, 4, 4, 2]}


def padded_ct(folder: Path) -> tuple[Path, np.ndarray]:
    values = np.round(10 * phantom((28, 26, 20))[1]).astype(np.int16)
    values[:6], values[:, -5:] = -1024, -1024
    nibabel.save(nibabel.Nifti1Image(values, oblique_affine()), folder / "ct.nii.gz")
    return folder / "ct.nii.gz", values == -1024


def scanner_circle(folder: Path) -> tuple[Path, np.ndarray]:
    values = np.round(10 * phantom((48, 44, 9))[1]).astype(np.int16)
    x, y = np.meshgrid(np.linspace(-1, 1, 48), np.linspace(-1, 1, 44), indexing="ij")
    outside = np.broadcast_to((x**2 + y**2 > 1)[..., None], values.shape)
    values[outside] = -2000
    nibabel.save(nibabel.Nifti1Image(values, oblique_affine()), folder / "circle.nii")
    return folder / "circle.nii", outside


def nifti_of(shape: tuple[int, ...], name: str) -> Callable[[Path], tuple[Path, None]]:
    def write(folder: Path) -> tuple[Path, None]:
        nibabel.save(nibabel.Nifti1Image(phantom(shape)[1], oblique_affine((2.5, 0.9, 1.1))), folder / name)
        return folder / name, None

    return write


def png(folder: Path) -> tuple[Path, None]:
    Image.fromarray(np.clip(phantom((40, 52))[1], 0, 255).astype(np.uint8)).save(folder / "x.png")
    return folder / "x.png", None


def tiff(folder: Path) -> tuple[Path, None]:
    tifffile.imwrite(folder / "x.tif", phantom((40, 52))[1])
    return folder / "x.tif", None


def series(folder: Path) -> tuple[Path, None]:
    stored = np.round(10 * phantom((26, 24, 12), seed=2)[1]).astype(np.int16)
    dicom_series(folder / "series", stored, oblique_affine())
    return folder / "series", None


def complex_nifti(folder: Path) -> tuple[Path, None]:
    values = phantom((22, 24, 20))[1] + 1j * phantom((22, 24, 20), seed=1)[1]
    nibabel.save(nibabel.Nifti1Image(values.astype(np.complex64), oblique_affine()), folder / "complex.nii.gz")
    return folder / "complex.nii.gz", None


def complex_npy(folder: Path) -> tuple[Path, None]:
    values = phantom((22, 24, 20))[1] + 1j * phantom((22, 24, 20), seed=1)[1]
    np.save(folder / "complex.npy", values.astype(np.complex64))
    return folder / "complex.npy", None


def rician(folder: Path) -> tuple[Path, None]:
    nibabel.save(nibabel.Nifti1Image(magnitude(head(3), 9), oblique_affine()), folder / "mr.nii.gz")
    return folder / "mr.nii.gz", None


CASES: dict[str, Callable[[Path], tuple[Path, np.ndarray | None]]] = {
    "padded CT": padded_ct,
    "scanner circle": scanner_circle,
    "thinner than 8 voxels": nifti_of((30, 28, 5), "thin.nii.gz"),
    "thin axis first": nifti_of((10, 30, 28), "anisotropic.nii.gz"),
    "4D": nifti_of((20, 22, 12, 2), "series.nii.gz"),
    "magnitude": rician,
    "complex": complex_nifti,
    "complex NPY": complex_npy,
    "PNG": png,
    "TIFF": tiff,
    "DICOM": series,
}
OF_IMAGES = ("PNG", "TIFF")


@pytest.fixture(scope="module", params=[2, 3])
def model(request, tmp_path_factory) -> Path:
    """A bundle with random weights."""
    return random_bundle(tmp_path_factory.mktemp("model"), request.param)


def random_bundle(folder: Path, dims: int, **keys) -> Path:
    bundle = copy_bundle(bundle_name(dims), folder / bundle_name(dims))
    for name in ("train", "inference", "evaluate"):
        path = bundle / "configs" / f"{name}.json"
        config = json.loads(path.read_text())
        if "features" in config:
            path.write_text(json.dumps(config | {"features": FEATURES[dims], **keys}))
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    torch.manual_seed(0)
    network = random_network(parser.get_parsed_content("network_def"))
    (bundle / "models").mkdir(exist_ok=True)
    torch.save(network.state_dict(), bundle / "models" / "model.pt")
    return bundle


def by_bundle(model: Path, source: Path, out: Path, noise_map: Path | None = None) -> Path:
    flow = ConfigWorkflow(
        config_file=str(model / "configs" / "inference.json"),
        workflow_type="inference",
        logging_file=False,
        bundle_root=str(model),
        dataset_dir=str(source.parent),
        output_dir=str(out),
        ckpt_path=str(model / "models" / "model.pt"),
        device="$torch.device('cpu')",
        noise_map=None if noise_map is None else str(noise_map),
    )
    flow.initialize()
    flow.run()
    flow.finalize()
    (found,) = (out / "denoised").iterdir()
    return found


def by_command(model: Path, source: Path, out: Path, noise_map: Path | None = None) -> Path:
    target = out / f"denoised{''.join(source.suffixes)}"
    options = ["--model", str(model), "--device", "cpu", "-q", *(["--noise-map", str(noise_map)] if noise_map else [])]
    assert main(["denoise", "-i", str(source), "-o", str(target), *options]) == 0
    return target


def by_command_of_a_folder(model: Path, source: Path, out: Path, noise_map: Path | None = None) -> Path:
    options = ["--model", str(model), "--device", "cpu", "-q", *(["--noise-map", str(noise_map)] if noise_map else [])]
    assert main(["denoise", "-i", str(source.parent), "-o", str(out / "mirror"), *options]) == 0
    return out / "mirror" / source.name


def by_python(model: Path, source: Path, out: Path, noise_map: Path | None = None) -> Path:
    target = out / f"by_python{''.join(source.suffixes)}"
    found: Path = monai_n2v.denoise(source, model=model, output=target, device="cpu", noise_map=noise_map)
    return found


def by_label(model: Path, source: Path, out: Path, noise_map: Path | None = None) -> Path:
    pytest.importorskip("monailabel.interfaces.app", reason="MONAI Label is not installed")
    from monai_n2v.label.infer import DenoiseTask

    more = {} if noise_map is None else {"noise_map": str(noise_map)}
    return Path(DenoiseTask(model)({"image": str(source), "device": "cpu", **more})[0])


@pytest.mark.parametrize("entry", [by_command, by_command_of_a_folder, by_python, by_label])
@pytest.mark.parametrize(
    ("model", "case"),
    [(dims, case) for dims in (2, 3) for case in CASES if dims == 2 or case not in OF_IMAGES],
    indirect=["model"],
)
def test_all_entries_give_the_same_voxels(case, entry, model, tmp_path):
    (tmp_path / "in").mkdir()
    source, padding = CASES[case](tmp_path / "in")
    expected = read_volume(by_bundle(model, source, tmp_path / "by_bundle"))
    (tmp_path / "out").mkdir()
    found, noisy = read_volume(entry(model, source, tmp_path / "out")), read_volume(source)
    if case == "DICOM" and entry is by_label:  # MONAI Label's clients take one file
        np.testing.assert_allclose(found.data, expected.data, atol=0.5)  # the series holds whole numbers
    else:
        np.testing.assert_array_equal(found.data, expected.data)
    assert found.data.shape == noisy.data.shape
    assert found.spacing == pytest.approx(noisy.spacing, rel=1e-6)
    if noisy.source.affine is not None:
        np.testing.assert_allclose(found.source.affine, noisy.source.affine, atol=1e-5)
    if padding is not None:
        np.testing.assert_array_equal(found.data[0][padding], noisy.data[0][padding])
    assert not np.array_equal(found.data, noisy.data)


@pytest.mark.parametrize("entry", [by_command, by_command_of_a_folder, by_python, by_label])
@pytest.mark.parametrize("case", ["padded CT", "4D", "complex", "magnitude"])
def test_noise_map_gives_the_same_voxels_by_every_entry(case, entry, model, tmp_path):
    (tmp_path / "in").mkdir()
    source, padding = CASES[case](tmp_path / "in")
    noisy = read_volume(source)
    strength = np.linspace(1, 3, noisy.data.shape[1])[:, None, None] * np.ones(noisy.data.shape[1:])
    noise_map = tmp_path / "map.nii.gz"
    nibabel.save(nibabel.Nifti1Image(strength.astype(np.float32), noisy.source.affine), noise_map)
    expected = read_volume(by_bundle(model, source, tmp_path / "by_bundle", noise_map)).data
    (tmp_path / "out").mkdir()
    np.testing.assert_array_equal(read_volume(entry(model, source, tmp_path / "out", noise_map)).data, expected)
    assert not np.array_equal(expected, read_volume(by_bundle(model, source, tmp_path / "without")).data)
    if padding is not None:
        np.testing.assert_array_equal(expected[0][padding], noisy.data[0][padding])
    if case == "4D":
        values = np.moveaxis(noisy.data, 0, -1)
        array = monai_n2v.denoise(values, model=model, device="cpu", noise_map=strength)
        np.testing.assert_array_equal(np.moveaxis(array, -1, 0), expected)


@pytest.mark.parametrize("entry", [by_command, by_command_of_a_folder, by_python, by_label])
def test_all_entries_denoise_a_series_together(entry, model, tmp_path):
    (tmp_path / "in").mkdir()
    source = tmp_path / "in" / "dwi.nii.gz"
    clean, rng = phantom((24, 22, 20))[0], np.random.default_rng(0)
    volumes = np.stack([(k % 3 + 1) * clean + rng.normal(0, 10, clean.shape) for k in range(7)], axis=-1)
    nibabel.save(nibabel.Nifti1Image(volumes.astype(np.float32), np.eye(4)), source)
    expected = read_volume(by_bundle(model, source, tmp_path / "by_bundle")).data
    (tmp_path / "out").mkdir()
    np.testing.assert_array_equal(read_volume(entry(model, source, tmp_path / "out")).data, expected)
    array = monai_n2v.denoise(nibabel.load(source).get_fdata(dtype=np.float32), model=model, device="cpu")
    np.testing.assert_array_equal(np.moveaxis(array, -1, 0), expected)
    apart = monai_n2v.denoise(torch.from_numpy(read_volume(source).data), model=model, device="cpu", volumes="apart")
    assert not np.array_equal(apart.numpy(), expected)


@pytest.mark.parametrize("case", ["padded CT", "scanner circle", "thin axis first", "4D"])
def test_loaded_images_give_the_same_voxels_as_files(case, model, tmp_path):
    (tmp_path / "in").mkdir()
    source, _ = CASES[case](tmp_path / "in")
    expected = read_volume(by_bundle(model, source, tmp_path / "by_bundle")).data
    image = nibabel.load(source)
    loaded = monai_n2v.denoise(image, model=model, device="cpu")
    volumes = np.moveaxis(loaded.get_fdata(dtype=np.float32).reshape(*loaded.shape[:3], -1), -1, 0)
    np.testing.assert_array_equal(volumes, expected)
    array = monai_n2v.denoise(image.get_fdata(dtype=np.float32), model=model, device="cpu")
    np.testing.assert_array_equal(np.moveaxis(array.reshape(*array.shape[:3], -1), -1, 0), expected)
    tensor = monai_n2v.denoise(torch.from_numpy(read_volume(source).data), model=model, device="cpu")
    np.testing.assert_array_equal(tensor.numpy(), expected)
