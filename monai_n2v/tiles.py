# SPDX-License-Identifier: Apache-2.0
"""How an image is cut into tiles whose origins lie on a network's pooling grid."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Cut", "cheapest_tile", "cut_axis", "tile_sides"]


@dataclass(frozen=True)
class Cut:
    """A tile along one axis.

    Attributes:
        read: the voxels the network sees, halo included.
        kept: those of the image that the tile gives.
        inner: the same, counted from the tile's first voxel.
    """

    read: slice
    kept: slice
    inner: slice


def cut_axis(size: int, tile: int, halo: int) -> list[Cut]:
    """Cut one axis. A tile at the image's border has no halo there and keeps more.

    Args:
        size: voxels along the axis, a multiple of the network's divisor like the others.
        tile: side of a tile with its halo, above twice the halo.
        halo: voxels of context between a tile's end and what is kept.

    Returns:
        tiles in order; what they keep covers the axis once.
    """
    if size <= tile:
        return [Cut(slice(0, size), slice(0, size), slice(0, size))]
    cuts = []
    start = 0
    while start < size:
        low = max(0, start - halo)
        stop = min(size, low + tile)
        end = size if stop == size else stop - halo
        cuts.append(Cut(slice(low, stop), slice(start, end), slice(start - low, end - low)))
        start = end
    return cuts


def tile_sides(size: int, halo: int, divisor: int) -> list[int]:
    """Sides worth trying along one axis, from the whole down: the smallest tile for every number of pieces."""
    sides = [size]
    for n_tiles in itertools.count(2):
        inner = -(-(size - 2 * halo) // n_tiles)
        side = -(-inner // divisor) * divisor + 2 * halo
        if side < sides[-1]:
            sides.append(side)
        if inner <= divisor:
            return sides
    raise AssertionError


def cheapest_tile(
    sizes: Sequence[int], halo: int, divisor: int, fits: Callable[[tuple[int, ...]], bool], n_tries: int = 200
) -> tuple[int, ...]:
    """The tile that fits and makes the network see the fewest voxels, halos included.

    Args:
        sizes: of the image, multiples of ``divisor``.
        halo: voxels of context, a multiple of ``divisor``.
        divisor: of the tile's sides.
        fits: whether the network has memory for a tile of these sides; asked for the cheapest first.
        n_tries: how often it is asked at most.

    Returns:
        sides of the tile; the image's own where all of it fits. The smallest tile that leaves anything inside its halo
        where none fits.
    """
    costs = [{side: _seen(size, side, halo) for side in tile_sides(size, halo, divisor)} for size in sizes]
    tiles = sorted(itertools.product(*costs), key=lambda tile: math.prod(c[side] for c, side in zip(costs, tile)))
    too_large = math.inf  # voxels of the smallest tile known not to fit
    for tile in tiles:
        if math.prod(tile) < too_large:
            if fits(tile):
                return tile
            n_tries -= 1
            # Memory grows with a tile's voxels, if not with these alone: leave out what is a good deal larger.
            too_large = min(too_large, 1.5 * math.prod(tile))
            if n_tries == 0:
                break
    return tuple(min(c) for c in costs)


def _seen(size: int, side: int, halo: int) -> int:
    return sum(cut.read.stop - cut.read.start for cut in cut_axis(size, side, halo))
