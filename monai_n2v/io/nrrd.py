# SPDX-License-Identifier: Apache-2.0
"""NRRD with all its fields and key/value pairs: pynrrd keeps them, ITK's reader drops half."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from monai_n2v.io.atomic import staged
from monai_n2v.io.memory import check_memory
from monai_n2v.io.volume import ArraySource, Volume, check_kind, merge_axes, unreadable

__all__ = ["SUFFIXES", "NrrdSource", "read_nrrd"]

SUFFIXES = (".nrrd",)

_COLORS = {"rgb-color", "hsv-color", "xyz-color", "rgba-color"}
_SPACE = {"domain", "space", "???", "none"}
# What described the old voxels or where in which file they lie.
_OF_OLD_VOXELS = (
    *("min", "max", "old min", "old max", "oldmin", "oldmax", "data file", "datafile"),
    *("byte skip", "byteskip", "line skip", "lineskip"),
)
# The signs that bring a named space to RAS.
_TO_RAS = {
    "right-anterior-superior": (1, 1, 1),
    "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "las": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1),
    "lps": (-1, -1, 1),
}
_NAMES = {"i1": "int8", "u1": "uint8", "i2": "int16", "u2": "uint16", "i4": "int32", "u4": "uint32"} | {
    "i8": "int64", "u8": "uint64", "f4": "float", "f8": "double"
}  # fmt: skip


class NrrdSource(ArraySource):
    """Header of an NRRD file.

    Args:
        header: as pynrrd reads it.
        stored: type of the stored values.
    """

    def __init__(self, header: dict[str, Any], stored: np.dtype) -> None:
        self.header = header
        self.stored = stored
        self.shape = tuple(int(n) for n in header["sizes"])
        kinds = header.get("kinds") or ["domain"] * len(self.shape)
        kinds = [kind.lower() for kind in kinds]
        self.is_colored = not _COLORS.isdisjoint(kinds)
        self.is_complex = "complex" in kinds
        self.is_spatial = [kind in _SPACE for kind in kinds]
        if "space directions" in header:
            self.is_spatial = [bool(np.isfinite(row).all()) for row in np.atleast_2d(header["space directions"])]

    @property
    def spacing(self) -> tuple[float, ...]:
        """Voxel sides of the spatial axes."""
        if "space directions" in self.header:
            sides = np.linalg.norm(np.atleast_2d(self.header["space directions"]), axis=1)
        else:
            sides = np.asarray(self.header.get("spacings", np.ones(len(self.shape))), dtype=np.float64)
        return tuple(float(side) if np.isfinite(side) else 1.0 for side, s in zip(sides, self.is_spatial) if s)

    @property
    def affine(self) -> np.ndarray | None:
        """From voxel index to RAS, where the header names an anatomical space of three axes."""
        signs = _TO_RAS.get(str(self.header.get("space", "")).lower())
        if signs is None or sum(self.is_spatial) != 3 or "space directions" not in self.header:
            return None
        affine = np.eye(4)
        affine[:3, :3] = np.asarray(self.header["space directions"])[self.is_spatial].T
        affine[:3, 3] = self.header.get("space origin", np.zeros(3))
        return np.diag([*signs, 1.0]) @ affine

    def write(self, data: np.ndarray, path: Path, dtype: str = "float32") -> None:
        """See `Source.write`."""
        import nrrd

        values = self.to_array(data, dtype)
        header = {**self.header, "type": _NAMES[values.dtype.str[1:]]}
        for name in _OF_OLD_VOXELS:
            header.pop(name, None)
        with staged(path) as place:
            nrrd.write(str(place), values, header)


def read_nrrd(path: Path) -> Volume:
    """Read an NRRD file.

    Args:
        path: ``.nrrd``, header and voxels in one file.

    Returns:
        the volume; axes that are not spatial are merged into volumes.

    Raises:
        ValueError: where it cannot be read or is not an image of real numbers.
    """
    import nrrd

    try:
        sizes = nrrd.read_header(str(path))["sizes"]
    except Exception as error:
        raise unreadable(path, "NRRD file", error) from error
    check_memory(sizes, path)
    try:
        values, header = nrrd.read(str(path))
    except Exception as error:
        raise unreadable(path, "NRRD file", error) from error
    source = NrrdSource(dict(header), values.dtype)
    check_kind(np.dtype(np.complex64) if source.is_complex else source.stored, path, colors=source.is_colored)
    merged = merge_axes(values, source.is_spatial, path)
    sizes = [n for n, spatial in zip(source.shape, source.is_spatial) if spatial]
    return Volume(merged, tuple(side for side, n in zip(source.spacing, sizes) if n > 1), source)
