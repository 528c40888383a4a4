# SPDX-License-Identifier: Apache-2.0
"""MONAI's BasicUNet without a border, and the paper's U-Net, built from the same blocks."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, cast

import torch
import torch.nn as nn
import torch.nn.functional as F
from monai.networks.blocks import Convolution
from monai.networks.layers.factories import Pad, Pool
from monai.networks.nets.basic_unet import BasicUNet, Down, TwoConv, UpCat


class ReplicateUNet(BasicUNet):
    """MONAI's BasicUNet, whose convolutions repeat the values at the border instead of reading zeros beyond it.

    Weights and everything else are those of BasicUNet. In a patch of 32 voxels the deepest of its five levels is 2
    voxels wide, all of them at the border. With zeros around, these levels learn the border, and fail in an image that
    is larger than the patches. With repeated values they learn the same from small patches as from large ones, so that
    a training step may be small (``docs/measurements/``).

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the noisy image.
        out_channels: channels of the prediction.
        features: feature maps of the five levels, and of the last one on the way up.
        act: activation, as MONAI names it.
        norm: feature normalization, as MONAI names it; None for none.
        bias: whether convolutions have a bias.
        dropout: as MONAI names it.
        upsample: ``"deconv"``, ``"pixelshuffle"`` or ``"nontrainable"``.
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        in_channels: int = 1,
        out_channels: int = 1,
        features: Sequence[int] = (32, 32, 64, 128, 256, 32),
        act: str | tuple[Any, ...] = ("LeakyReLU", {"negative_slope": 0.1, "inplace": True}),
        norm: str | tuple[Any, ...] | None = None,
        bias: bool = True,
        dropout: float | tuple[Any, ...] = 0.0,
        upsample: str = "deconv",
    ) -> None:
        super().__init__(spatial_dims, in_channels, out_channels, features, act, norm, bias, dropout, upsample)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Conv3d)) and module.kernel_size[0] > 1:
                module.padding_mode = "replicate"


class N2VUNet(nn.Module):
    """The U-Net of the Noise2Void paper ([1]_, Sec. 4): shallow, batch norm before each activation, linear last layer.

    Two convolutions per level, max pooling, features doubling with depth, upsampling by nearest neighbor after a
    halving 1x1 convolution, concatenation with the skip. Its receptive field is small (23 voxels to each side for
    depth 2 and kernel 3), so tiles with that halo give exactly the whole image's result.

    With ``blur_pool=True, top_skip=False`` it is the network of N2V2 ([2]_), which leaves no checkerboards:
    the maximum over neighbors is blurred before it is subsampled, and the first level's features, with the noise in
    them, do not go past the deeper levels. The receptive field grows to 26 voxels to each side.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the noisy image.
        out_channels: channels of the prediction.
        features: feature maps of the first level, doubled with every level; 96 for BSD68 in the paper, 32 elsewhere. Or
            one number per level, ``depth + 1`` of them.
        depth: number of poolings; 2 in the paper.
        kernel_size: odd side of the convolutions; 3, or 5 for the simulated data of the paper.
        act: activation, as MONAI names it.
        norm: feature normalization, as MONAI names it. Batch norm, as in the paper, trains on the statistics of a batch
            of patches and predicts with an average of them; on one image of few patches they differ, which shifts
            intensities; None with clipped gradients trains as well, and faster. Instance norm erases absolute
            intensity: avoid it.
        blur_pool: whether the poolings are max-blur-pools: maximum over 2 voxels at every voxel, then a binomial filter
            [1, 2, 1] / 4 and every second voxel, along each axis. Has no weights.
        top_skip: whether the last level sees the first one's features.

    Attributes:
        divisor: what the sides are padded to a multiple of, ``2 ** depth``.
        halo: how far a voxel of the result sees, in voxels to each side.

    Raises:
        ValueError: for a depth below 1, an even kernel, other ``spatial_dims`` than 2 and 3, or a number of features
            that does not fit the depth.

    References:
        .. [1] Krull et al., "Noise2Void - Learning Denoising from Single Noisy Images", CVPR 2019.
        .. [2] Hoeck et al., "N2V2 - Fixing Noise2Void Checkerboard Artifacts with Modified Sampling Strategies and a
           Tweaked Network Architecture", ECCV Workshops 2022.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int = 1,
        out_channels: int = 1,
        features: int | Sequence[int] = 32,
        depth: int = 2,
        kernel_size: int = 3,
        act: str | tuple[Any, ...] = ("relu", {"inplace": True}),
        norm: str | tuple[Any, ...] | None = "batch",
        blur_pool: bool = False,
        top_skip: bool = True,
    ) -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}. Use 2 for images, 3 for volumes.")
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}. The paper uses 2.")
        if kernel_size < 3 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and at least 3, got {kernel_size}. The paper uses 3 and 5.")
        self.spatial_dims = spatial_dims
        self.top_skip = top_skip
        self.divisor = 2**depth
        self._convs_reach = 2 * (kernel_size // 2)
        self.halo = _reach(depth, kernel_size, blur_pool)

        widths = list(features) if isinstance(features, Sequence) else [features * 2**n for n in range(depth + 1)]
        if len(widths) != depth + 1:
            raise ValueError(
                f"features must be one number, or one per level, {depth + 1} for depth {depth}, got {widths}. "
                "Give one number to double it with every level."
            )
        block = {"act": act, "norm": norm, "bias": norm is None}
        self.first = TwoConv(spatial_dims, in_channels, widths[0], **block)
        self.down = nn.ModuleList(Down(spatial_dims, a, b, **block) for a, b in pairwise(widths))
        nearest = {"upsample": "nontrainable", "interp_mode": "nearest", "align_corners": None, "is_pad": False}
        skipped = [width if top_skip or level > 0 else 0 for level, width in enumerate(widths)]
        self.up = nn.ModuleList(
            UpCat(spatial_dims, widths[level + 1], skipped[level], widths[level], **block, **nearest)
            for level in reversed(range(depth))
        )
        self.last = Convolution(spatial_dims, widths[0], out_channels, kernel_size=1, conv_only=True)
        if kernel_size != 3:
            _widen_kernels(self, kernel_size)
        if blur_pool:
            for down in self.down:
                down.max_pooling = _max_blur_pool(spatial_dims)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Predict the signal.

        Args:
            x: noisy images ``(B, in_channels, *spatial)`` of any spatial size; replicated at the far borders up to a
                multiple of ``2 ** depth`` and cropped back.

        Returns:
            ``(B, out_channels, *spatial)``.
        """
        skips = [self.first(pad_far(x, self.divisor))]
        for down in self.down:
            skips.append(down(skips[-1]))
        y = skips.pop()
        for up in self.up:
            skip = skips.pop()
            y = up(y, skip if len(skips) > 0 or self.top_skip else None)
        return crop_far(self.last(y), list(x.shape[2:]))

    def forward_part(self, x: torch.Tensor, part: Sequence[slice]) -> torch.Tensor:
        """Predict a part of the result: the same voxels as of `forward`, without what nobody sees.

        On the way up every level is computed as far as the part needs it, which spares a tile most of its halo's cost.

        Args:
            x: noisy images ``(B, in_channels, *spatial)``; sides are multiples of `divisor`.
            part: of each spatial axis, with start and stop.

        Returns:
            ``(B, out_channels, *part)``.
        """
        skips: list[torch.Tensor] = [self.first(x)]
        for down in self.down:
            skips.append(down(skips[-1]))
        # Per level from the top: what its convolutions give, and what they read.
        given: list[Any] = list(part)
        levels, reach = [], self._convs_reach
        for skip in skips[:-1]:
            sizes = skip.shape[2:]
            read = [slice(max(g.start - reach, 0), min(g.stop + reach, size)) for g, size in zip(given, sizes)]
            levels.append((given, read))
            given = [slice(r.start // 2, -(-r.stop // 2)) for r in read]
        y = skips.pop()[(..., *given)]
        for up, (wanted, read) in zip(cast(Iterable[UpCat], self.up), reversed(levels)):
            y = up.upsample(y)
            y = y[(..., *[slice(r.start - 2 * g.start, r.stop - 2 * g.start) for r, g in zip(read, given)])]
            skip = skips.pop()
            if skips or self.top_skip:
                y = torch.cat([skip[(..., *read)], y], dim=1)
            del skip  # its memory is needed
            y = up.convs(y)
            y = y[(..., *[slice(w.start - r.start, w.stop - r.start) for w, r in zip(wanted, read)])]
            given = wanted
        return self.last(y)


def pad_far(images: torch.Tensor, divisor: int) -> torch.Tensor:
    """Replicate the far borders of ``(B, C, *spatial)`` until ``divisor`` divides every side."""
    pad: list[int] = []
    for side in images.shape[2:]:
        pad = [0, -side % divisor] + pad
    return F.pad(images, pad, mode="replicate") if sum(pad) > 0 else images


def crop_far(images: torch.Tensor, size: list[int]) -> torch.Tensor:
    """Undo `pad_far`: a view of the first voxels along every axis, as many as ``size`` tells."""
    for axis, side in enumerate(size):
        images = images.narrow(2 + axis, 0, side)
    return images


def _max_blur_pool(spatial_dims: int) -> nn.Sequential:
    """Max-blur-pool of even sides; two means over 2 voxels are the binomial filter, centered where max pooling is."""
    return nn.Sequential(
        Pad["replicationpad", spatial_dims](1),
        Pool["max", spatial_dims](2, stride=1),
        Pool["avg", spatial_dims](2, stride=1),
        Pool["avg", spatial_dims](2, stride=2),
    )


def _reach(depth: int, kernel_size: int, blur_pool: bool) -> int:
    """How far the result at a voxel sees, wherever the voxel lies on the pooling grid.

    Along the longest way, through the deepest level, every level has two convolutions going down and two going up.
    """
    convs = 2 * (kernel_size // 2)
    reach = 0
    for voxel in range(2**depth):
        low = high = voxel
        for _ in range(depth):
            low, high = (low - convs) // 2, (high + convs) // 2  # nearest upsampling reads the cell a voxel lies in
        low, high = low - convs, high + convs
        for _ in range(depth):
            low, high = 2 * low - blur_pool - convs, 2 * high + 1 + blur_pool + convs
        reach = max(reach, voxel - low, high - voxel)
    return reach


def _widen_kernels(network: nn.Module, kernel_size: int) -> None:
    """Replace 3-wide convolutions; BasicUNet's blocks know no other width."""
    for name, module in network.named_children():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)) and module.kernel_size[0] == 3:
            channels, has_bias = (module.in_channels, module.out_channels), module.bias is not None
            wide = type(module)(*channels, kernel_size, padding=kernel_size // 2, bias=has_bias)
            setattr(network, name, wide)
        else:
            _widen_kernels(module, kernel_size)
