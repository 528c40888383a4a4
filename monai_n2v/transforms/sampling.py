# SPDX-License-Identifier: Apache-2.0
"""Where blind spots lie: exact stratified sampling of voxels in any number of dimensions.

References:
    .. [1] Krull, Buchholz, Jug, "Noise2Void - Learning Denoising from Single Noisy Images", CVPR 2019.
"""

import math
from collections.abc import Sequence

import numpy as np

# Redraws that avoid something fail with a probability well below 1 each; after this many only hopeless ones are left.
MAX_REDRAWS = 64


def stratum_sides(shape: Sequence[int], mask_fraction: float) -> tuple[float, ...]:
    """Sides of the box that holds one blind spot on average, as cubic as the image allows.

    A side longer than the image is cut to the image and the other sides grow for it, so that thin volumes keep the
    asked density.

    Args:
        shape: spatial shape in voxels.
        mask_fraction: fraction of voxels to hide, in ``(0, 0.5]``.

    Returns:
        one side per axis, in voxels, not necessarily whole.
    """
    sides = [0.0] * len(shape)
    free = list(range(len(shape)))
    volume = 1.0 / mask_fraction
    while free:
        side = volume ** (1.0 / len(free))
        # 64 ** (1 / 3) is 3.9999999999999996: without this a 96-voxel axis gets 25 strata, the last one empty.
        side = float(round(side)) if math.isclose(side, round(side), rel_tol=1e-9) else side
        thin = [axis for axis in free if shape[axis] < side]
        if not thin:
            for axis in free:
                sides[axis] = side
            break
        for axis in thin:
            sides[axis] = float(shape[axis])
            volume /= shape[axis]
        free = [axis for axis in free if axis not in thin]
        volume = max(volume, 1.0)
    return tuple(sides)


def draw_sites(shape: Sequence[int], mask_fraction: float, rng: np.random.RandomState, n_images: int = 1) -> np.ndarray:
    """Draw stratified blind spots, one per stratum, so that they do not cluster ([1]_, Sec. 3.4).

    A point is drawn uniformly in every stratum of a grid that covers the image; points that fall outside are dropped,
    not moved. Hence every voxel, at borders and in shapes the strata do not divide, is hidden with probability
    ``mask_fraction``. Where two strata meet inside one voxel and both pick it, one of them draws again. An image
    smaller than one stratum still gets one blind spot.

    Args:
        shape: spatial shape in voxels.
        mask_fraction: fraction of voxels to hide, in ``(0, 0.5]``; 64/4096 in [1]_.
        rng: source of all randomness; same state, same sites.
        n_images: number of images drawn for, each on its own.

    Returns:
        int64 ``(n_sites, 1 + n_axes)``: image index and voxel; unique rows.
    """
    sides = np.asarray(stratum_sides(shape, mask_fraction))
    n_strata = np.ceil(np.asarray(shape) / sides).astype(np.int64)
    strata = np.indices(n_strata).reshape(len(shape), -1).T
    points = rng.random_sample((n_images, *strata.shape))
    points += strata
    points *= sides
    inside = np.ones((n_images, len(strata)), dtype=bool)
    for axis, length in enumerate(shape):  # one axis at a time: numpy is slow along an axis of 2 or 3
        inside &= points[..., axis] < length
    kept = np.flatnonzero(inside)
    image, stratum = np.divmod(kept, len(strata))
    sites = np.empty((len(kept), 1 + len(shape)), dtype=np.int64)
    sites[:, 0] = image
    sites[:, 1:] = points.reshape(-1, len(shape))[kept]  # cut to whole numbers
    if all(side.is_integer() for side in sides):
        return sites
    for _ in range(MAX_REDRAWS):
        repeated = _repeated(sites, (n_images, *shape))
        if not repeated.any():
            return sites
        again = np.flatnonzero(repeated)
        redrawn = np.floor((strata[stratum[again]] + rng.random_sample((len(again), len(shape)))) * sides)
        valid = (redrawn < np.asarray(shape)).all(axis=1)
        sites[again[valid], 1:] = redrawn[valid]
    return np.delete(sites, np.flatnonzero(_repeated(sites, (n_images, *shape))), axis=0)


def _repeated(sites: np.ndarray, batch_shape: tuple[int, ...]) -> np.ndarray:
    """Which sites lie where an earlier one does."""
    voxels, numbers = np.ravel_multi_index(tuple(sites.T), batch_shape), np.arange(len(sites), dtype=np.int32)
    # Written from the last to the first, a voxel keeps the number of its first site; faster than sorting them.
    first = np.empty(math.prod(batch_shape), dtype=np.int32)
    first[voxels[::-1]] = numbers[::-1]
    return np.asarray(first[voxels] != numbers)
