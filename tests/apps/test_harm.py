# SPDX-License-Identifier: Apache-2.0
"""Do no harm: an image without noise comes back nearly as it was, or the tool says that there is nothing to remove."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest
from conftest import phantom
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio

from monai_n2v.cli.main import main


def denoised(clean: np.ndarray, folder, capsys, *options: str) -> tuple[np.ndarray, dict, str]:
    nibabel.save(nibabel.Nifti1Image(clean, np.eye(4)), folder / "in.nii")
    arguments = ["denoise", "-i", folder / "in.nii", "-o", folder / "out.nii", "--json", "--device", "cpu", *options]
    assert main([str(a) for a in arguments]) == 0
    captured = capsys.readouterr()
    return nibabel.load(folder / "out.nii").get_fdata(), json.loads(captured.out), captured.err


def is_unharmed_or_warned(clean: np.ndarray, output: np.ndarray, err: str) -> None:
    psnr = peak_signal_noise_ratio(clean, output, data_range=float(np.ptp(clean)))
    warned = any(line.startswith("warning: ") for line in err.splitlines())
    assert psnr >= 45 or warned, f"{psnr:.1f} dB and not a word"
    assert abs(output.mean() - clean.mean()) < 1e-3 * np.ptp(clean)


@pytest.mark.parametrize("shape", [(64, 60), (32, 30, 28)])
def test_clean_phantom(shape, tmp_path, capsys):
    clean = gaussian_filter(phantom(shape)[0], 1)
    output, _, err = denoised(clean, tmp_path, capsys, "--fast")
    is_unharmed_or_warned(clean, output, err)
    assert "Train longer" not in err, "nothing was trained"


@pytest.mark.slow
def test_clean_brain(real_data, tmp_path, capsys):
    image = nibabel.load(real_data / "clean_mri_3d" / "colin27_ch2_1mm.nii.gz")
    clean = gaussian_filter(np.asarray(image.dataobj, dtype=np.float32)[40:136, 50:146, 40:136], 1)
    output, _, err = denoised(clean, tmp_path, capsys)
    is_unharmed_or_warned(clean, output, err)


@pytest.mark.slow
def test_noisy_brain_is_not_warned_of_lacking_noise(real_data, tmp_path, capsys):
    image = nibabel.load(real_data / "clean_mri_3d" / "colin27_ch2_1mm.nii.gz")
    clean = np.asarray(image.dataobj, dtype=np.float32)[50:114, 60:124, 50:114]
    noisy = (clean + np.random.default_rng(1).normal(0, 12, clean.shape)).astype(np.float32)
    output, record, err = denoised(noisy, tmp_path, capsys)
    assert "warning: " not in err
    assert abs(output.mean() - noisy.mean()) < 1e-3 * np.ptp(noisy)
    assert record["warnings"] == []
