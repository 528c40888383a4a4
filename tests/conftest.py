# SPDX-License-Identifier: Apache-2.0
"""Where the tests find images: phantoms made here, files that installed packages ship, real data where present."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)  # two threads beside a busy process can be fifty times slower than one


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def nibabel_data() -> Path:
    """Real small images inside nibabel; absent from some distributions' packages."""
    folder = Path(nibabel.__file__).parent / "tests" / "data"
    if not folder.is_dir():
        pytest.skip("this nibabel ships no test images")
    return folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    folder = Path(os.environ.get("MONAI_N2V_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no real data: set MONAI_N2V_DATA")
    return folder


@pytest.fixture
def short_epochs(monkeypatch):
    """One epoch of two steps: these tests look at files and words, not at quality."""
    import monai_n2v.apps.train as training

    train = training.train
    monkeypatch.setattr(training, "train", lambda *args, **kwargs: train(*args, **{**kwargs, "epoch_length": 2}))


def phantom(shape: tuple[int, ...], sigma: float = 10.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Smooth blobs between 0 and 100, and the same with white Gaussian noise; float32."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    radius = np.sqrt(sum(a**2 for a in axes))
    clean = 50 + 30 * np.tanh(8 * (0.7 - radius)) + 20 * np.sin(6 * axes[0]) * np.cos(5 * axes[-1])
    noisy = clean + np.random.default_rng(seed).normal(0, sigma, shape)
    return clean.astype(np.float32), noisy.astype(np.float32)


@pytest.fixture
def noisy_folder(tmp_path: Path) -> Path:
    """A folder with one noisy 3D NIfTI file, oblique and left-handed."""
    folder = tmp_path / "images"
    folder.mkdir()
    nibabel.save(oblique_nifti(phantom((32, 36, 24))[1]), folder / "noisy.nii.gz")
    return folder


def oblique_nifti(data: np.ndarray) -> nibabel.Nifti1Image:
    """A NIfTI image whose header uses everything that is easily lost."""
    c, s = np.cos(0.3), np.sin(0.3)
    rotation = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([-0.9, 1.1, 2.5])
    affine[:3, 3] = [12.5, -30.25, 7.0]
    image = nibabel.Nifti1Image(data, affine)
    image.set_sform(affine, code=2)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm", "msec")
    image.header["descrip"] = b"a phantom"
    image.header["pixdim"][4] = 2500.0
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"keep me"))
    return image
