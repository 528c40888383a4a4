# SPDX-License-Identifier: Apache-2.0
"""NumPy arrays in ``.npy`` files: 2D, 3D, or 4D with volumes along the last axis."""

from pathlib import Path

import numpy as np

from monai_n2v.io.atomic import staged
from monai_n2v.io.memory import check_memory
from monai_n2v.io.volume import Source, Volume, check_kind, reading

SUFFIXES = (".npy",)


class NpySource(Source):
    """Shape and type of an array."""

    def write(self, data: np.ndarray, path: Path, dtype: str = "float32") -> None:
        """See `Source.write`."""
        with staged(path, self.readers) as place:
            np.save(place, self.to_array(data, dtype))


def read(path: Path) -> Volume:
    """Read an array.

    Args:
        path: ``.npy``; pickled objects are refused.

    Returns:
        the volume.

    Raises:
        ValueError: where it cannot be read or does not hold an image of numbers.
    """
    with reading(path, "NumPy array"):
        values = np.load(path, mmap_mode="r", allow_pickle=False)
        excess = path.stat().st_size - values.nbytes - getattr(values, "offset", 0)
        if excess:
            raise ValueError(f"{excess} bytes after the array")
    source = NpySource(values.shape, values.dtype)
    check_kind(np.dtype(np.float32) if source.is_complex else source.stored, path)
    check_memory(source.shape, path)
    return source.to_volume(values, [1.0] * values.ndim, path)
