# SPDX-License-Identifier: Apache-2.0
"""That the whole program denoises, and by how much."""

from __future__ import annotations

import subprocess
import sys

import nibabel
import numpy as np
import pytest
import torch
from conftest import phantom
from monai.data import MetaTensor
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio

import monai_n2v
from benchmarks.speed.intensity import shift
from monai_n2v.bundle import Denoiser, find_bundle, resolve_model, train


def psnr(clean: np.ndarray, output: np.ndarray) -> float:
    return peak_signal_noise_ratio(clean, output, data_range=float(clean.max()))


@pytest.mark.parametrize(("shape", "epochs"), [((96, 96), 10), ((32, 36, 28), 10)])
@pytest.mark.slow
def test_denoise_beats_noisy_image_by_far(shape, epochs):
    clean, noisy = phantom(shape, sigma=15)
    output = monai_n2v.denoise(noisy, epochs=epochs, scheme="n2v", prior=False, device="cpu")
    assert psnr(clean, output) > psnr(clean, noisy) + 5
    assert abs(float(output.mean() - noisy.mean())) < 1


@pytest.mark.slow
def test_denoise_keeps_an_image_without_noise():
    clean, _ = phantom((96, 96))
    assert psnr(clean, monai_n2v.denoise(clean, scheme="prior", device="cpu")) > 35


def colin_crop(real_data, side: int) -> tuple[np.ndarray, np.ndarray]:
    image = nibabel.load(real_data / "clean_mri_3d" / "colin27_ch2_1mm.nii.gz")
    clean = np.asarray(image.dataobj, dtype=np.float32)[50 : 50 + side, 60 : 60 + side, 50 : 50 + side]
    return clean, (clean + np.random.default_rng(1).normal(0, 12, clean.shape)).astype(np.float32)


@pytest.mark.slow
def test_two_minutes_gain_5_db_on_a_brain(real_data, tmp_path):
    clean, noisy = colin_crop(real_data, 64)
    nibabel.save(nibabel.Nifti1Image(noisy, np.eye(4)), tmp_path / "noisy.nii.gz")
    command = [sys.executable, "-m", "monai_n2v.cli", "denoise", "-i", "noisy.nii.gz", "-o", "out.nii.gz"]
    subprocess.run([*command, "--max-time", "120", "--device", "cpu"], cwd=tmp_path, check=True)
    output = nibabel.load(tmp_path / "out.nii.gz").get_fdata()
    assert psnr(clean, output) > psnr(clean, noisy) + 5
    assert psnr(clean, output) > max(psnr(clean, gaussian_filter(noisy, s)) for s in (0.6, 0.8, 1.0))


@pytest.mark.slow
@pytest.mark.parametrize(("spatial_dims", "tile"), [(2, 144), (3, 80)])
def test_seams_of_a_trained_network_below_the_noise(spatial_dims, tile, real_data, tmp_path):
    _, noisy = colin_crop(real_data, 96)
    image = MetaTensor(torch.from_numpy(noisy[None]))
    if spatial_dims == 2:
        slices = np.concatenate([np.concatenate([noisy[:, :, k], noisy[:, :, k + 9]]) for k in (10, 60)], axis=1)
        image = MetaTensor(torch.from_numpy(slices[None]))
    bundle = find_bundle(f"n2v_denoise_{spatial_dims}d")
    options = {"device": "$torch.device('cpu')"}
    train(bundle, [{"image": image}], tmp_path, ["anneal.json"], epochs=1, progress=False, **options)
    outputs = [Denoiser(resolve_model(tmp_path), tile_size=[side] * spatial_dims)(image) for side in (tile, 256)]
    # BasicUNet sees farther than the halo: of all voxels one in a thousand may differ by a seventh of the noise.
    assert np.quantile(np.abs(outputs[0] - outputs[1]), 0.999) <= 0.15 * 12
    assert np.abs(outputs[0] - outputs[1]).max() > 0, "nothing was cut into tiles"


@pytest.mark.slow
def test_a_real_ct_is_denoised_and_neither_shifted_nor_sharpened(real_data):
    noisy = np.asarray(nibabel.load(real_data / "ct_3d" / "totalseg_aorta_ct_1p5mm_noisy.nii.gz").dataobj, np.float32)
    denoised = monai_n2v.denoise(noisy, epochs=8, seed=1, device="cpu")
    found = shift(noisy, denoised)
    # From random weights, batch norm shifted contrast agent by 65 HU, and vessels lost 40 % of their contrast.
    assert all(abs(mean) < 20 for mean in found["tissues"].values()), found
    assert found["low_pass_std"] < 10, found
    assert 0.75 < found["vessel_gain"] < 1.05, found
    assert found["lung_spread"] < 1, found
    assert found["calm_spread"] < 0.75, found


@pytest.mark.parametrize("shape", [(96, 88), pytest.param((48, 48, 40), marks=pytest.mark.slow)])
def test_prior_is_as_good_on_large_images(shape):
    """Its deepest layers must not lean on the border, which is never far in the small patches of a training."""
    clean, noisy = phantom(shape, sigma=15)
    small = monai_n2v.denoise(noisy, scheme="prior", spatial_dims=len(shape), device="cpu")
    continued = np.pad(noisy, 40, mode="reflect")
    large = monai_n2v.denoise(continued, scheme="prior", spatial_dims=len(shape), device="cpu")
    assert psnr(clean, large[(slice(40, -40),) * len(shape)]) > psnr(clean, small) - 0.3
