# SPDX-License-Identifier: Apache-2.0
"""Local statistics of large images: a fixed sample of tiles, cut into small blocks, with structure filtered out."""

import itertools
from collections.abc import Sequence

import numpy as np

MAX_LAG = 3
# The filter takes one voxel at each end and the lags three at one; what is left along an axis must be worth a block.
_MARGIN, _BLOCK = MAX_LAG + 1, 8
MIN_SIDE = _MARGIN + _BLOCK
_TILE = {1: 2**16, 2: 512, 3: 64}


def take_tiles(volumes: np.ndarray, max_voxels: int) -> np.ndarray:
    """At most about ``max_voxels`` voxels, as tiles spread evenly over all volumes; the same ones every time.

    Args:
        volumes: ``(n_volumes, *spatial)``.
        max_voxels: above this many voxels only a part is taken.

    Returns:
        ``(n_tiles, *tile)``; the volumes themselves where they are small enough.
    """
    if volumes.size <= max_voxels:
        return volumes
    spatial = volumes.shape[1:]
    sides = [min(n, _TILE[len(spatial)]) for n in spatial]
    # Tiles may overlap where the sides do not divide the image; none is thinner than the others.
    starts = [np.linspace(0, n - side, -(-n // side)).astype(int) for n, side in zip(spatial, sides)]
    places = list(itertools.product(range(len(volumes)), *starts))
    n_tiles = max(1, min(len(places), max_voxels // int(np.prod(sides))))
    # Midpoints of equal parts: neither the first corner nor the last is favored.
    chosen = ((np.arange(n_tiles) + 0.5) * len(places) / n_tiles).astype(int)
    tiles = [
        volumes[(i, *(slice(s, s + n) for s, n in zip(start, sides)))] for i, *start in map(places.__getitem__, chosen)
    ]
    return np.stack(tiles)


def second_difference(image: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """Second differences along ``axes``, scaled to keep the variance of white noise; two voxels shorter along each."""
    for axis in axes:
        n = image.shape[axis]
        before, center, after = (_along(image, axis, start, n - 2 + start) for start in range(3))
        image = (before - 2 * center + after) * np.float32(6**-0.5)
    return image


def core(image: np.ndarray, filtered: Sequence[int] = (), axis: int = 0, lag: int = 0) -> np.ndarray:
    """The part of an image that every filter and every lag reaches, so that all statistics are of the same voxels.

    Args:
        image: ``(n_tiles, *tile)``.
        filtered: axes that `second_difference` has made two voxels shorter.
        axis: axis to move along, not a filtered one.
        lag: voxels to move by, up to `MAX_LAG`.
    """
    for a in range(1, image.ndim):
        short = 2 if a in filtered else 0
        start = 1 - short // 2 + (lag if a == axis else 0)
        image = _along(image, a, start, start + image.shape[a] + short - _MARGIN)
    return image


def block_means(image: np.ndarray) -> np.ndarray:
    """Mean of every block of about 8 voxels a side, float64 ``(n_blocks,)``; a rest at the far end is left out."""
    split = _split(image)
    return split.mean(axis=tuple(range(2, split.ndim, 2)), dtype=np.float64).ravel()


def block_values(image: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Values of the voxels of chosen blocks, as `block_means` cuts them; ``chosen`` is bool ``(n_blocks,)``."""
    split = _split(image)
    inside, outside = tuple(range(2, split.ndim, 2)), (0, *range(1, split.ndim, 2))
    return split.transpose(*outside, *inside)[chosen.reshape([split.shape[axis] for axis in outside])].ravel()


def _split(image: np.ndarray) -> np.ndarray:
    """A view ``(n_tiles, blocks, voxels in a block, blocks, ...)``; a rest at the far end is left out."""
    counts = [max(1, round(n / _BLOCK)) for n in image.shape[1:]]
    sides = [n // count for n, count in zip(image.shape[1:], counts)]
    image = image[(slice(None), *(slice(0, count * side) for count, side in zip(counts, sides)))]
    return image.reshape(len(image), *itertools.chain(*zip(counts, sides)))


def block_moments(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of every block, as `block_means` cuts them."""
    mean = block_means(image)
    return mean, np.maximum(block_means(image**2) - mean**2, 0.0)


def _along(image: np.ndarray, axis: int, start: int, stop: int) -> np.ndarray:
    return image[(slice(None),) * axis + (slice(start, stop),)]
