# SPDX-License-Identifier: Apache-2.0
"""Single voxels far outside of all others: hot pixels, failed fits. They must not set the scale of an image."""

from typing import NamedTuple

import numpy as np

# Beyond the 1st and the 99th percentile by that many of their distances.
_FAR = 3.0
# A larger share of the voxels is no exception.
_SHARE = 0.01
_SAMPLE = 1 << 20


class Outliers(NamedTuple):
    """Voxels that stand alone.

    Attributes:
        sites: indices as numpy takes them, an array per axis.
        medians: of the neighbors of each.
    """

    sites: tuple[np.ndarray, ...]
    medians: np.ndarray


def find_outliers(volume: np.ndarray) -> Outliers | None:
    """Find voxels that are far outside of all others and alone, or two at most, among their neighbors.

    Three and more are a structure, however bright: metal, a bladder in PET, a vessel of one voxel's width.

    Args:
        volume: one image, 2 or 3 axes, finite.

    Returns:
        the voxels, or None where there are none.
    """
    stride = max(1, int(np.ceil((volume.size / _SAMPLE) ** (1 / volume.ndim))))
    low, high = np.percentile(volume[(slice(None, None, stride),) * volume.ndim], [1, 99]).tolist()
    width = high - low
    if width <= 0 or (volume.min() >= low - _FAR * width and volume.max() <= high + _FAR * width):
        return None
    sites = np.argwhere((volume < low - _FAR * width) | (volume > high + _FAR * width))
    if len(sites) > _SHARE * volume.size:
        return None
    neighbors, alike, around = _look_around(volume, sites, low - width, high + width)
    n_alike = alike.sum(axis=1)
    alone = n_alike == 0
    # Two beside each other happen by chance, too, where the other one has no more of its kind.
    pairs = np.flatnonzero(n_alike == 1)
    of_others = _look_around(volume, around[pairs][alike[pairs]], low - width, high + width)[1]
    alone[pairs] = of_others.sum(axis=1) == 1
    if not alone.any():
        return None
    ordinary = np.where(alike[alone], np.nan, neighbors[alone])
    return Outliers(tuple(sites[alone].T), np.nanmedian(ordinary, axis=1))


def describe_outliers(sites: tuple[np.ndarray, ...], volume: np.ndarray) -> str:
    """Say how many outliers there are, and the first one's value and place."""
    n, first = len(sites[0]), tuple(int(axis[0]) for axis in sites)
    what, stay = ("One voxel lies", "It stays as it is") if n == 1 else (f"{n} voxels lie", "They stay as they are")
    value = f"{'' if n == 1 else 'the first '}{volume[first]:g} at ({', '.join(map(str, first))})"
    return f"{what} far outside of all others, {value}. {stay}."


def _look_around(
    volume: np.ndarray, sites: np.ndarray, low: float, high: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The values of the 8 or 26 neighbors of voxels, nan outside of the image; which are beyond; their indices."""
    offsets = np.stack(np.meshgrid(*([-1, 0, 1],) * volume.ndim, indexing="ij"), -1).reshape(-1, volume.ndim)
    around = sites[:, None] + offsets[np.abs(offsets).any(axis=1)]
    inside = ((around >= 0) & (around < volume.shape)).all(axis=-1)
    values = volume[tuple(np.moveaxis(np.clip(around, 0, np.array(volume.shape) - 1), -1, 0))]
    neighbors = np.where(inside, values, np.nan)
    return neighbors, (neighbors < low) | (neighbors > high), around  # nan is never beyond
