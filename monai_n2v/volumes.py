# SPDX-License-Identifier: Apache-2.0
"""NIfTI in and out with the whole header: MONAI's writer keeps the affine only, so nibabel is used directly."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import nibabel

__all__ = [
    "NIFTI_SUFFIXES",
    "Volume",
    "check_kind",
    "check_target",
    "read_nifti",
    "save_nifti",
    "stem_of",
    "to_nifti",
    "to_volume",
]

NIFTI_SUFFIXES = (".nii", ".nii.gz")


@dataclass(frozen=True)
class Volume:
    """An image as the network sees it, and the NIfTI image it came from.

    Attributes:
        data: float32 ``(n_volumes, *spatial)`` in stored orientation; axes of a single voxel are left out.
        spacing: voxel sides in mm, one per axis of ``data`` after the first.
        source: the image with its header.
    """

    data: np.ndarray
    spacing: tuple[float, ...]
    source: nibabel.Nifti1Image


def stem_of(path: Path) -> str:
    """File name without its NIfTI suffix."""
    name = path.name
    for suffix in sorted(NIFTI_SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return path.stem


def read_nifti(path: str | Path) -> Volume:
    """Read a NIfTI file.

    Args:
        path: ``.nii`` or ``.nii.gz``, 2D, 3D, or 4D with further volumes along the last axis.

    Returns:
        the volume, intensities scaled by the header's slope and intercept.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where it cannot be read or is not an image of real numbers.
    """
    import nibabel

    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"path must be an existing file, got {path}. Check the path.")
    if not path.name.lower().endswith(NIFTI_SUFFIXES):
        raise ValueError(
            f"path must be a NIfTI file ({', '.join(NIFTI_SUFFIXES)}), got {path}. Convert it, or use the 2D bundle."
        )
    try:
        image = nibabel.load(path)
        if not isinstance(image, nibabel.Nifti1Image):  # NIfTI-2 is a subclass
            raise TypeError("not a single-file NIfTI image")
    except Exception as error:
        raise _unreadable(path, error) from error
    check_kind(image, str(path))
    try:
        data = np.asarray(image.dataobj, dtype=np.float32)
    except Exception as error:
        raise _unreadable(path, error) from error
    return _stack(data, image, str(path))


def _unreadable(path: Path, error: Exception) -> ValueError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return ValueError(f"path must be a readable NIfTI file, got {path} ({reason}). Check that it is complete.")


def check_kind(image: nibabel.Nifti1Image, name: str = "") -> None:
    """Refuse voxels that are not one real number each.

    Args:
        image: the image.
        name: for the message.

    Raises:
        ValueError: for complex or RGB voxels.
    """
    stored = image.get_data_dtype()
    if stored.fields is not None or stored.kind == "c":
        kind = "RGB" if stored.fields is not None else "complex"
        where = f" for {name}" if name else ""
        raise ValueError(f"image must hold one real number per voxel, got {kind} voxels{where}. Convert it first.")


def check_target(path: Path) -> None:
    """Refuse a place where no NIfTI file can be written, before any work is done.

    Args:
        path: of the file to write.

    Raises:
        ValueError: for another suffix.
        IsADirectoryError: for a folder.
        PermissionError: where the folder, or the nearest above that exists, may not be written to.
    """
    if not path.name.lower().endswith(NIFTI_SUFFIXES):
        raise ValueError(f"output must end in .nii or .nii.gz, got {path}. Add .nii.gz.")
    if path.is_dir():
        raise IsADirectoryError(f"output must be a file, got the folder {path}. Name the file in it.")
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"output must be writable, got {path}. Choose a folder you may write to.")


def to_volume(image: nibabel.Nifti1Image, name: str = "") -> Volume:
    """Take the voxels of a NIfTI image, further axes than three merged into volumes.

    Args:
        image: the image.
        name: for messages.

    Returns:
        the volume.

    Raises:
        ValueError: for complex or RGB voxels, or fewer than two spatial axes.
    """
    check_kind(image, name)
    return _stack(np.asarray(image.dataobj, dtype=np.float32), image, name)


def _stack(data: np.ndarray, image: nibabel.Nifti1Image, name: str) -> Volume:
    spatial = [n for n in data.shape[:3] if n > 1]
    if len(spatial) < 2:
        where = f" for {name}" if name else ""
        raise ValueError(
            f"image must have 2 or 3 spatial axes, got shape {data.shape}{where}. Use an image or a volume."
        )
    zooms = [float(zoom) for n, zoom in zip(data.shape[:3], image.header.get_zooms()[:3]) if n > 1]
    volumes = np.moveaxis(data.reshape(*spatial, -1), -1, 0)
    return Volume(np.ascontiguousarray(volumes), tuple(zooms), image)


def to_nifti(data: np.ndarray, source: nibabel.Nifti1Image, dtype: str = "float32") -> nibabel.Nifti1Image:
    """Put denoised voxels into a copy of the source image: same affine, codes, units, TR, description, extensions.

    Args:
        data: ``(n_volumes, *spatial)`` as in `Volume`, in the intensity units of the source.
        source: the image whose header is kept.
        dtype: ``"float32"``, or ``"input"`` for the source's stored type, slope and intercept: rounded to the nearest
            stored value and clipped to the type's range.

    Returns:
        a new image of the source's shape and kind.
    """
    values = np.moveaxis(data, 0, -1).reshape(source.shape)
    header = source.header.copy()
    stored = source.get_data_dtype()
    if dtype == "input" and stored.kind in "iu":
        proxy = source.dataobj
        slope, intercept = (float(proxy.slope), float(proxy.inter)) if hasattr(proxy, "slope") else (1.0, 0.0)
        info = np.iinfo(stored)
        steps = np.clip(np.rint((values.astype(np.float64) - intercept) / slope), info.min, info.max)
        header.set_data_dtype(stored)
        image = type(source)(steps.astype(stored), source.affine, header)
        # With a slope set, nibabel stores the voxels as they are.
        image.header.set_slope_inter(slope, intercept)
        return image
    kind = stored if dtype == "input" else np.dtype(np.float32)
    header.set_data_dtype(kind)
    return type(source)(values.astype(kind.newbyteorder("=")), source.affine, header)


def save_nifti(image: nibabel.Nifti1Image, path: str | Path) -> None:
    """Write an image whole or not at all: beside its place, then renamed.

    Args:
        image: the image.
        path: ``.nii`` or ``.nii.gz``; its folder is made.

    Raises:
        OSError: where it cannot be written.
    """
    import nibabel

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = path.name[len(stem_of(path)) :]
    part = path.with_name(f".{stem_of(path)}.{os.getpid()}.part{suffix}")
    try:
        nibabel.save(image, part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
