# SPDX-License-Identifier: Apache-2.0
"""Series as principal components: there and back, when, and what it is good for."""

from __future__ import annotations

import json
import logging
import math

import nibabel
import numpy as np
import pytest
import torch
from conftest import phantom
from monai.data import MetaTensor

import monai_n2v
from monai_n2v.apps.choose import choose
from monai_n2v.apps.inspect import NoisyImage
from monai_n2v.apps.train import train_network
from monai_n2v.bundle.options import PredictionOptions, TrainingOptions
from monai_n2v.cli.main import main
from monai_n2v.transforms import PrincipalComponentsd, RestoreIntensityd, RestoreVolumesd, StandardizeIntensityd
from monai_n2v.transforms.components import SPREADS, are_components
from monai_n2v.transforms.files import as_meta_tensor

SHAPES = {2: (96, 88), 3: (40, 36, 24)}
SIGMA = 10.0


def clean_series(spatial_dims: int, n_volumes: int = 12) -> np.ndarray:
    """One object, of which a part is brighter in blocks of three volumes, and all of it in every sixth."""
    clean = phantom(SHAPES[spatial_dims])[0]
    part = np.zeros_like(clean)
    part[tuple(slice(side // 4, side // 2) for side in part.shape)] = 40
    return np.stack([(3 if k % 6 == 0 else 1) * clean + (k // 3 % 2) * part for k in range(n_volumes)]).astype(
        np.float32
    )


def noisy_series(spatial_dims: int, n_volumes: int = 12) -> np.ndarray:
    clean = clean_series(spatial_dims, n_volumes)
    return (clean + np.random.default_rng(1).normal(0, SIGMA, clean.shape)).astype(np.float32)


def resampled(spatial_dims: int) -> np.ndarray:
    """As after slice timing: neighbors share noise."""
    volumes = noisy_series(spatial_dims)
    return (volumes[1:] + volumes[:-1]) / 2


def standardized(volumes: np.ndarray) -> MetaTensor:
    return StandardizeIntensityd("image")({"image": MetaTensor(volumes)})["image"]


def components(volumes: np.ndarray, how: str = "together") -> MetaTensor:
    return PrincipalComponentsd("image", how)({"image": standardized(volumes)})["image"]


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("n_volumes", [2, 12])
def test_components_become_the_volumes_again(spatial_dims, n_volumes):
    volumes = noisy_series(spatial_dims, n_volumes)
    volumes[1] = 7.0  # an empty volume stays one
    found = components(volumes)
    back = RestoreVolumesd()({"image": found, "pred": found.as_tensor()})["pred"]
    torch.testing.assert_close(back, standardized(volumes).as_tensor(), atol=1e-4, rtol=0)
    restored = RestoreIntensityd("pred")({"image": found, "pred": back})["pred"]
    np.testing.assert_allclose(restored.numpy(), volumes, atol=0.02)
    assert restored[1].unique().tolist() == [7.0]


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_components_are_uncorrelated_and_share_one_noise(spatial_dims):
    found = components(noisy_series(spatial_dims))
    flat = found.as_tensor().flatten(1).numpy()
    np.testing.assert_allclose(np.cov(flat, bias=True), np.eye(len(flat)), atol=0.02)
    # Two things vary; the rest is noise of one strength.
    spreads = found.meta[SPREADS]
    assert spreads[1] > 1.3 * spreads[2]
    assert spreads[2] < 1.3 * spreads[-1]
    clean, noisy = clean_series(spatial_dims), noisy_series(spatial_dims)
    noise = standardized(noisy).meta["intensity_std"]
    turned = np.linalg.inv(found.meta["components"]) @ ((noisy - clean).reshape(len(noisy), -1) / noise[:, None])
    sigmas = turned.std(axis=1) * spreads
    np.testing.assert_allclose(sigmas, sigmas.mean(), rtol=0.1)


@pytest.mark.parametrize(
    ("volumes", "how", "together", "level", "told"),
    [
        (noisy_series(3), "auto", True, "INFO", "The 12 volumes were denoised together: their noise is independent."),
        (noisy_series(2), "auto", True, "INFO", "The 12 volumes were denoised together"),
        (resampled(3), "auto", False, "INFO", "The 11 volumes were denoised apart: noise is shared between volumes"),
        (
            resampled(3),
            "together",
            True,
            "WARNING",
            "denoised together, but should not be: noise is shared",
        ),
        (noisy_series(3, 5), "auto", False, None, ""),
        (noisy_series(3, 5), "together", True, "INFO", "The 5 volumes were denoised together"),
        (noisy_series(3), "apart", False, None, ""),
        (noisy_series(3, 1), "together", False, None, ""),
        (
            noisy_series(3)[..., :6, :6, :6],
            "auto",
            False,
            "INFO",
            "apart: the noise between volumes could not be measured",
        ),
    ],
)
def test_volumes_are_together_where_their_noise_is_independent(volumes, how, together, level, told, caplog):
    caplog.set_level(logging.INFO, "monai_n2v")
    found = components(volumes, how)
    assert are_components(found) is together
    RestoreVolumesd()({"image": found, "pred": found.as_tensor()})
    assert [record.levelname for record in caplog.records] == ([level] if level else [])
    assert told in caplog.text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PrincipalComponentsd("image", "both"), "volumes must be one of auto, together, apart, got 'both'"),
        (lambda: TrainingOptions(volumes="both"), "volumes must be one of auto, together, apart, got 'both'"),
        (lambda: PredictionOptions(volumes=8), "volumes must be one of auto, together, apart, got 8"),
        (
            lambda: TrainingOptions(volumes="together", scheme="renoised"),
            "scheme must be auto, n2v or prior with volumes together, got renoised",
        ),
    ],
)
def test_contradictions_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_together_is_far_better_than_apart_and_bright_volumes_are_no_exception(spatial_dims):
    clean, noisy = clean_series(spatial_dims, 7), noisy_series(spatial_dims, 7)
    options = {"scheme": "prior", "device": "cpu", "spatial_dims": spatial_dims, "magnitude": "off"}
    volumes = torch.from_numpy(noisy if spatial_dims == 3 else noisy[..., None])
    errors = {}
    for how in ("together", "apart"):
        found = monai_n2v.denoise(volumes, volumes=how, **options).numpy().reshape(clean.shape)
        errors[how] = np.sqrt(((found - clean) ** 2).reshape(len(clean), -1).mean(axis=1))
    assert errors["together"].mean() < 0.75 * errors["apart"].mean()
    assert errors["together"].max() < 0.5 * SIGMA


@pytest.mark.parametrize("strengths", [[15] * 4 + [60] + [15] * 6, [40, 30, 22, 16, 12, 9, 7, 5], [4, *[15] * 7]])
def test_volumes_with_noise_of_their_own_are_no_worse_than_apart(strengths):
    clean, rng = clean_series(3, len(strengths)), np.random.default_rng(3)
    noisy = np.stack([one + rng.normal(0, sigma, one.shape) for one, sigma in zip(clean, strengths)])
    options = {"scheme": "prior", "device": "cpu", "spatial_dims": 3, "magnitude": "off"}
    errors = {}
    for how in ("together", "apart"):
        found = monai_n2v.denoise(torch.from_numpy(noisy.astype(np.float32)), volumes=how, **options).numpy()
        errors[how] = np.sqrt(((found - clean) ** 2).reshape(len(clean), -1).mean(axis=1))
    assert (errors["together"] < 1.1 * errors["apart"]).all(), errors
    assert (errors["together"] < strengths).all()


def test_a_change_in_one_volume_alone_stays_there():
    clean, noisy = clean_series(3, 8), noisy_series(3, 8)
    ball = tuple(slice(side // 2, side // 2 + 5) for side in SHAPES[3])
    for image in (clean, noisy):
        image[7][ball] += 40
    found = monai_n2v.denoise(torch.from_numpy(noisy), scheme="prior", device="cpu", magnitude="off").numpy()
    gained = [float((found[k] - clean[k])[ball].mean()) for k in range(len(clean))]
    assert abs(gained[7]) < 12, "of 40"
    assert max(map(abs, gained[:7] + gained[8:])) < 6, "others do not show it"


def image(values: np.ndarray) -> NoisyImage:
    return NoisyImage.of(as_meta_tensor(values, [1.0] * (values.ndim - 1)))


def test_a_series_that_is_denoised_together_needs_no_training():
    found = choose([image(noisy_series(3, 6))], TrainingOptions(spatial_dims=3))
    assert (found.scheme, found.reason) == (
        "prior",
        "volumes that are denoised together tell more than a training would",
    )
    apart = choose([image(noisy_series(3, 6))], TrainingOptions(spatial_dims=3, volumes="apart"))
    assert apart.scheme == "n2v", "noise that is alike differs where each is standardized by itself"


@pytest.mark.usefixtures("short_epochs")
@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize(("scheme", "kept"), [("n2v", "auto"), ("recorrupted", "apart")])
def test_a_trained_bundle_says_how_series_are_denoised(spatial_dims, scheme, kept, tmp_path):
    noisy = noisy_series(3, 6)
    options = TrainingOptions(1, scheme=scheme, spatial_dims=spatial_dims)
    network, _ = train_network([image(noisy)], tmp_path / "model", options)
    configs = {
        name: json.loads((network.bundle / "configs" / f"{name}.json").read_text()) for name in ("train", "inference")
    }
    assert {config["volumes"] for config in configs.values()} == {kept}
    found = monai_n2v.denoise(torch.from_numpy(noisy), model=network.bundle, device="cpu", magnitude="off").numpy()
    assert math.isfinite(float(found.sum()))


def test_the_command_says_how_it_was_done_and_does_it_as_asked(tmp_path, capsys):
    source = tmp_path / "dwi.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.moveaxis(noisy_series(3, 6), 0, -1), np.eye(4)), source)
    command = ["denoise", "-i", str(source), "--device", "cpu", "--fast", "--json"]
    results = {}
    for how in ("auto", "apart"):
        target = tmp_path / f"{how}.nii.gz"
        assert main([*command, "-o", str(target), "--volumes", how]) == 0
        told = capsys.readouterr()
        record = json.loads(told.out.splitlines()[-1])
        assert record["volumes"] == ("together" if how == "auto" else "apart")
        assert ("The 6 volumes were denoised together" in told.err) == (how == "auto")
        results[how] = nibabel.load(target).get_fdata()
    assert not np.array_equal(results["auto"], results["apart"])
