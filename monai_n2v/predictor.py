# SPDX-License-Identifier: Apache-2.0
"""A network made ready to predict many tiles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard, cast

import torch
from torch.nn.parallel import DataParallel, DistributedDataParallel

from monai_n2v.folding import fold_batch_norm
from monai_n2v.memory import on_meta
from monai_n2v.networks import N2VUNet
from monai_n2v.precision import autocast_bfloat16

__all__ = ["Predictor", "cut_box"]


class Predictor:
    """A network made ready for many tiles: folded, and asked for parts of a tile where it knows how to give them.

    Args:
        network: any callable; that of a ``DataParallel`` or ``DistributedDataParallel`` on its own device.
        args: further arguments of the network.
        kwargs: further keyword arguments of the network.
        amp: whether it computes in bfloat16.
        divisor: common divisor of the tiles' sides.
        device: where a callable without weights computes.

    Attributes:
        device: where tiles have to be.
    """

    def __init__(
        self,
        network: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        amp: bool,
        divisor: int,
        device: torch.device,
    ) -> None:
        self.args, self.kwargs, self.amp, self.divisor = args, kwargs, amp, divisor
        if isinstance(network, (DataParallel, DistributedDataParallel)):
            network = network.module
        self.network = fold_batch_norm(network) if isinstance(network, torch.nn.Module) else network
        parameters = next(self.network.parameters(), None) if isinstance(self.network, torch.nn.Module) else None
        self.device = device if parameters is None else parameters.device

    def __call__(self, tile: torch.Tensor, part: Sequence[slice]) -> torch.Tensor:
        """Predict a part of a tile."""
        forward = self._run(self.network)
        return autocast_bfloat16(forward)(tile, part) if self.amp else forward(tile, part)

    def on_meta(self) -> Callable[..., torch.Tensor]:
        """The same for shapes alone."""
        return self._run(on_meta(cast(torch.nn.Module, self.network)))

    def _run(self, network: Callable[..., Any]) -> Callable[..., torch.Tensor]:
        if not self.args and not self.kwargs and _is_plain(network) and self.divisor % network.divisor == 0:
            return network.forward_part
        return lambda tile, part: cut_box(network(tile, *self.args, **self.kwargs), part)


def _is_plain(network: Callable[..., Any]) -> TypeGuard[N2VUNet]:
    """Whether calling a network is the forward pass of `N2VUNet`, and nothing besides."""
    return (
        isinstance(network, N2VUNet)
        and type(network).forward is N2VUNet.forward
        and "forward" not in vars(network)
        and not network._forward_hooks
        and not network._forward_pre_hooks
    )


def cut_box(images: torch.Tensor, part: Sequence[slice]) -> torch.Tensor:
    """Cut a box of the last axes.

    Args:
        images: any tensor.
        part: of each of the last axes.

    Returns:
        a view.
    """
    for axis, piece in zip(range(-len(part), 0), part):
        images = images.narrow(axis, piece.start, piece.stop - piece.start)
    return images
