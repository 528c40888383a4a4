# SPDX-License-Identifier: Apache-2.0
"""A network made ready to predict many tiles."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard, cast

import torch
import torch.nn as nn
from monai.networks.blocks import Convolution
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_eval

from monai_n2v.inferers.precision import autocast_bfloat16
from monai_n2v.inferers.tile_plan import on_meta
from monai_n2v.networks import N2VUNet


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

    def in_float32(self) -> Callable[..., torch.Tensor]:
        """The same in float32, whatever `amp`."""
        return self._run(self.network)

    def on_meta(self) -> Callable[..., torch.Tensor]:
        """The same for shapes alone."""
        return self._run(on_meta(cast(torch.nn.Module, self.network)))

    def _run(self, network: Callable[..., Any]) -> Callable[..., torch.Tensor]:
        if not self.args and not self.kwargs and _is_plain(network) and self.divisor % network.divisor == 0:
            return network.forward_part
        return lambda tile, part: network(tile, *self.args, **self.kwargs)[(..., *part)]


def _is_plain(network: Callable[..., Any]) -> TypeGuard[N2VUNet]:
    """Whether calling a network is the forward pass of `N2VUNet`, and nothing besides."""
    return (
        isinstance(network, N2VUNet)
        and type(network).forward is N2VUNet.forward
        and "forward" not in vars(network)
        and not network._forward_hooks
        and not network._forward_pre_hooks
    )


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """Make a copy of a network that predicts the same without its batch norms.

    With fixed statistics batch norm only scales and shifts, which the weights of the convolution before it can do.
    It saves a pass over the features and the memory of one, after every convolution.

    Args:
        network: in evaluation mode; MONAI's ``Convolution`` blocks whose norm comes first are folded, others stay.

    Returns:
        the copy; equal to rounding. The network itself where there is nothing to fold, or it cannot be copied.
    """
    names = [name for name, block in network.named_modules() if _norm_of(block) is not None]
    if not names:
        return network
    try:
        folded = copy.deepcopy(network)
    except RuntimeError:  # weights computed from others, by weight norm or pruning, cannot be copied
        return network
    blocks: list[Any] = [folded.get_submodule(name) for name in names]
    for block in blocks:
        name = _norm_of(block) or ""
        block.conv = fuse_conv_bn_eval(block.conv, getattr(block.adn, name))
        setattr(block.adn, name, nn.Identity())
    return folded


def _norm_of(block: nn.Module) -> str | None:
    """Name of the batch norm right behind a block's convolution, where both stay what they are."""
    if not isinstance(block, Convolution) or not isinstance(block.conv, (nn.Conv2d, nn.Conv3d)):
        return None
    name, norm = next(iter(getattr(block, "adn", nn.Sequential()).named_children()), ("", None))
    if not isinstance(norm, _BatchNorm) or not norm.track_running_stats or norm.training or block.conv.training:
        return None
    computed = parametrize.is_parametrized(block.conv) or bool(block.conv._forward_pre_hooks)
    return None if computed else name
