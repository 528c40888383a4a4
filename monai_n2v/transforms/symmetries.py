# SPDX-License-Identifier: Apache-2.0
"""Which flips and exchanges of axes an image may undergo without becoming another kind of image.

A mirrored or turned image is as likely as the original where its voxels are as long along one axis as along the other,
and where its noise is no more correlated along one direction than along its image. The structN2V footprint tells the
latter.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from monai_n2v.transforms.footprints import footprint_offsets

# Voxel sides that differ by less count as equal.
_SPACING_TOLERANCE = 0.01
# Planes that are turned back at a time.
_SLAB = 16


def flippable_axes(footprint: object, n_axes: int) -> tuple[bool, ...]:
    """Tell along which axes an image may be flipped.

    Args:
        footprint: structN2V, an odd-sided 0/1 array with ``n_axes`` axes, or None.
        n_axes: of the image.

    Returns:
        for each axis whether flipping along it leaves the footprint unchanged.

    Raises:
        ValueError: for a footprint of another number of axes.
    """
    offsets = _offsets(footprint, n_axes)
    if offsets is None:
        return (True,) * n_axes
    signs = 1 - 2 * np.eye(n_axes, dtype=int)
    return tuple(_rows(offsets * sign) == _rows(offsets) for sign in signs)


def axis_orders(
    n_axes: int, spacing: Sequence[float], sides: Sequence[int] | None = None, footprint: object = None
) -> np.ndarray:
    """List the orders into which the axes of an image may be brought.

    Args:
        n_axes: of the image.
        spacing: voxel sides in any unit, one per axis; further ones are ignored. Only axes whose spacings agree to 1 %
            are exchanged.
        sides: of a patch in voxels, one per axis, where the result must have the same ones; None where it need not.
        footprint: structN2V, an odd-sided 0/1 array with ``n_axes`` axes that must stay unchanged, or None.

    Returns:
        integers ``(n_orders, n_axes)``, as `numpy.transpose` takes them; the identity is one of them.

    Raises:
        ValueError: for a footprint of another number of axes.
    """
    offsets = _offsets(footprint, n_axes)
    candidates = np.array(np.meshgrid(*[np.arange(n_axes)] * n_axes)).reshape(n_axes, -1).T
    permitted = [
        order
        for order in candidates
        if len(set(order.tolist())) == n_axes
        and all(math.isclose(spacing[a], spacing[b], rel_tol=_SPACING_TOLERANCE) for a, b in enumerate(order))
        and (sides is None or all(sides[a] == sides[b] for a, b in enumerate(order)))
        and (offsets is None or _rows(offsets[:, order]) == _rows(offsets))
    ]
    return np.array(permitted)


class Symmetry(NamedTuple):
    """An exchange of axes, followed by flips.

    Attributes:
        order: of the axes, as `numpy.transpose` takes it.
        flips: for each axis of the result whether it is flipped.
    """

    order: tuple[int, ...]
    flips: tuple[bool, ...]

    def apply(self, images: torch.Tensor) -> torch.Tensor:
        """Transform ``(B, C, *axes[, further])``; axes beyond those of the symmetry stay as they are."""
        turned = images.permute(self._dims(self.order, images.ndim))
        flipped = [2 + axis for axis, flip in enumerate(self.flips) if flip]
        return turned.flip(flipped) if flipped else turned

    def add_undone(self, total: torch.Tensor, images: torch.Tensor) -> None:
        """Add to ``total``, in place, what `apply` would have turned into ``images``; slab by slab, to bound memory."""
        back = images.permute(self._dims(np.argsort(self.order).tolist(), images.ndim))
        flipped = [2 + axis for axis, flip in zip(self.order, self.flips) if flip]
        size = total.shape[2]
        for start in range(0, size, _SLAB):
            length = min(_SLAB, size - start)
            slab = back.narrow(2, size - start - length if 2 in flipped else start, length)
            total.narrow(2, start, length).add_(slab.flip(flipped) if flipped else slab)

    @staticmethod
    def _dims(order: Sequence[int], ndim: int) -> list[int]:
        return [0, 1, *(2 + axis for axis in order), *range(2 + len(order), ndim)]


def list_symmetries(n_axes: int, spacings: Sequence[Sequence[float]], footprint: object = None) -> tuple[Symmetry, ...]:
    """List the symmetries over which predictions are averaged.

    All permitted flips, times the exchange of one pair of axes where there is a permitted one: 8 in 2D; 16 in 3D, since
    all 48 would take long and add little. Without exchange 4 in 2D, 8 in 3D.

    Args:
        n_axes: of the image.
        spacings: voxel sides of each image of a batch, one per axis; axes are exchanged where every image permits it.
        footprint: structN2V, an odd-sided 0/1 array with ``n_axes`` axes, or None.

    Returns:
        the symmetries, a group; the identity first.

    Raises:
        ValueError: for a footprint of another number of axes.
    """
    identity = tuple(range(n_axes))
    permitted = [{tuple(o) for o in axis_orders(n_axes, sides, None, footprint).tolist()} for sides in spacings]
    pairs = itertools.combinations(identity, 2)
    exchanges = (tuple({a: b, b: a}.get(axis, axis) for axis in identity) for a, b in pairs)
    exchange = next((order for order in exchanges if all(order in orders for orders in permitted)), None)
    choices = [(False, True) if free else (False,) for free in flippable_axes(footprint, n_axes)]
    orders = [identity] if exchange is None else [identity, exchange]
    return tuple(Symmetry(order, flips) for order in orders for flips in itertools.product(*choices))


def _offsets(footprint: object, n_axes: int) -> np.ndarray | None:
    """A footprint's voxels seen from its center, so that zeros at its sides do not matter."""
    if footprint is None:
        return None
    array = np.asarray(footprint)
    if array.ndim != n_axes:
        raise ValueError(
            f"footprint must have {n_axes} axes like the network's images, got shape {array.shape}. "
            "Give it one side per axis."
        )
    return footprint_offsets(array)


def _rows(offsets: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(row) for row in offsets.tolist()}
