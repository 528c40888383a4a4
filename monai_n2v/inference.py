# SPDX-License-Identifier: Apache-2.0
"""Prediction of images of any size: padded for the network's poolings, and in tiles where memory asks for it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.utils import ensure_tuple_rep

from monai_n2v.precision import autocast_bfloat16

__all__ = ["AlignedTileInferer", "PaddedInferer"]


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
        size = inputs.shape[2:]
        network = autocast_bfloat16(network) if self.amp else network
        return _cut(network(_pad_far(inputs, self.divisor), *args, **kwargs), [slice(0, n) for n in size])


def _pad_far(images: torch.Tensor, divisor: int) -> torch.Tensor:
    pad = [amount for side in reversed(images.shape[2:]) for amount in (0, -side % divisor)]
    return F.pad(images, pad, mode="replicate") if any(pad) else images


def _cut(images: torch.Tensor, part: Sequence[slice]) -> torch.Tensor:
    """A view of a box of the last axes."""
    for axis, piece in zip(range(-len(part), 0), part):
        images = images.narrow(axis, piece.start, piece.stop - piece.start)
    return images


class AlignedTileInferer(Inferer):
    """Predict images and volumes in tiles whose origins lie on the network's pooling grid.

    Every tile is predicted with a halo of context that is then cropped, not blended. Where the halo covers the
    receptive field, the result equals the whole image's. MONAI's ``SlidingWindowInferer`` shifts its last window to the
    border instead, off the pooling grid, and blends. Sides up to ``tile_size`` are not cut at all.

    With one spatial axis more than the network has, a volume is predicted slice by slice along its last axis. With a
    network of one channel, each channel of an image is predicted on its own.

    The result lies where ``inputs`` lie; where the network lies elsewhere, only tiles travel to it. Memory: input,
    output and one batch of tiles.

    Args:
        spatial_dims: axes of the network, 2 or 3.
        in_channels: channels of the network.
        tile_size: sides of a tile with its halo, in voxels; one number or one per axis.
        halo: context around the part of a tile that is kept, in voxels; rounded up to a multiple of ``divisor``.
        divisor: the sides' common divisor, ``2 ** n_poolings``: 16 for BasicUNet.
        n_slices: slices predicted at a time when a volume is predicted slice by slice.
        amp: whether the network computes in bfloat16, which keeps three significant digits.

    Raises:
        ValueError: where a tile leaves nothing inside its halo.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int = 1,
        tile_size: int | Sequence[int] = 128,
        halo: int = 16,
        divisor: int = 16,
        n_slices: int = 8,
        amp: bool = False,
    ) -> None:
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.divisor = divisor
        self.halo = -(-halo // divisor) * divisor
        self.tile_size = tuple(side // divisor * divisor for side in ensure_tuple_rep(tile_size, spatial_dims))
        self.n_slices = n_slices
        self.amp = amp
        if min(self.tile_size) <= 2 * self.halo:
            raise ValueError(
                f"tile_size must be above twice the halo of {self.halo} voxels, got {tuple(self.tile_size)}. "
                f"Use at least {2 * self.halo + divisor}."
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
        batch, channels = images.shape[:2]
        single = images.reshape(batch * channels // self.in_channels, self.in_channels, *images.shape[2:])

        device = _device_of(network, images)
        forward = autocast_bfloat16(network) if self.amp else network

        def predict(items: torch.Tensor) -> torch.Tensor:
            return self._predict_items(items, lambda tile: forward(tile, *args, **kwargs), device)

        if n_axes == self.spatial_dims:
            parts = (predict(item) for item in single.split(1))
            output = _collect(parts, single, dim=0)
        else:
            output = torch.cat([_collect(self._by_slices(item, predict), item, dim=-1) for item in single.split(1)])
        return output.reshape(batch, -1, *images.shape[2:])

    def _by_slices(self, item: torch.Tensor, predict: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[torch.Tensor]:
        """Predict a volume ``(1, C, H, W, n)`` as a few stacks of slices, in order."""
        for stack in item.split(self.n_slices, dim=-1):
            yield predict(stack[0].movedim(-1, 0)).movedim(0, -1)[None]

    def _predict_items(
        self, items: torch.Tensor, network: Callable[[torch.Tensor], torch.Tensor], device: torch.device
    ) -> torch.Tensor:
        """Predict a few items that fit the network's axes, tile by tile."""
        size = items.shape[2:]
        padded = _pad_far(items, self.divisor)
        output: torch.Tensor | None = None
        for cuts in itertools.product(*(self._cuts(n, tile) for n, tile in zip(padded.shape[2:], self.tile_size))):
            whole, kept, inner = ([cut[k] for cut in cuts] for k in range(3))
            tile = network(_cut(padded, whole).to(device))
            if all(part == slice(0, n) for part, n in zip(whole, padded.shape[2:])):
                output = tile.to(items.device)
                break
            if output is None:
                output = torch.empty(
                    len(items), tile.shape[1], *padded.shape[2:], dtype=tile.dtype, device=items.device
                )
            _cut(output, kept).copy_(_cut(tile, inner))
        assert output is not None
        return _cut(output, [slice(0, n) for n in size])

    def _cuts(self, size: int, tile: int) -> list[tuple[slice, slice, slice]]:
        """Cut one axis: where each tile reads, where its kept part lies in the image, and where in the tile."""
        if size <= tile:
            return [(slice(0, size), slice(0, size), slice(0, size))]
        cuts = []
        start = 0
        while start < size:
            # The first and the last tile have a border instead of a halo on one side and keep more.
            low = max(0, start - self.halo)
            stop = min(size, low + tile)
            end = size if stop == size else stop - self.halo
            cuts.append((slice(low, stop), slice(start, end), slice(start - low, end - low)))
            start = end
        return cuts


def _device_of(network: Callable[..., Any], images: torch.Tensor) -> torch.device:
    parameters = getattr(network, "parameters", None)
    first = next(parameters(), None) if parameters is not None else None
    return images.device if first is None else first.device


def _collect(parts: Iterator[torch.Tensor], like: torch.Tensor, dim: int) -> torch.Tensor:
    """Concatenate parts along ``dim`` into one allocation, without holding all of them first."""
    output: torch.Tensor | None = None
    start = 0
    for part in parts:
        if output is None:
            shape = list(part.shape)
            shape[dim] = like.shape[dim]
            output = torch.empty(shape, dtype=part.dtype, device=part.device)
        output.narrow(dim, start, part.shape[dim]).copy_(part)
        start += part.shape[dim]
    assert output is not None
    return output
