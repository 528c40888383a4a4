# SPDX-License-Identifier: Apache-2.0
"""structN2V footprints: which voxels hide together with a blind spot when noise is correlated.

References:
    .. [2] Broaddus et al., "Removing Structured Noise with Self-Supervised Blind-Spot Networks", ISBI 2020.
"""

from dataclasses import dataclass

import numpy as np


def check_footprint(footprint: object, radius: int) -> np.ndarray | None:
    """Check a structN2V footprint and return it as a bool array, or None where it hides nothing but the center.

    Args:
        footprint: None, or an odd-sized 0/1 array with one axis per spatial axis, 1 at its center ([2]_).
        radius: half side of the fill window in voxels.

    Raises:
        ValueError: where it is not of that kind, or leaves no voxel of the window to fill from.
    """
    if footprint is None:
        return None
    array = np.asarray(footprint)
    if array.ndim not in (2, 3) or any(n % 2 == 0 for n in array.shape) or not np.isin(array, (0, 1)).all():
        raise ValueError(
            f"footprint must be a 2D or 3D array of 0 and 1 with odd sides, got shape {array.shape}. "
            "Use for example [[1, 1, 1, 1, 1]] for noise correlated along the last axis."
        )
    array = array.astype(bool)
    if not array[tuple(n // 2 for n in array.shape)]:
        raise ValueError("footprint must be 1 at its center, got 0. The center is the blind spot itself.")
    if array.sum() == 1:
        return None
    if not _leaves_neighbors(array, radius):
        raise ValueError(
            f"footprint must leave every of its voxels something to fill from, got one of shape {array.shape} that "
            f"covers a whole window of radius {radius}. Use a larger radius."
        )
    return array


def smallest_radius(footprint: np.ndarray, radius: int) -> int:
    """The fill window that a footprint needs, no smaller than one that is wanted.

    Args:
        footprint: as `check_footprint` returns it.
        radius: wanted half side of the window in voxels.

    Returns:
        the smallest half side from ``radius`` up at which every voxel of the footprint has something to fill from.
    """
    while not _leaves_neighbors(footprint, radius):
        radius += 1
    return radius


def _leaves_neighbors(footprint: np.ndarray, radius: int) -> bool:
    window = np.indices((2 * radius + 1,) * footprint.ndim).reshape(footprint.ndim, -1).T - radius
    return not lies_in(footprint, footprint_offsets(footprint)[:, None] + window).all(axis=1).any()


def line_footprint(n_axes: int, axis: int, length: int) -> list[object]:
    """A footprint along one axis, as readout lines and rows of a sensor ask for.

    Args:
        n_axes: 2 or 3, the network's.
        axis: the line runs along it; an index, negative ones count from the last.
        length: in voxels, odd.

    Returns:
        nested lists of 1, as configs hold them.

    Raises:
        ValueError: for an axis that the image has not, or an even length.
    """
    if not -n_axes <= axis < n_axes:
        raise ValueError(f"axis must be an index of {n_axes} axes, got {axis}. Count from 0.")
    if length < 1 or length % 2 == 0:
        raise ValueError(f"length must be odd, got {length}. The blind spot lies in the middle: use for example 5.")
    return np.ones([length if a == axis % n_axes else 1 for a in range(n_axes)], dtype=int).tolist()


def footprint_offsets(footprint: np.ndarray) -> np.ndarray:
    """Voxels of a footprint seen from its center, ``(n_offsets, n_axes)``."""
    return np.argwhere(footprint) - np.asarray(footprint.shape) // 2


@dataclass(frozen=True)
class Cover:
    """Which voxels the footprints of all sites cover; one row per pair of a site and a voxel it covers."""

    footprint: np.ndarray
    offsets: np.ndarray  # (n_offsets, n_axes), voxels of the footprint seen from its center
    targets: np.ndarray  # (n_targets, 1 + n_axes), unique
    row_target: np.ndarray  # (n_rows,), ascending
    row_site: np.ndarray  # (n_rows,)
    row_offset: np.ndarray  # (n_rows,), into offsets


def cover_sites(sites: np.ndarray, batch_shape: tuple[int, ...], footprint: np.ndarray) -> Cover:
    """Place the footprint on every site; its parts outside the image are dropped, never moved."""
    offsets = footprint_offsets(footprint)
    voxels = sites[:, None, 1:] + offsets
    inside = ((voxels >= 0) & (voxels < np.asarray(batch_shape[1:]))).all(axis=-1)
    row_site, row_offset = np.nonzero(inside)
    rows = np.column_stack([sites[row_site, 0], voxels[row_site, row_offset]])
    flat = np.ravel_multi_index(tuple(rows.T), batch_shape)
    _, first, row_target = np.unique(flat, return_index=True, return_inverse=True)
    order = np.argsort(row_target, kind="stable")
    return Cover(footprint, offsets, rows[first], row_target[order], row_site[order], row_offset[order])


def lies_in(footprint: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Whether offsets from a footprint's center ``(..., n_axes)`` lie in it."""
    within = offsets + np.asarray(footprint.shape) // 2
    near = ((within >= 0) & (within < np.asarray(footprint.shape))).all(axis=-1)
    found = np.zeros(near.shape, dtype=bool)
    found[near] = footprint[tuple(within[near].T)]
    return found
