# SPDX-License-Identifier: Apache-2.0
"""NumPy arrays in ``.npy`` files: 2D, 3D, or 4D with volumes along the last axis."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from monai_n2v.io.atomic import staged
from monai_n2v.io.memory import check_memory
from monai_n2v.io.volume import ArraySource, Volume, check_kind, merge_axes, unreadable

__all__ = ["SUFFIXES", "NpySource", "read_npy"]

SUFFIXES = (".npy",)


class NpySource(ArraySource):
    """Shape and type of an array.

    Args:
        shape: of the array.
        stored: its type.
    """

    affine = None

    def __init__(self, shape: tuple[int, ...], stored: np.dtype) -> None:
        self.shape = shape
        self.stored = stored
        self.is_spatial = [axis < 3 for axis in range(len(shape))]

    def write(self, data: np.ndarray, path: Path, dtype: str = "float32") -> None:
        """See `Source.write`."""
        with staged(path) as place:
            np.save(place, self.to_array(data, dtype))


def read_npy(path: Path) -> Volume:
    """Read an array.

    Args:
        path: ``.npy``; pickled objects are refused.

    Returns:
        the volume.

    Raises:
        ValueError: where it cannot be read or does not hold an image of real numbers.
    """
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:
        raise unreadable(path, "NumPy array", error) from error
    check_kind(values.dtype, path)
    check_memory(values.shape, path)
    source = NpySource(values.shape, values.dtype)
    data = merge_axes(values, source.is_spatial, path)
    return Volume(data, (1.0,) * (data.ndim - 1), source)
