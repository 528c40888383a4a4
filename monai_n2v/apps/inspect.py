# SPDX-License-Identifier: Apache-2.0
"""What is looked at before an image is trained on or denoised: device, voxels, and the summary a training records."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from monai.data import MetaTensor

from monai_n2v.io.volume import Volume, check_finite, where
from monai_n2v.transforms.axes import MIN_DEPTH


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
        ValueError: for complex or other non-numbers, NaN or infinity, fewer than 8 voxels along every axis, or a
            constant image.
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
    if volumes.min() == volumes.max():
        raise ValueError(
            f"image must vary, got the constant {float(volumes.min()):g}{where(name)}. There is nothing to denoise."
        )


def sentence_of(error: Exception, name: object) -> str:
    """What is wrong, in one line that names the image.

    Args:
        error: that was raised.
        name: of the image.
    """
    known = isinstance(error, (ValueError, TypeError, OSError, FloatingPointError))
    text = " ".join(str(error).split()) if known else f"{type(error).__name__}: {error} Use -vv to see where."
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
    def of(cls, image: Volume | MetaTensor) -> NoisyImage:
        """Look at an image.

        Args:
            image: as read, or a tensor.

        Raises:
            ValueError: for one that cannot be denoised, see `check_image`.
        """
        if isinstance(image, Volume):
            values, spacing, name = image.data, image.spacing, image.path
        else:
            values, spacing, name = image.numpy(), tuple(image.pixdim.tolist()), ""
        check_image(values, name)
        mean, std = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
        return cls(image, values.shape, spacing[: values.ndim - 1], mean, std, name)
