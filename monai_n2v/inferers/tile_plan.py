# SPDX-License-Identifier: Apache-2.0
"""How an image is cut into tiles on a network's pooling grid, and how much memory a tile takes."""

import copy
import itertools
import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Cut(NamedTuple):
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

    Raises:
        ValueError: where a tile leaves nothing inside its halo.
    """
    if size <= tile:
        return [Cut(slice(0, size), slice(0, size), slice(0, size))]
    if tile <= 2 * halo:
        raise ValueError(
            f"tile must be above twice the halo of {halo} voxels, got {tile}. Use at least {2 * halo + 1}."
        )
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
    sizes: Sequence[int], halo: int, divisor: int, needed: Callable[[tuple[int, ...]], int], budget: int
) -> tuple[int, ...]:
    """The tile that fits and makes the network see the fewest voxels, halos included.

    Memory grows with a tile's voxels, and less where much of it is halo. Asking costs a pass through the network on
    shapes alone, so what tiles need is estimated from the whole image's and the smallest tile's, and asked where the
    estimate fits.

    Args:
        sizes: of the image, multiples of ``divisor``.
        halo: voxels of context, a multiple of ``divisor``.
        divisor: of the tile's sides.
        needed: bytes that the network needs for a tile of these sides.
        budget: bytes there are.

    Returns:
        sides of the tile; the image's own where all of it fits. The smallest tile that leaves anything inside its halo
        where none fits.
    """
    whole = tuple(sizes)
    if needed(whole) <= budget:
        return whole
    costs = [{side: _seen(size, side, halo) for side in tile_sides(size, halo, divisor)} for size in sizes]
    smallest = tuple(min(axis) for axis in costs)

    def kept(tile: Sequence[int]) -> float:
        return math.prod((side - 2 * halo) / side if side < size else 1 for side, size in zip(tile, sizes))

    low, high = kept(smallest), 1.0
    of_smallest, of_whole = (needed(tile) / math.prod(tile) for tile in (smallest, whole))
    slope = (of_whole - of_smallest) / (high - low) if high > low else 0.0
    too_low = 1.0  # by what the estimate was found to be
    for tile in sorted(itertools.product(*costs), key=lambda tile: math.prod(c[n] for c, n in zip(costs, tile))):
        estimate = math.prod(tile) * (of_smallest + slope * (kept(tile) - low))
        if estimate * too_low <= budget:
            found = needed(tile)
            if found <= budget:
                return tile
            too_low = max(too_low * 1.02, found / estimate)
    return smallest


def seen_voxels(sizes: Sequence[int], tile: Sequence[int], halo: int) -> int:
    """Voxels that a network sees in all tiles, halos included."""
    return math.prod(_seen(size, side, halo) for size, side in zip(sizes, tile))


def _seen(size: int, side: int, halo: int) -> int:
    return sum(cut.read.stop - cut.read.start for cut in cut_axis(size, side, halo))


def on_meta(network: torch.nn.Module) -> torch.nn.Module:
    """A copy of a network that holds shapes alone, so that running it costs neither time nor memory."""
    return copy.deepcopy(network).to("meta")


class Held(NamedTuple):
    """What a forward pass holds, in bytes of float32.

    Attributes:
        peak: most at once, input and output included; weights and the workspaces of convolutions not.
        largest: of a single tensor.
    """

    peak: int
    largest: int


def held_by(forward: Callable[[torch.Tensor], Any], shape: Sequence[int], device: Any = "meta") -> Held:
    """How much memory a forward pass takes, on the meta device found without taking it.

    Args:
        forward: a network of `on_meta`, or a method of one.
        shape: ``(B, C, *spatial)`` of a float32 input.
        device: of the network.

    Returns:
        the peak and the largest tensor.
    """
    with torch.no_grad(), _LiveBytes() as live:
        images = torch.zeros(*shape, device=device)  # which the caller of a network holds
        forward(images)
    return Held(int(live.peak), int(live.largest))


class _LiveBytes(TorchDispatchMode):
    """Follow the storages that operators make until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self.largest = 0
        self._seen: set[int] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch would load its compiler, for a second, to tell it to stay away from what nobody compiles."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and look at what it made."""
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._follow(leaf.untyped_storage())
        return out

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key = int(storage._cdata)
        if key in self._seen:  # a view, or changed in place
            return
        self._seen.add(key)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        self.largest = max(self.largest, storage.nbytes())
        weakref.finalize(storage, self._forget, key, storage.nbytes())

    def _forget(self, key: int, n_bytes: int) -> None:
        self._seen.discard(key)
        self.now -= n_bytes
