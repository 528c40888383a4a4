# SPDX-License-Identifier: Apache-2.0
"""What every file format gives and takes: voxels as the network sees them, and the source they came from."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


class Refusal(ValueError):
    """A sentence of this package that names file, fault and what to do; it needs no other around it."""


# Steps of float32 that are no longer small beside the spread of the values.
_ROUNDED = 0.05
_FREQUENT = 0.05  # share of an image that noise does not give to one value


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


class Source(ABC):
    """The file or series an image came from, able to write other voxels in the same manner.

    Complex voxels have a last axis of two, the real and the imaginary part.

    Args:
        shape: of the array that the file holds, fastest axis first.
        stored: type of the stored values.
        is_spatial: of each axis, whether it is one of space; by default the first three are.
        affine: ``(4, 4)``, from voxel index to patient or scanner space (RAS, mm), or None where the format has none.

    Attributes:
        readers: permissions that files written from it may have at most.
    """

    readers: int = 0o777

    def __init__(
        self,
        shape: Sequence[int],
        stored: np.dtype,
        is_spatial: Sequence[bool] | None = None,
        affine: np.ndarray | None = None,
    ) -> None:
        self.is_complex = stored.kind == "c"
        parts = (2,) if self.is_complex else ()
        self.shape = (*shape, *parts)
        self.stored = stored
        self.is_spatial = [*(is_spatial or [axis < 3 for axis in range(len(shape))]), *(False for _ in parts)]
        self.affine = affine

    @property
    def spatial_shape(self) -> tuple[int, ...]:
        """Voxels along the axes of space, single ones included."""
        return tuple(n for n, spatial in zip(self.shape, self.is_spatial) if spatial)

    def to_volume(
        self, values: np.ndarray, sides: Iterable[float], name: object = "", notes: Sequence[str] = ()
    ) -> Volume:
        """Bring the array into the form of a `Volume`: axes not spatial merged in front, those of one voxel left out.

        Args:
            values: of any real type, or complex where the source is.
            sides: of a voxel in mm, one per spatial axis.
            name: of the file, for the message.
            notes: see `Volume`.

        Raises:
            ValueError: where fewer than two or more than three spatial axes have more than one voxel, or where it is
                not told in positive numbers how far these are apart.
        """
        sizes = [n for n in self.spatial_shape if n > 1]
        if len(sizes) not in (2, 3) or values.size == 0:
            raise Refusal(
                f"image must have 2 or 3 spatial axes, got shape {values.shape}{where(name)}. Use an image or a volume."
            )
        if self.is_complex:
            values = np.stack([values.real, values.imag], axis=-1, dtype=np.float32)
            notes = [*notes, "Complex voxels: real and imaginary part are denoised as two images."]
        # A copy where the values are mapped from a file: they must not change with it.
        data = np.require(values.transpose(self._order()).reshape(-1, *sizes), np.float32, ["C", "W"])
        spacing = tuple(float(side) for side, n in zip(sides, self.spatial_shape) if n > 1)
        self._check_space(spacing, name)
        return Volume(np.asarray(data), spacing, self, [*notes, *rounding_of(values)])

    def _check_space(self, spacing: Sequence[float], name: object) -> None:
        if not all(np.isfinite(side) and side > 0 for side in spacing):
            got = ", ".join(f"{side:g}" for side in spacing)
            raise Refusal(f"voxel sides must be positive numbers, got {got} mm{where(name)}. Correct the header.")
        if self.affine is None:
            return
        used = [axis for axis, n in enumerate(self.spatial_shape[:3]) if n > 1]
        steps = self.affine[:3, used]
        sound = np.isfinite(self.affine).all() and (np.linalg.norm(steps, axis=0) > 0).all()
        if not sound or np.linalg.matrix_rank(steps / np.linalg.norm(steps, axis=0)) < len(used):
            got = np.round(self.affine[:3], 6).tolist()
            raise Refusal(f"affine must lead along {len(used)} axes, got {got}{where(name)}. Correct the header.")

    def to_array(self, data: np.ndarray, dtype: str) -> np.ndarray:
        """Bring voxels of a `Volume` into the form of the array; see `write`."""
        values, stored = self.split_axes(data), self.stored if dtype == "input" else np.dtype(np.float32)
        return values.astype(np.result_type(stored, np.complex64)) if self.is_complex else quantize(values, stored)

    def split_axes(self, data: np.ndarray) -> np.ndarray:
        """Undo what `to_volume` did to axes and complex voxels; a view where possible."""
        order = self._order()
        values = data.reshape([self.shape[axis] for axis in order]).transpose(np.argsort(order))
        return values[..., 0] + 1j * values[..., 1] if self.is_complex else values

    def _order(self) -> list[int]:
        """The axes, those of space last."""
        return sorted(range(len(self.shape)), key=lambda axis: self.is_spatial[axis])

    @abstractmethod
    def write(self, data: np.ndarray, path: Path, dtype: str = "float32") -> None:
        """Write ``(n_volumes, *spatial)`` voxels, as `Volume` holds them, with everything else the source carried.

        Args:
            data: in the intensity units of the source.
            path: where, whole or not at all; its folder is made.
            dtype: ``"float32"``, or ``"input"`` for the stored type: rounded to the nearest stored value and clipped.
        """


def rounding_of(values: np.ndarray) -> list[str]:
    """Tell of values whose differences are too small for float32, beside an offset.

    Args:
        values: of any real type.

    Returns:
        a sentence, or none.
    """
    if values.dtype.kind not in "iuf" or values.dtype.itemsize < (8 if values.dtype.kind == "f" else 4):
        return []
    low, high = float(values.min()), float(values.max())
    step = 2.0 ** (np.floor(np.log2(max(abs(low), abs(high), 1e-30))) - 23)
    if not np.isfinite(step) or high <= low:
        return []
    sample = values.ravel()[:: max(1, values.size >> 20)]
    found, counts = np.unique(sample, return_counts=True)
    if counts.max() > _FREQUENT * sample.size and len(found) > 1:  # padding is far from all others
        sample = sample[sample != found[np.argmax(counts)]]
    spread = float(sample.std(dtype=np.float64))
    if step < _ROUNDED * spread or spread == 0:
        return []
    return [
        f"Values up to {max(abs(low), abs(high)):g} are rounded to steps of {step:g} in float32, where they spread by "
        f"{spread:.3g}. Subtract an offset first."
    ]


def where(name: object) -> str:
    """The end of a message about a file."""
    return f" for {name}" if str(name) else ""


def beside(path: Path, name: str, field_name: str) -> Path:
    """The file of voxels that a header names: in the header's folder or below it, wherever the header comes from.

    Args:
        path: of the header.
        name: as it stands there.
        field_name: of the header's field.

    Raises:
        ValueError: for a name that leads elsewhere, a pattern, or none.
    """
    parts = Path(name.replace("\\", "/"))
    if not name or "%" in name or name.upper().startswith("LIST") or parts.is_absolute() or ".." in parts.parts:
        raise Refusal(
            f"{field_name} must be a file beside the header, got {name or 'none'} for {path}. "
            "Put all voxels into one file there."
        )
    return path.parent / parts


@contextlib.contextmanager
def reading(path: object, kind: str) -> Iterator[None]:
    """Say of all that fails inside that the file is damaged or none of its kind; a `Refusal` passes."""
    try:
        yield
    except Refusal:
        raise
    except Exception as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ValueError(
            f"path must be a readable {kind}, got {path} ({reason[:200]}). Check that it is complete."
        ) from error


def check_kind(stored: np.dtype, name: object = "", found: str = "") -> None:
    """Refuse voxels that are not one real number each.

    Args:
        stored: type of the stored values.
        name: of the file, for the message.
        found: what the file says that its voxels hold instead, such as ``"RGB"``.

    Raises:
        ValueError: for complex, RGB or non-numeric voxels.
    """
    found = found or ("RGB" if stored.fields is not None else "complex" if stored.kind == "c" else "")
    if found or stored.kind not in "biuf":
        raise Refusal(
            f"image must hold one real number per voxel, got {found or stored} voxels{where(name)}. Convert it first."
        )


def check_finite(n_bad: int, name: object = "") -> None:
    """Refuse an image with voxels that are NaN or infinite.

    Args:
        n_bad: how many are.
        name: of the file, for the message.

    Raises:
        ValueError: for one and more.
    """
    if n_bad:
        raise Refusal(
            f"image must be finite, got {n_bad} NaN or infinite voxels{where(name)}. "
            "Replace them first, for example with numpy.nan_to_num."
        )


def to_affine(steps: np.ndarray, origin: np.ndarray, signs: Sequence[int] = (-1, -1, 1)) -> np.ndarray:
    """From voxel index to RAS in mm, ``(4, 4)``.

    Args:
        steps: ``(3, 3)``, a column per axis: from one voxel to the next.
        origin: where the first voxel lies.
        signs: that bring the space of both to RAS; LPS by default.
    """
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = steps, origin
    return np.diag([*map(float, signs), 1.0]) @ affine


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
    low, high = (0, 1) if target.kind == "b" else (np.iinfo(target).min, np.iinfo(target).max)
    out = np.empty_like(values, dtype=target)
    # The largest int64 is no float64: the next float below it is still in range.
    top = float(high) if int(float(high)) <= high else np.nextafter(float(high), 0)
    for row, result in zip(values, out):  # a part at a time, to bound the memory of float64
        result[...] = np.clip(np.rint((row.astype(np.float64) - intercept) / slope), low, top)
    return out
