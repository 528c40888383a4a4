# SPDX-License-Identifier: Apache-2.0
"""The overlays in configs/ that are training schemes or presets, run on both bundles."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from conftest import ROOT, phantom
from ignite.engine import Events
from monai.bundle import ConfigWorkflow
from tiny import SMALL, run

from monai_n2v.bundle import find_bundle, find_config
from monai_n2v.networks import N2VUNet

SCHEMES = [
    "noise2noise",
    "supervised",
    "n2v2",
    "structn2v",
    "renoised",
    "recorrupted",
    "paper/bsd68",
    "paper/epithelia",
    "paper/microscopy",
]
OWN_NETWORK = {"n2v2", "paper/bsd68", "paper/epithelia", "paper/microscopy"}
OF_THE_PRIOR = {"renoised", "recorrupted"}
# What a scheme lies over, besides train.json.
BELOW = {"noise2noise": ["supervised"]}


def workflow(kind: str, scheme: str, spatial_dims: int, folder: Path, **overrides) -> ConfigWorkflow:
    configs = find_bundle(f"n2v_denoise_{spatial_dims}d") / "configs"
    small = dict(SMALL[spatial_dims]) if kind == "train" else {"features": SMALL[spatial_dims]["features"]}
    if kind == "inference" and scheme in OF_THE_PRIOR:
        small = {}
    if scheme in OWN_NETWORK:
        small["features"] = 4
    if kind == "train":
        small["epochs"] = 2
        if scheme in OF_THE_PRIOR:
            del small["features"]  # they need the prior's network
        if scheme in ("supervised", "noise2noise"):
            small["target_dir"] = str(folder / "targets")
    laid_over = scheme != "n2v" and (kind == "train" or scheme in OWN_NETWORK)
    names = [*BELOW.get(scheme, []), scheme] if laid_over else []
    return ConfigWorkflow(
        config_file=[str(configs / f"{kind}.json"), *(str(find_config(f"{name}.json")) for name in names)],
        workflow_type=kind,
        logging_file=False,
        meta_file=str(configs / "metadata.json"),
        bundle_root=str(configs.parent),
        dataset_dir=str(folder / "images"),
        output_dir=str(folder / "out"),
        device="$torch.device('cpu')",
        **{**small, **overrides},
    )


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two noisy volumes; as targets, their clean versions, one of another suffix."""
    for name in ("images", "targets"):
        (tmp_path / name / "sub").mkdir(parents=True)
    for seed, (name, other) in enumerate([("a.nii.gz", "a.nii"), ("sub/b.nii.gz", "sub/b.nii.gz")]):
        clean, noisy = phantom((20, 24, 18), sigma=20, seed=seed)
        nibabel.save(nibabel.Nifti1Image(noisy, np.eye(4)), tmp_path / "images" / name)
        nibabel.save(nibabel.Nifti1Image(clean, np.eye(4)), tmp_path / "targets" / other)
    return tmp_path


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_scheme_trains_and_its_network_denoises(scheme, spatial_dims, folder):
    flow = workflow("train", scheme, spatial_dims, folder)
    flow.initialize()
    assert flow.check_properties() == []
    flow.run()
    flow.finalize()
    run(workflow("inference", scheme, spatial_dims, folder))
    written = sorted(path.name for path in (folder / "out" / "denoised").rglob("*.nii.gz"))
    assert written == ["a_denoised.nii.gz", "b_denoised.nii.gz"]
    data = nibabel.load(folder / "out" / "denoised" / "a_denoised.nii.gz").get_fdata()
    assert data.shape == (20, 24, 18)
    assert np.isfinite(data).all()


@pytest.mark.parametrize("scheme", ["n2v", "supervised", "noise2noise", "renoised", "recorrupted"])
def test_noise_map_reaches_every_scheme(scheme, folder):
    strength = np.linspace(1, 3, 20)[:, None, None] * np.ones((20, 24, 18))
    nibabel.save(nibabel.Nifti1Image(strength.astype(np.float32), np.eye(4)), folder / "map.nii")
    plain, evened = (workflow("train", scheme, 3, folder, noise_map=path) for path in (None, str(folder / "map.nii")))
    images = []
    for flow in (plain, evened):
        flow.initialize()
        names = ["train#dataset", *(["noisy_images"] if scheme in OF_THE_PRIOR else [])]
        found = [flow.parser.get_parsed_content(name)[0] for name in names]
        assert all(np.array_equal(one["image"], found[0]["image"]) for one in found)
        meta = found[0]["image"].meta
        keys = ["image", "label"] if scheme in ("supervised", "noise2noise") else ["image"]
        images += [[found[0][key].numpy()[0] * meta["intensity_std"] + meta["intensity_mean"] for key in keys]]
    for before, after in zip(*images):
        np.testing.assert_allclose(after * strength / np.median(strength), before, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_supervised_training_learns(spatial_dims, folder):
    options = {"epochs": 12, "epoch_length": 8, "lr": 0.01, "features": [8, 8, 8, 8, 8, 8]}
    flow = workflow("train", "supervised", spatial_dims, folder, **options)
    flow.initialize()
    losses = []
    trainer = flow.parser.get_parsed_content("train#trainer")
    trainer.add_event_handler(
        Events.EPOCH_COMPLETED, lambda engine: losses.append(float(engine.state.metrics["train_loss"]))
    )
    flow.run()
    flow.finalize()
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize(("scheme", "exchanged"), [("supervised", False), ("noise2noise", True)])
def test_pairs_are_cut_at_one_place(scheme, exchanged, spatial_dims, folder):
    flow = workflow("train", scheme, spatial_dims, folder, batch_size=16)
    flow.initialize()
    for part in ("train", "validate"):
        noisier = []
        for batch in flow.parser.get_parsed_content(f"{part}#dataloader"):
            assert not torch.equal(batch["image"], batch["label"])
            assert "mask" not in batch
            pairs = torch.stack([batch["image"].flatten(1), batch["label"].flatten(1)], 1).numpy()
            assert np.mean([np.corrcoef(pair)[0, 1] for pair in pairs]) > 0.3, "they show different places"
            noisier += [image.diff().std() > label.diff().std() for image, label in torch.from_numpy(pairs)]
        assert any(noisier)
        assert all(noisier) != exchanged, "each image serves as input and as target"


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_n2v2_fills_by_median_and_has_no_top_skip(spatial_dims, folder):
    flow = workflow("train", "n2v2", spatial_dims, folder)
    flow.initialize()
    network = flow.parser.get_parsed_content("network_def")
    plain = N2VUNet(spatial_dims, features=4)
    assert flow.parser.get_parsed_content("train#pairing").masker.fill == "median"
    first = [
        next(m.in_channels for m in n.up[-1].convs.modules() if hasattr(m, "in_channels")) for n in (network, plain)
    ]
    assert first[0] == first[1] - 4, "the last level sees the upsampled maps alone"


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("axis", [0, -1])
def test_structn2v_hides_the_whole_line_and_forbids_rotation(spatial_dims, axis, folder):
    flow = workflow("train", "structn2v", spatial_dims, folder, footprint_axis=axis, footprint_length=3)
    flow.initialize()
    loader = flow.parser.get_parsed_content("train#dataloader")
    batch = next(iter(loader))
    changed = batch["image"] != batch["label"]
    sites = torch.nonzero(batch["mask"])
    along = 2 + axis % spatial_dims
    for site in sites:
        for step in (-1, 0, 1):
            voxel = site.clone()
            voxel[along] += step
            if 0 <= voxel[along] < changed.shape[along]:
                assert changed[tuple(voxel)]
    assert changed.sum() > 2 * len(sites)
    validation = next(iter(flow.parser.get_parsed_content("validate#dataloader")))
    assert (validation["image"] != validation["label"]).sum() > 2 * validation["mask"].sum()


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_paper_setting_is_that_of_the_paper(spatial_dims, folder):
    flow = workflow("train", "paper/bsd68", spatial_dims, folder)
    config = json.loads(find_config("paper/bsd68.json").read_text())
    for key in ("patch_size", "batch_size", "features"):
        flow.parser[key] = config[key]
    flow.initialize()
    value = flow.parser.get_parsed_content
    assert value("patch_size") == [64] * spatial_dims
    assert value("batch_size") * 64**spatial_dims == 128 * 64**2
    assert value("mask_fraction") * 64**2 == 64
    assert (value("features"), value("radius"), value("fill"), value("lr")) == (96, 5, "uniform", 4e-4)
    assert value("ema") == 0


def test_overlays_are_described_and_documented():
    documented = (ROOT / "docs" / "how-to" / "schemes.md").read_text()
    for name in SCHEMES:
        config = json.loads(find_config(f"{name}.json").read_text())
        assert config["_desc_"]
        assert f"configs/{name}.json" in documented
