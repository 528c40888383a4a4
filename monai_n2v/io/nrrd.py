# SPDX-License-Identifier: Apache-2.0
"""NRRD with all its fields and key/value pairs: pynrrd keeps them, ITK's reader drops half."""

from pathlib import Path
from typing import Any

import numpy as np

from monai_n2v.io.atomic import staged
from monai_n2v.io.memory import check_memory
from monai_n2v.io.volume import Source, Volume, beside, check_kind, reading, to_affine

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


class NrrdSource(Source):
    """Header of an NRRD file.

    Args:
        header: as pynrrd reads it.
        stored: type of the stored values.
    """

    def __init__(self, header: dict[str, Any], stored: np.dtype) -> None:
        shape = [int(n) for n in header["sizes"]]
        kinds = [kind.lower() for kind in header.get("kinds") or ["domain"] * len(shape)]
        steps = np.atleast_2d(header["space directions"]) if "space directions" in header else None
        if steps is None:
            is_spatial = [kind in _SPACE for kind in kinds]
            sides = np.asarray(header.get("spacings", np.ones(len(shape))), dtype=np.float64)
        else:
            is_spatial, sides = np.isfinite(steps).all(axis=1).tolist(), np.linalg.norm(steps, axis=1)
        if not len(shape) == len(is_spatial) == len(kinds):
            raise ValueError(f"{len(shape)} axes, {len(is_spatial)} directions and {len(kinds)} kinds")
        super().__init__(shape, stored, is_spatial)
        self.header = header
        self.is_colored = not _COLORS.isdisjoint(kinds)
        self.is_complex = "complex" in kinds
        self.sides = [float(side) if np.isfinite(side) else 1.0 for side, s in zip(sides, is_spatial) if s]
        signs = _TO_RAS.get(str(header.get("space", "")).lower())
        if signs is not None and steps is not None and sum(is_spatial) == 3:
            self.affine = to_affine(steps[is_spatial].T, header.get("space origin", np.zeros(3)), signs)

    def write(self, data: np.ndarray, path: Path, dtype: str = "float32") -> None:
        """See `Source.write`."""
        import nrrd

        header = {name: value for name, value in self.header.items() if name not in _OF_OLD_VOXELS}
        with staged(path, self.readers) as place:
            nrrd.write(str(place), self.to_array(data, dtype), header)


def read(path: Path) -> Volume:
    """Read an NRRD file.

    Args:
        path: ``.nrrd``, header and voxels in one file.

    Returns:
        the volume; axes that are not spatial are merged into volumes.

    Raises:
        ValueError: where it cannot be read or is not an image of real numbers.
    """
    import nrrd

    with reading(path, "NRRD file"):
        header = nrrd.read_header(str(path))
        for name in np.atleast_1d(header.get("data file", header.get("datafile", []))):
            beside(path, str(name), "data file")
        check_memory(header["sizes"], path)
        values, header = nrrd.read(str(path))
        source = NrrdSource(dict(header), values.dtype)
    check_kind(source.stored, path, "RGB" if source.is_colored else "complex" if source.is_complex else "")
    return source.to_volume(values, source.sides, path)
