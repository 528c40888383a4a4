# SPDX-License-Identifier: Apache-2.0
"""What every file format gives and takes: voxels as the network sees them, and the source they came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

__all__ = [
    "ArraySource",
    "Source",
    "Volume",
    "check_kind",
    "merge_axes",
    "quantize",
    "split_axes",
    "unreadable",
    "where",
]


class Source(Protocol):
    """The file or series an image came from, able to write other voxels in the same manner.

    Attributes:
        stored: type of the stored values.
        spatial_shape: voxels along the axes of space, single ones included.
        affine: ``(4, 4)``, from voxel index to patient or scanner space (RAS, mm), or None where the format has none.
    """

    stored: np.dtype

    @property
    def spatial_shape(self) -> tuple[int, ...]: ...  # noqa: D102 - see the class

    @property
    def affine(self) -> np.ndarray | None: ...  # noqa: D102 - see the class

    def write(self, data: np.ndarray, path: Path, dtype: str = "float32") -> None:
        """Write ``(n_volumes, *spatial)`` voxels, as `Volume` holds them, with everything else the source carried.

        Args:
            data: in the intensity units of the source.
            path: where, whole or not at all; its folder is made.
            dtype: ``"float32"``, or ``"input"`` for the stored type: rounded to the nearest stored value and clipped.
        """


class ArraySource:
    """What sources share whose voxels are one array, some of its axes spatial.

    Attributes:
        shape: of the array, fastest axis first.
        is_spatial: of each axis, whether it is one of space.
        stored: type of the stored values.
    """

    shape: tuple[int, ...]
    is_spatial: list[bool]
    stored: np.dtype

    @property
    def spatial_shape(self) -> tuple[int, ...]:
        """Voxels along the axes of space, single ones included."""
        return tuple(n for n, spatial in zip(self.shape, self.is_spatial) if spatial)

    def to_array(self, data: np.ndarray, dtype: str) -> np.ndarray:
        """Bring voxels into the form of the array; see `Source.write`."""
        stored = self.stored if dtype == "input" else np.dtype(np.float32)
        return quantize(split_axes(data, self.shape, self.is_spatial), stored)


@dataclass(frozen=True)
class Volume:
    """An image as the network sees it.

    Attributes:
        data: float32 ``(n_volumes, *spatial)`` in stored orientation, fastest axis first; axes of a single voxel are
            left out.
        spacing: voxel sides in mm (pixels where the format has no unit), one per axis of ``data`` after the first.
        source: what it came from.
        notes: what a user should know about how the file was read, in whole sentences.
        path: the file or folder it was read from; empty where it came from none.
    """

    data: np.ndarray
    spacing: tuple[float, ...]
    source: Source
    notes: list[str] = field(default_factory=list)
    path: str = ""


def where(name: object) -> str:
    """The end of a message about a file."""
    return f" for {name}" if str(name) else ""


def unreadable(path: object, kind: str, error: Exception) -> ValueError:
    """The error for a file that is damaged or none of its kind."""
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return ValueError(f"path must be a readable {kind}, got {path} ({reason[:200]}). Check that it is complete.")


def check_kind(stored: np.dtype, name: object = "", colors: bool = False) -> None:
    """Refuse voxels that are not one real number each.

    Args:
        stored: type of the stored values.
        name: of the file, for the message.
        colors: whether the file says that its values are colors.

    Raises:
        ValueError: for complex, RGB or non-numeric voxels.
    """
    kind = "RGB" if colors or stored.fields is not None else "complex" if stored.kind == "c" else str(stored)
    if colors or stored.kind not in "biuf":
        raise ValueError(
            f"image must hold one real number per voxel, got {kind} voxels{where(name)}. Convert it first."
        )


def merge_axes(values: np.ndarray, is_spatial: list[bool], name: object = "") -> np.ndarray:
    """Bring an array of any axes into the form of a `Volume`: other axes merged in front, single voxels left out.

    Args:
        values: of any real type.
        is_spatial: of each axis, whether it is one of space.
        name: of the file, for the message.

    Returns:
        float32 ``(n_volumes, *spatial)``.

    Raises:
        ValueError: where fewer than two or more than three spatial axes have more than one voxel.
    """
    spatial = [axis for axis in range(values.ndim) if is_spatial[axis]]
    sizes = [values.shape[axis] for axis in spatial if values.shape[axis] > 1]
    if len(sizes) not in (2, 3) or values.size == 0:
        raise ValueError(
            f"image must have 2 or 3 spatial axes, got shape {values.shape}{where(name)}. Use an image or a volume."
        )
    order = [axis for axis in range(values.ndim) if not is_spatial[axis]] + spatial
    moved = values.transpose(order).reshape(-1, *sizes)
    # A copy where the values are mapped from a file: they must not change with it.
    return np.asarray(np.require(moved, np.float32, ["C", "W"]))


def split_axes(data: np.ndarray, shape: tuple[int, ...], is_spatial: list[bool]) -> np.ndarray:
    """Undo `merge_axes`; a view where possible."""
    others = [axis for axis in range(len(shape)) if not is_spatial[axis]]
    order = others + [axis for axis in range(len(shape)) if is_spatial[axis]]
    return data.reshape([shape[axis] for axis in order]).transpose(np.argsort(order))


def quantize(values: np.ndarray, stored: np.dtype, slope: float = 1.0, intercept: float = 0.0) -> np.ndarray:
    """Turn intensities into stored values: rounded to the nearest and clipped to the type's range, never wrapped.

    Args:
        values: intensities, finite.
        stored: type to return, integer or floating point.
        slope: intensity of one stored step.
        intercept: intensity of the stored zero.

    Returns:
        an array of the type ``stored`` in the machine's byte order, and of the memory order of ``values``.
    """
    target = stored.newbyteorder("=")
    if target.kind not in "iub":
        limits: Any = np.finfo(target)
        return np.clip((values - intercept) / slope, limits.min, limits.max).astype(target)
    out = np.empty_like(values, dtype=target)
    limits = np.iinfo(target) if target.kind != "b" else np.iinfo(np.uint8)
    low, high = (0, 1) if target.kind == "b" else (limits.min, limits.max)
    # The largest int64 is no float64: the next float below it is still in range.
    top = float(high) if int(float(high)) <= high else np.nextafter(float(high), 0)
    for row, result in zip(values, out):  # a part at a time, to bound the memory of float64
        result[...] = np.clip(np.rint((row.astype(np.float64) - intercept) / slope), low, top)
    return out
