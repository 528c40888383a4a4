# SPDX-License-Identifier: Apache-2.0
"""Prediction of images of any size: padded for the network's poolings, and in tiles where memory asks for it."""

import functools
import itertools
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.utils import ensure_tuple_rep

from monai_n2v.inferers.precision import autocast_bfloat16
from monai_n2v.inferers.predictor import Predictor
from monai_n2v.inferers.tile_plan import cheapest_tile, cut_axis, held_by, seen_voxels
from monai_n2v.io.memory import free_bytes
from monai_n2v.networks import crop_far, pad_far

# Sides for networks that cannot tell how much memory they take.
_USUAL_TILE = {2: 1024, 3: 128}
# Allowance for what convolutions take besides, copies in another layout above all.
_WORKSPACE = 1.5
# Where halos make the network see more than so many times the image, a tile may take more memory.
_MAX_COST = 3.0


class PaddedInferer(Inferer):
    """Run a network on images of any size: replicated at the far borders up to a size its poolings divide, and cropped.

    Padding comes after masking, so a hidden voxel cannot reappear in the padding.

    Args:
        divisor: the sides' common divisor, ``2 ** n_poolings``: 16 for BasicUNet.
        amp: whether the network computes in bfloat16.
    """

    def __init__(self, divisor: int = 16, amp: bool = False) -> None:
        self.divisor = divisor
        self.amp = amp

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Predict ``(B, C, *spatial)``; the result has the same spatial size."""
        network = autocast_bfloat16(network) if self.amp else network
        return crop_far(network(pad_far(inputs, self.divisor), *args, **kwargs), list(inputs.shape[2:]))


# Of predictions: where each belongs in the whole, and the prediction.
_Parts: TypeAlias = Iterator[tuple[tuple[Any, ...], torch.Tensor]]


class _Plan(NamedTuple):
    """How an image is cut: sides of a tile, how many slices are predicted at a time, and the bytes that takes."""

    tile: tuple[int, ...]
    n_slices: int
    budget: int


class AlignedTileInferer(Inferer):
    """Predict images and volumes in tiles whose origins lie on the network's pooling grid.

    Every tile is predicted with a halo of context that is then cropped, not blended. Where the halo covers the
    receptive field, the result equals the whole image's. MONAI's ``SlidingWindowInferer`` shifts its last window to the
    border instead, off the pooling grid, and blends.

    Halos are computed and thrown away, so tiles are as large as memory permits, and an image that fits is not cut.
    Batch norms are folded into the convolutions first, and `N2VUNet` computes of a halo only what the rest needs.

    With one spatial axis more than the network has, a volume is predicted slice by slice along its last axis. With a
    network of one channel, each channel of an image is predicted on its own.

    The result lies where ``inputs`` lie; where the network lies elsewhere, only tiles travel to it. Memory: input,
    output and one batch of tiles.

    Args:
        spatial_dims: axes of the network, 2 or 3.
        in_channels: channels of the network.
        tile_size: sides of a tile with its halo, in voxels; one number or one per axis. None for the largest that the
            network has memory for: in RAM as much as the image takes in float32, or 0.6 GiB, or more where halos
            would make the network see over 3 times the image, and never above a quarter of what is free; half of a
            GPU's free memory.
        halo: context around the part of a tile that is kept, in voxels; rounded up to a multiple of ``divisor``.
        divisor: the sides' common divisor, ``2 ** n_poolings``: 16 for BasicUNet.
        n_slices: most slices predicted at a time when a volume is predicted slice by slice.
        amp: whether the network computes in bfloat16, which keeps three significant digits.

    Raises:
        ValueError: where a tile leaves nothing inside its halo.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int = 1,
        tile_size: int | Sequence[int] | None = None,
        halo: int = 16,
        divisor: int = 16,
        n_slices: int = 8,
        amp: bool = False,
    ) -> None:
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.divisor = divisor
        self.halo = -(-halo // divisor) * divisor
        self.n_slices = n_slices
        self.amp = amp
        self._plans: weakref.WeakKeyDictionary[Any, dict[Any, tuple[_Plan, int]]] = weakref.WeakKeyDictionary()
        self.tile_size: tuple[int, ...] | None = None
        if tile_size is not None:
            self.tile_size = tuple(side // divisor * divisor for side in ensure_tuple_rep(tile_size, spatial_dims))
            if min(self.tile_size) <= 2 * self.halo:
                raise ValueError(
                    f"tile_size must be above twice the halo of {self.halo} voxels, got {tuple(self.tile_size)}. "
                    f"Use at least {2 * self.halo + divisor}, or null for the largest that fits."
                )

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Predict.

        Args:
            inputs: ``(B, C, *spatial)``, floating point, on any device.
            network: maps ``(N, in_channels, *spatial)`` to ``(N, out_channels, *spatial)``.
            args: further arguments of the network.
            kwargs: further keyword arguments of the network.

        Returns:
            ``(B, C, *spatial)``, on the device of ``inputs``.

        Raises:
            ValueError: where axes or channels do not fit the network.
        """
        images = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        n_axes = images.ndim - 2
        if n_axes != self.spatial_dims and not (n_axes == 3 and self.spatial_dims == 2):
            raise ValueError(
                f"inputs must have {self.spatial_dims} spatial axes, got shape {tuple(images.shape[2:])}. "
                "Use the 2D bundle for images and the 3D bundle for volumes."
            )
        if self.in_channels not in (1, images.shape[1]):
            raise ValueError(
                f"inputs must have {self.in_channels} channels, got {images.shape[1]}. Set in_channels to the image's."
            )
        single = images.reshape(-1, self.in_channels, *images.shape[2:])
        predictor = Predictor(network, args, kwargs, self.amp, self.divisor, images.device)
        sizes = [-(-side // self.divisor) * self.divisor for side in single.shape[2 : 2 + self.spatial_dims]]
        tile, n_slices = self._plan_once(network, predictor, sizes, 4 * images.numel())

        def predicted() -> _Parts:
            for i in range(len(single)):
                if n_axes == self.spatial_dims:
                    yield (slice(i, i + 1),), self._predict_items(single[i : i + 1], predictor, tile)
                    continue
                for start in range(0, single.shape[-1], n_slices):
                    piece = slice(start, start + n_slices)
                    slices = self._predict_items(single[i, ..., piece].movedim(-1, 0), predictor, tile)
                    yield (slice(i, i + 1), ..., piece), slices.movedim(0, -1)[None]

        output = _assemble(predicted(), len(single), single.shape[2:], images.device)
        return output.reshape(len(images), -1, *images.shape[2:])

    def __getstate__(self) -> dict[str, Any]:
        """All but the plans, which belong to networks of this process."""
        return {name: value for name, value in self.__dict__.items() if name != "_plans"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Begin without plans."""
        self.__dict__.update(state)
        self._plans = weakref.WeakKeyDictionary()

    def _plan_once(
        self, network: Callable[..., Any], predictor: Predictor, sizes: Sequence[int], image_bytes: int
    ) -> tuple[tuple[int, ...], int]:
        """`_plan`, which takes longer than a small image's prediction: again only where there is other memory.

        A plan is kept while what it takes is there, and no much larger tile has become possible.
        """
        if not isinstance(network, torch.nn.Module) or self.tile_size is not None:
            return self._plan(predictor, sizes, image_bytes)[:2]
        known = self._plans.setdefault(network, {})
        key = (*sizes, image_bytes, predictor.device, self.halo, self.divisor, self.n_slices, self.in_channels)
        limit = _tile_budget(predictor.device, image_bytes)[1]
        plan, then = known.get(key, (None, 0))
        if plan is None or plan.budget > limit or limit > 1.5 * then:
            plan = self._plan(predictor, sizes, image_bytes)
            known[key] = plan, limit
        return plan[:2]

    def _plan(self, predictor: Predictor, sizes: Sequence[int], image_bytes: int) -> _Plan:
        """The cheapest tile that there is memory for."""
        if self.tile_size is not None:
            return _Plan(self.tile_size, self.n_slices, 0)
        budget, limit = _tile_budget(predictor.device, image_bytes)
        try:
            n_slices = self.n_slices if self.spatial_dims == 2 else 1
            taken = n_slices * self._estimate(predictor, sizes)
            if taken <= budget:
                return _Plan(tuple(sizes), n_slices, taken)
            model = predictor.on_meta()

            @functools.cache
            def needed(tile: tuple[int, ...]) -> int:
                # A tile with a halo on either side of the axes it cuts needs the most.
                inner = [slice(self.halo, n - self.halo) if n < size else slice(0, n) for n, size in zip(tile, sizes)]
                held = held_by(lambda x: model(x, inner), (1, self.in_channels, *tile))
                # Libraries count the elements of a tensor in 32 bits here and there.
                return max(int(_WORKSPACE * held.peak), limit * held.largest // (4 * 2**31))

            while True:
                tile = cheapest_tile(sizes, self.halo, self.divisor, needed, budget)
                dear = seen_voxels(sizes, tile, self.halo) > _MAX_COST * math.prod(sizes)
                if not dear or budget >= limit:
                    n_slices = min(self.n_slices, max(1, budget // needed(tile)))
                    return _Plan(tile, n_slices, n_slices * needed(tile))
                budget = min(2 * budget, limit)
        except Exception:  # noqa: BLE001 - a network may need values, not shapes alone, or not be one for copying
            smallest = 2 * self.halo + self.divisor
            side = max(_USUAL_TILE[self.spatial_dims] // self.divisor * self.divisor, smallest)
            return _Plan((side,) * self.spatial_dims, self.n_slices, 0)

    def _estimate(self, predictor: Predictor, sizes: Sequence[int]) -> int:
        """Bytes that the whole image needs, by those of a small one, whose borders make it need more by the voxel.

        For shapes alone torch loads its compiler first, which takes longer than a small image's prediction.
        """
        side = -(-16 // self.divisor) * self.divisor
        forward, part = predictor.in_float32(), [slice(0, side)] * self.spatial_dims
        shape = (1, self.in_channels, *(side,) * self.spatial_dims)
        held = held_by(lambda x: forward(x, part), shape, predictor.device)
        return int(_WORKSPACE * held.peak * max(1.0, math.prod(sizes) / side**self.spatial_dims))

    def _predict_items(self, items: torch.Tensor, predictor: Predictor, tile: Sequence[int]) -> torch.Tensor:
        """Predict a few items that fit the network's axes, tile by tile."""
        padded = pad_far(items, self.divisor)
        axes = [cut_axis(n, side, self.halo) for n, side in zip(padded.shape[2:], tile)]

        def predicted() -> _Parts:
            for cuts in itertools.product(*axes):
                read, kept, inner = zip(*cuts)
                yield (..., *kept), predictor(padded[(..., *read)].to(predictor.device), inner)

        return crop_far(_assemble(predicted(), len(items), padded.shape[2:], items.device), list(items.shape[2:]))


def _tile_budget(device: torch.device, image_bytes: int) -> tuple[int, int]:
    """Bytes that a tile may take at first, and at most."""
    free = free_bytes(device)
    if device.type == "cuda":
        return free // 2, free // 2
    return min(free // 4, max(5 * 2**27, image_bytes)), free // 4


def _assemble(parts: _Parts, n_items: int, size: Sequence[int], device: torch.device) -> torch.Tensor:
    """Put parts ``(n, C, *sides)`` in their places of ``(n_items, C, *size)``, without holding all of them first."""
    output: torch.Tensor | None = None
    for place, part in parts:
        shape = (n_items, part.shape[1], *size)
        if part.shape == shape:
            return part.to(device)
        if output is None:
            output = torch.empty(shape, dtype=part.dtype, device=device)
        output[place].copy_(part)
    assert output is not None
    return output
