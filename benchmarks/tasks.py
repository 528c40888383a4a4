# SPDX-License-Identifier: Apache-2.0
"""The denoising tasks that programs and settings are compared on.

It needs NumPy, Pillow and nibabel alone, so that peers can import it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = ["COLIN27_CROP", "TASKS", "Task", "colin27", "colin27_crop", "data_folder", "m4raw_slices", "psnr", "set12"]

ROOT = Path(__file__).resolve().parent.parent
COLIN27_CROP = (slice(50, 146), slice(60, 156), slice(50, 146))


@dataclass(frozen=True)
class Task:
    """Noisy images to train on and to denoise, and what they are scored against.

    Attributes:
        name: of the task.
        noisy: float32 images of the same number of axes, neither clipped nor rounded.
        clean: the same without noise.
        sigma: standard deviation of the white Gaussian noise.
        peak: range of the PSNR.
    """

    name: str
    noisy: list[np.ndarray]
    clean: list[np.ndarray]
    sigma: float
    peak: float

    @property
    def spatial_dims(self) -> int:
        """Axes of the images."""
        return self.noisy[0].ndim

    def score(self, outputs: Sequence[np.ndarray]) -> float:
        """Mean PSNR over the images in dB; float, neither clipped nor rounded."""
        return float(
            np.mean([psnr(output, clean, self.peak) for output, clean in zip(outputs, self.clean, strict=True)])
        )


def psnr(output: np.ndarray, clean: np.ndarray, peak: float | None = None) -> float:
    """Peak signal-to-noise ratio in dB; the range is ``peak``, or the clean image's maximum."""
    error = np.mean((output.astype(np.float64) - clean) ** 2)
    return float(10 * np.log10((float(clean.max()) if peak is None else peak) ** 2 / error))


def data_folder() -> Path:
    """Folder of the real images."""
    return Path(os.environ.get("MONAI_N2V_DATA", ROOT.parent / "shared" / "data"))


def set12(sigma: float = 25.0) -> Task:
    """Set12, the images of 512 pixels cropped to their central 256; one generator for all; peak 255."""
    from PIL import Image

    rng = np.random.default_rng(0)
    clean = []
    for path in sorted((data_folder() / "bsd68" / "Set12").glob("*.png")):
        image = np.asarray(Image.open(path), dtype=np.float32)
        low = [(side - 256) // 2 for side in image.shape]
        clean.append(image[low[0] : low[0] + 256, low[1] : low[1] + 256])
    noisy = [(image + rng.normal(0, sigma, image.shape)).astype(np.float32) for image in clean]
    return Task("set12" if sigma == 25 else f"set12, sigma {sigma:g}", noisy, clean, sigma, 255.0)


def colin27_crop(crop: tuple[slice, ...], sigma: float = 12.0, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Crop of the Colin27 T1 volume, and the same with white Gaussian noise; float32, unclipped."""
    import nibabel

    image = nibabel.load(data_folder() / "clean_mri_3d" / "colin27_ch2_1mm.nii.gz")
    clean = np.asarray(image.dataobj, dtype=np.float32)[crop]
    noise = np.random.default_rng(seed).normal(0, sigma, clean.shape)
    return clean, (clean + noise).astype(np.float32)


def colin27() -> Task:
    """Crop [50:146, 60:156, 50:146] of the Colin27 T1 volume; sigma 12; peak is the clean crop's maximum."""
    clean, noisy = colin27_crop(COLIN27_CROP)
    return Task("colin27", [noisy], [clean], 12.0, float(clean.max()))


def m4raw_slices(contrast: str) -> Task:
    """Slices of the first repeat of an M4Raw scan; nothing is clean, `benchmarks.paper.medical` scores by repeats."""
    from PIL import Image

    files = sorted((data_folder() / "m4raw" / f"{contrast}_rep1").glob("*.png"))
    noisy = [np.asarray(Image.open(file), dtype=np.float32) for file in files]
    return Task(f"m4raw_{contrast}", noisy, noisy, float("nan"), 255.0)


TASKS: dict[str, Callable[[], Task]] = {
    "set12": set12,
    "set12_sigma10": lambda: set12(10.0),
    "set12_sigma50": lambda: set12(50.0),
    "colin27": colin27,
    "m4raw_T1": lambda: m4raw_slices("T1"),
    "m4raw_T2": lambda: m4raw_slices("T2"),
}
