# SPDX-License-Identifier: Apache-2.0
"""Batch norm folded into the convolutions before it, for prediction."""

from __future__ import annotations

import copy

import torch.nn as nn
from monai.networks.blocks import Convolution
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_eval

__all__ = ["fold_batch_norm"]


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """Make a copy of a network that predicts the same without its batch norms.

    With fixed statistics batch norm only scales and shifts, which the weights of the convolution before it can do.
    It saves a pass over the features and the memory of one, after every convolution.

    Args:
        network: in evaluation mode; MONAI's ``Convolution`` blocks whose norm comes first are folded, others stay.

    Returns:
        the copy; equal to rounding. The network itself where it cannot be copied.
    """
    try:
        folded = copy.deepcopy(network)
    except RuntimeError:  # weights computed from others, by weight norm or pruning, cannot be copied
        return network
    for block in folded.modules():
        if not isinstance(block, Convolution) or not isinstance(block.conv, (nn.Conv2d, nn.Conv3d)):
            continue
        first = next(iter(getattr(block, "adn", nn.Sequential()).named_children()), None)
        if first is not None and isinstance(first[1], _BatchNorm) and _are_fixed(block.conv, first[1]):
            block.conv = fuse_conv_bn_eval(block.conv, first[1])
            setattr(block.adn, first[0], nn.Identity())
    return folded


def _are_fixed(conv: nn.Module, norm: _BatchNorm) -> bool:
    """Whether a convolution's weights and a batch norm's statistics are what they seem, and stay so."""
    computed = parametrize.is_parametrized(conv) or bool(conv._forward_pre_hooks)
    return norm.track_running_stats and not (norm.training or conv.training or computed)
