# SPDX-License-Identifier: Apache-2.0
"""What is looked at before an image is trained on or denoised: device, voxels, and the summary a training records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor

from monai_n2v.io.images import read_volume
from monai_n2v.io.volume import Volume, check_finite, where
from monai_n2v.noise.noise_map import NoiseMap
from monai_n2v.transforms.axes import MIN_DEPTH

# Squares of larger values, and of the inverse of smaller ones, leave float32.
_LARGEST = 1e18


def choose_device(device: str) -> str:
    """Resolve ``"auto"`` to the GPU where there is one, and check that the device exists.

    Args:
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.

    Returns:
        a device torch knows.

    Raises:
        ValueError: for a device this machine does not have.
    """
    if device == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device must be one of this machine, got {device!r}. Use auto or cpu.") from error
    return device


def check_image(volumes: np.ndarray, name: str = "") -> None:
    """Refuse what cannot be denoised.

    Args:
        volumes: ``(n_volumes, *spatial)``.
        name: for messages.

    Raises:
        ValueError: for complex or other non-numbers, NaN or infinity, fewer than 8 voxels along every axis,
            volumes that are all constant, or values that are too large or too small to compute with.
    """
    if volumes.size == 0:
        raise ValueError(f"image must have voxels, got shape {volumes.shape}{where(name)}. Check how it was cut.")
    if volumes.dtype.kind not in "biuf":
        raise ValueError(f"image must hold real numbers, got {volumes.dtype}{where(name)}. Take the magnitude first.")
    if max(volumes.shape[1:]) < MIN_DEPTH:
        raise ValueError(
            f"image must have at least {MIN_DEPTH} voxels along some axis, got {volumes.shape[1:]}{where(name)}. "
            "Noise2Void learns from the neighborhood of each voxel."
        )
    check_finite(int(volumes.size - np.isfinite(volumes).sum()), name)
    if all(volume.min() == volume.max() for volume in volumes):
        constants = " and ".join(f"{value:g}" for value in sorted({float(volume.min()) for volume in volumes})[:2])
        raise ValueError(f"image must vary, got the constant {constants}{where(name)}. There is nothing to denoise.")
    largest = max(abs(float(volumes.min())), abs(float(volumes.max())))
    if not 1 / _LARGEST <= largest <= _LARGEST:
        raise ValueError(
            f"image must have a largest value from {1 / _LARGEST:g} to {_LARGEST:g} in size, got {largest:g}"
            f"{where(name)}. Scale it first."
        )


def sentence_of(error: Exception, name: object) -> str:
    """What is wrong, in one line that names the image.

    Args:
        error: that was raised.
        name: of the image.
    """
    known = isinstance(error, (ValueError, TypeError, OSError, FloatingPointError))
    text = " ".join(str(error).split())
    text = text if known else f"{type(error).__name__}: {text} Use -vv to see where."
    return text if str(name) in text else f"{text} ({name})"


@dataclass(frozen=True)
class NoisyImage:
    """An image to train on, and what a training records of it.

    Attributes:
        image: what `LoadNoisyd` takes: a path, a `Volume`, or a tensor ``(n_volumes, *spatial)``.
        shape: ``(n_volumes, *spatial)``.
        spacing: voxel sides in mm, one per spatial axis.
        mean: of all voxels.
        std: of all voxels.
        name: for messages.
        series: of a folder with several DICOM series, the one that was looked at.
    """

    image: str | Volume | MetaTensor
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    mean: float
    std: float
    name: str = ""
    series: str | None = None

    @classmethod
    def of(cls, image: Volume | MetaTensor, noise_map: NoiseMap | None = None) -> NoisyImage:
        """Look at an image.

        Args:
            image: as read, or a tensor.
            noise_map: that is to serve it.

        Raises:
            ValueError: for one that cannot be denoised, see `check_image`, or of another grid than the map.
        """
        affine: np.ndarray | None = None
        if isinstance(image, Volume):
            values, spacing, name, affine = image.data, image.spacing, image.path, image.source.affine
        else:
            values, spacing, name = image.numpy(), tuple(image.pixdim.tolist()), ""
        check_image(values, name)
        if noise_map is not None:
            noise_map.check_grid(values.shape[1:], affine, name)
            noise_map.check_smoother(values, name)
        mean, std = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
        return cls(image, values.shape, spacing[: values.ndim - 1], mean, std, name)


def read_images(
    sources: Sequence[Path],
    series: str | None = None,
    noise_map: NoiseMap | None = None,
    loaded: Mapping[str, Volume] | None = None,
) -> tuple[list[NoisyImage], list[str]]:
    """Look at images to train on.

    Args:
        sources: files, and folders of DICOM series.
        series: of folders with several series.
        noise_map: that is to serve all of them.
        loaded: images that have been read already, by path.

    Returns:
        the images, of several the files alone, and what is wrong with those that cannot be trained on.

    Raises:
        ValueError: where no image is left.
    """
    images: list[NoisyImage] = []
    faults: list[str] = []
    for source in sources:
        try:
            volume = (loaded or {}).get(str(source)) or read_volume(source, series)
            image = replace(NoisyImage.of(volume, noise_map), series=series)
        except Exception as error:
            if len(sources) == 1:
                raise
            faults.append(sentence_of(error, source))
        else:
            images.append(image if len(sources) == 1 else replace(image, image=image.name))
    if not images:
        raise ValueError(f"IN must hold an image to train on, got {len(faults)} faulty ones. The first: {faults[0]}")
    return images, faults
