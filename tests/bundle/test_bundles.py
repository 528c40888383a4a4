# SPDX-License-Identifier: Apache-2.0
"""The bundles, run in process through MONAI's own ConfigWorkflow on small images."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import laws
import nibabel
import numpy as np
import pytest
import torch
from conftest import phantom
from monai.data import MetaTensor
from PIL import Image
from samples import damaged
from tiny import SMALL, run, workflow

from monai_n2v.bundle import Denoiser, find_bundle, find_config, resolve_model, train
from monai_n2v.handlers.checkpoints import ResumableCheckpoints
from monai_n2v.transforms.files import SaveDenoisedd


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "models" / "model.pt", weights_only=True)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    nibabel.save(nibabel.Nifti1Image(phantom((20, 24, 18))[1], np.diag([1, 1, 2, 1])), folder / "sub" / "volume.nii.gz")
    return folder


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_bundle_trains_and_finds_its_network_for_inference(spatial_dims, images, tmp_path):
    out = tmp_path / "out"
    options = {"dataset_dir": str(images), "output_dir": str(out)}
    run(workflow("train", spatial_dims, epochs=2, **options))
    run(workflow("inference", spatial_dims, **options))
    written = nibabel.load(out / "denoised" / "sub" / "volume_denoised.nii.gz")
    source = nibabel.load(images / "sub" / "volume.nii.gz")
    assert written.shape == source.shape
    assert np.array_equal(written.affine, source.affine)
    assert np.isfinite(written.get_fdata()).all()
    assert abs(written.get_fdata().mean() - source.get_fdata().mean()) < 0.5 * source.get_fdata().std()
    events = list((out / "runs").rglob("events*"))
    assert len({event.parent for event in events}) == 1
    tags = event_tags(events)
    assert {"train_loss", "val_loss"} <= tags["scalars"]
    assert tags["images"]


def test_bundle_training_leaves_a_bad_file_out_with_a_note(images, tmp_path, caplog):
    (images / "bad.nii.gz").write_bytes(b"no image")
    nan = np.full((20, 24, 18), np.nan, np.float32)
    nibabel.save(nibabel.Nifti1Image(nan, np.eye(4)), images / "nan.nii.gz")
    options = {"dataset_dir": str(images), "output_dir": str(tmp_path / "out"), "epochs": 1}
    run(workflow("train", 3, **options))
    assert (tmp_path / "out" / "models" / "model.pt").is_file()
    notes = [message for message in caplog.messages if message.startswith("Left out: ")]
    assert {name for note in notes for name in ("bad.nii.gz", "nan.nii.gz", "volume.nii.gz") if name in note} == {
        "bad.nii.gz",
        "nan.nii.gz",
    }
    with pytest.raises(Exception, match="transform") as caught:
        run(workflow("train", 3, **{**options, "output_dir": str(tmp_path / "bad"), "pattern": "bad*"}))
    assert "bad.nii.gz" in "".join(map(str, causes(caught.value)))


def causes(error: BaseException | None) -> list[BaseException]:
    found = []
    while error is not None:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


@pytest.mark.parametrize("kind", ["train", "inference"])
def test_bundle_takes_images_by_pattern(kind, images, tmp_path):
    nibabel.save(nibabel.Nifti1Image(phantom((20, 24, 18))[1], np.eye(4)), images / "other.nii.gz")
    flow = workflow(kind, 3, dataset_dir=str(images), output_dir=str(tmp_path), pattern="sub/*")
    key = "train#dataset#data" if kind == "train" else "dataset#data"
    flow.parser.parse()
    assert flow.parser.get_parsed_content(key) == [{"image": str(images / "sub" / "volume.nii.gz")}]


def event_tags(events: list[Path]) -> dict[str, set[str]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[str, set[str]] = {"scalars": set(), "images": set()}
    for event in events:
        accumulator = EventAccumulator(str(event))
        accumulator.Reload()
        for kind in found:
            found[kind] |= set(accumulator.Tags()[kind])
    return found


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_2d_bundle_takes_images_and_writes_the_same_kind(suffix, tmp_path):
    folder, out = tmp_path / "images", tmp_path / "out"
    folder.mkdir()
    noisy = np.clip(phantom((40, 52))[1], 0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(folder / f"x{suffix}")
    options = {"dataset_dir": str(folder), "output_dir": str(out), "features": [32, 32, 64, 128, 256, 32]}
    run(workflow("train", 2, epochs=1, **options))  # from the prior: a picture that can be recognized
    run(workflow("inference", 2, **options))
    with Image.open(out / "denoised" / f"x_denoised{suffix}") as picture:
        written = np.asarray(picture)
    assert written.shape == noisy.shape
    assert written.dtype == (np.uint8 if suffix == ".png" else np.float32)
    assert abs(written.mean() - noisy.mean()) < noisy.std()
    assert np.corrcoef(written.ravel(), noisy.ravel())[0, 1] > 0.3, "the picture came back turned"


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("kind", ["train", "inference"])
def test_bundle_properties_complete(kind, spatial_dims, images, tmp_path):
    out = tmp_path / "out"
    if kind == "inference":
        run(workflow("train", spatial_dims, epochs=1, dataset_dir=str(images), output_dir=str(out)))
    flow = workflow(kind, spatial_dims, dataset_dir=str(images), output_dir=str(out))
    flow.initialize()
    assert flow.check_properties() == []


def test_same_seed_same_weights_other_seed_other(images, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(workflow("train", 3, epochs=1, seed=seed, dataset_dir=str(images), output_dir=str(tmp_path / name)))
    laws.states_are_equal(weights(tmp_path / "a"), weights(tmp_path / "b"))
    with pytest.raises(AssertionError):
        laws.states_are_equal(weights(tmp_path / "a"), weights(tmp_path / "c"))


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_resumed_training_equals_uninterrupted(spatial_dims, images, tmp_path, monkeypatch):
    options = {"dataset_dir": str(images), "lr_scheduler#patience": 0, "lr_scheduler#threshold": 10.0}
    run(workflow("train", spatial_dims, epochs=4, output_dir=str(tmp_path / "whole"), **options))

    broken = workflow("train", spatial_dims, epochs=4, output_dir=str(tmp_path / "parts"), **options)
    broken.initialize()
    trainer = broken.parser.get_parsed_content("train#trainer")
    from ignite.engine import Events

    @trainer.on(Events.ITERATION_STARTED(once=8))
    def interrupt(engine):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken.run()
    assert not (tmp_path / "parts" / "models" / "model.pt").exists()
    resumed = run(workflow("train", spatial_dims, epochs=4, resume=True, output_dir=str(tmp_path / "parts"), **options))
    laws.states_are_equal(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert resumed.parser.get_parsed_content("optimizer").param_groups[0]["lr"] < 3e-3, "the plateau never came"
    assert isinstance(resumed.parser.get_parsed_content("train#handlers")[-1], ResumableCheckpoints)


def test_validation_repeats_bit_for_bit(images, tmp_path):
    flow = workflow("train", 2, epochs=1, dataset_dir=str(images), output_dir=str(tmp_path))
    flow.initialize()
    evaluator = flow.parser.get_parsed_content("validate#evaluator")
    losses = []
    for _ in range(2):
        evaluator.run()
        losses.append(evaluator.state.metrics["val_loss"])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_thin_real_volume_trains_and_denoises(spatial_dims, nibabel_data, tmp_path):
    data = nibabel.load(nibabel_data / "functional.nii").get_fdata(dtype=np.float32)[..., :2]
    assert data.shape == (17, 21, 3, 2)
    image = MetaTensor(torch.from_numpy(np.moveaxis(data, -1, 0).copy()))
    bundle = find_bundle(f"n2v_denoise_{spatial_dims}d")
    small = {"device": "$torch.device('cpu')"}
    train(
        bundle,
        [{"image": image}],
        tmp_path,
        ["anneal.json"],
        **SMALL[spatial_dims],
        epochs=2,
        progress=False,
        **small,
    )
    output = Denoiser(resolve_model(tmp_path), features=SMALL[spatial_dims]["features"])(image)
    assert output.shape == (2, 17, 21, 3)
    assert np.isfinite(output).all()


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_multi_channel_images_train_and_denoise(spatial_dims, tmp_path):
    shape = (24, 28, 18)[:spatial_dims]
    noisy = np.stack([phantom(shape, seed=k)[1] * (1 + 9 * k) for k in range(2)])
    bundle = find_bundle(f"n2v_denoise_{spatial_dims}d")
    options = {"in_channels": 2, "device": "$torch.device('cpu')"}
    data = [{"image": MetaTensor(noisy)}]
    train(bundle, data, tmp_path, [], **SMALL[spatial_dims], epochs=1, **{"validate#dataset#data": data}, **options)
    denoiser = Denoiser(resolve_model(tmp_path), in_channels=2, features=SMALL[spatial_dims]["features"])
    output = denoiser(MetaTensor(noisy))
    assert output.shape == noisy.shape
    for k in range(2):
        assert abs(output[k].mean() - noisy[k].mean()) < noisy[k].std()


@pytest.mark.parametrize("scheme", ["network", "footprint"])
def test_overrides_swap_network_and_footprint(scheme, images, tmp_path):
    overrides = {
        "network": {"network_def": {"_target_": "monai_n2v.networks.N2VUNet", "spatial_dims": 3, "features": 4}},
        "footprint": {"footprint": [[[1]], [[1]], [[1]]]},
    }[scheme]
    flow = run(workflow("train", 3, epochs=1, dataset_dir=str(images), output_dir=str(tmp_path), **overrides))
    loader = flow.parser.get_parsed_content("train#dataloader")
    place, *_ = next(iter(loader._store.groups.values()))
    assert (len(place.volume.orders) == 1) == (scheme == "footprint"), "a directional footprint forbids rotations"


@pytest.mark.parametrize(
    ("kind", "overrides", "message"),
    [
        ("train", {"dataset_dir": "/nonexistent"}, "dataset_dir must be an existing folder"),
        ("train", {"dataset_dir": "{empty}"}, "got none below"),
        ("inference", {"dataset_dir": "/nonexistent"}, "dataset_dir must be an existing folder"),
        ("inference", {"dataset_dir": "{images}", "ckpt_path": "{empty}/none.pt"}, "Run train.json first"),
    ],
)
def test_mistakes_are_the_first_exception_in_the_chain(kind, overrides, message, images, tmp_path):
    (tmp_path / "empty").mkdir()
    names = {"{empty}": str(tmp_path / "empty"), "{images}": str(images)}
    overrides = {key: re.sub("{.*}", lambda found: names[found[0]], value) for key, value in overrides.items()}
    flow = workflow(kind, 3, output_dir=str(tmp_path / "out"), **overrides)
    with pytest.raises(Exception) as caught:
        run(flow)
    first: BaseException = caught.value
    while first.__cause__ is not None:
        first = first.__cause__
    assert message in str(first)
    assert isinstance(first, (FileNotFoundError, ValueError))
    assert not (tmp_path / "out" / "denoised").exists()


def test_non_finite_image_named_with_its_file(images, tmp_path):
    bad = phantom((20, 20, 20))[1]
    bad[0, 0, 0] = np.nan
    nibabel.save(nibabel.Nifti1Image(bad, np.eye(4)), images / "bad.nii")
    with pytest.raises(Exception) as caught:
        run(workflow("train", 3, dataset_dir=str(images), output_dir=str(tmp_path), pattern="bad*"))  # alone
    messages, error = [], caught.value
    while error is not None:
        messages.append(str(error))
        error = error.__cause__
    assert "got 1 NaN or infinite voxels" in messages[-1]
    assert "bad.nii" in messages[-1]


@pytest.mark.parametrize("kind", ["truncated", "rgb"])
def test_damaged_or_unfit_file_named_first_in_the_chain(kind, images, tmp_path):
    damaged(kind, images / "bad.nii.gz")
    with pytest.raises(Exception) as caught:
        run(workflow("train", 3, dataset_dir=str(images), output_dir=str(tmp_path), pattern="bad*"))  # alone
    first: BaseException = caught.value
    while first.__cause__ is not None:
        first = first.__cause__
    assert isinstance(first, ValueError)
    assert str(first).startswith(("image must", "path must"))
    assert str(images / "bad.nii.gz") in str(first)


def test_two_sources_of_one_target_refused(images, tmp_path):
    save = SaveDenoisedd(output_dir=str(tmp_path / "out"), data_root_dir=str(images))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(images / "sub" / "volume.nii.gz", elsewhere / "volume.nii.gz")
    pred = torch.rand(1, 20, 24, 18)
    for path in (images / "sub" / "volume.nii.gz", elsewhere / "volume.nii.gz"):
        save({"pred": pred, "image": MetaTensor(pred, meta={"filename_or_obj": str(path)})})
    shutil.copy(elsewhere / "volume.nii.gz", tmp_path / "volume.nii.gz")
    item = {"pred": pred, "image": MetaTensor(pred, meta={"filename_or_obj": str(tmp_path / "volume.nii.gz")})}
    with pytest.raises(ValueError, match="name of its own"):
        save(item)
    assert len(list((tmp_path / "out").rglob("*.nii.gz"))) == 2


def test_resources_found_and_named(root):
    assert find_bundle("n2v_denoise_2d") == root / "bundles" / "n2v_denoise_2d"
    assert find_config("anneal.json") == root / "configs" / "anneal.json"
    with pytest.raises(FileNotFoundError, match="Reinstall monai-n2v"):
        find_bundle("n2v_denoise_4d")


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_bundle_layout_and_shared_defaults(spatial_dims):
    bundle = find_bundle(f"n2v_denoise_{spatial_dims}d")
    for name in ("LICENSE", "docs/README.md", "configs/logging.conf"):
        assert (bundle / name).is_file(), name
    configs = {
        name: json.loads((bundle / "configs" / f"{name}.json").read_text())
        for name in ("train", "inference", "metadata")
    }
    for key in ("features", "divisor", "in_channels", "network_def", "prior_path", "output_dir"):
        assert configs["train"][key] == configs["inference"][key], key
    assert configs["metadata"]["version"] in configs["metadata"]["changelog"]
    assert not (bundle / "models" / "model.pt").exists(), "no weights are shipped"


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_average_best_and_last_weights_and_the_config_are_saved(spatial_dims, images, tmp_path):
    options = {"dataset_dir": str(images), "output_dir": str(tmp_path), "ema": 0.9, "grad_clip": 1}
    flow = run(workflow("train", spatial_dims, epochs=3, **options))
    trained = flow.parser.get_parsed_content("network").state_dict()
    averaged = flow.parser.get_parsed_content("averaged").network
    laws.states_are_equal(weights(tmp_path), averaged.state_dict())
    with pytest.raises(AssertionError):
        laws.states_are_equal(weights(tmp_path), trained)
    assert flow.parser.get_parsed_content("validate#evaluator").network is averaged
    best = torch.load(tmp_path / "models" / "model_best.pt", weights_only=True)
    assert best.keys() == trained.keys()
    record = json.loads(next((tmp_path / "runs").glob("*/config.json")).read_text())
    assert record["ema"] == 0.9
    assert record["network_def"]["_target_"] == "monai_n2v.networks.ReplicateUNet"
    assert record["_meta_"]["run"]["device"] == "cpu"


@pytest.mark.parametrize("ema", [0, 0.9])
def test_average_and_best_survive_a_resume(ema, images, tmp_path):
    options = {"dataset_dir": str(images), "ema": ema}
    run(workflow("train", 2, epochs=4, output_dir=str(tmp_path / "whole"), **options))
    run(workflow("train", 2, epochs=2, output_dir=str(tmp_path / "parts"), **options))
    run(workflow("train", 2, epochs=4, resume=True, output_dir=str(tmp_path / "parts"), **options))
    for name in ("models/model.pt", "models/model_best.pt"):
        laws.states_are_equal(*(torch.load(tmp_path / f / name, weights_only=True) for f in ("whole", "parts")))
    first, second = (torch.load(tmp_path / f / "checkpoints" / "checkpoint_epoch=4.pt") for f in ("whole", "parts"))
    assert first["best"] == second["best"]


def test_diverging_training_saves_nothing_and_says_why(images, tmp_path):
    with pytest.raises(RuntimeError) as caught:
        run(workflow("train", 2, epochs=50, lr=1e30, dataset_dir=str(images), output_dir=str(tmp_path)))
    cause: BaseException = caught.value
    while cause.__cause__ is not None:
        cause = cause.__cause__
    assert str(cause).startswith("loss must be finite, got nan in epoch 1")
    assert not (tmp_path / "models" / "model.pt").exists()
    assert not (tmp_path / "checkpoints").exists()
