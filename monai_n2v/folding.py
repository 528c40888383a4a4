# SPDX-License-Identifier: Apache-2.0
"""Batch norm folded into the convolutions before it, for prediction."""

from __future__ import annotations

import copy

import torch.nn as nn
from monai.networks.blocks import Convolution
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

__all__ = ["fold_batch_norm"]


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """Make a copy of a network that predicts the same without its batch norms.

    With fixed statistics batch norm only scales and shifts, which the weights of the convolution before it can do.
    It saves a pass over the features and the memory of one, after every convolution.

    Args:
        network: in evaluation mode; MONAI's ``Convolution`` blocks whose norm comes first are folded, others stay.

    Returns:
        the copy; equal to rounding.
    """
    folded = copy.deepcopy(network)
    for block in folded.modules():
        if not isinstance(block, Convolution) or not isinstance(block.conv, (nn.Conv2d, nn.Conv3d)):
            continue
        for name, first in list(getattr(block, "adn", nn.Sequential()).named_children())[:1]:
            if isinstance(first, _BatchNorm) and first.track_running_stats and not first.training:
                block.conv = fuse_conv_bn_eval(block.conv, first)
                setattr(block.adn, name, nn.Identity())
    return folded
