# SPDX-License-Identifier: Apache-2.0
"""Noise of an image by a denoised version of it: of parts that are enough to measure it."""

import math
from typing import NamedTuple

import numpy as np
import torch
from monai.data import MetaTensor
from scipy import ndimage

from monai_n2v.noise.model import NoiseModel, fit_noise_model
from monai_n2v.noise.processing import constant_areas
from monai_n2v.transforms.padding import padding_in

# Channels of an image whose noise is measured, and voxels of these: more make it no better.
_N_CHANNELS, _MAX_VOXELS = 4, 2**20
_FEW_VOXELS = 2**17  # of each, where every channel of many is measured
_COARSE = 2**20  # voxels in which content is looked for


class NoisyPart(NamedTuple):
    """A part of one channel of an image.

    Attributes:
        noisy: the channel ``(1, *spatial)``, standardized.
        padding: where the channel was padded, and the two voxels around it; bool ``(1, *spatial)``.
    """

    noisy: torch.Tensor
    padding: np.ndarray


def measure_part(part: NoisyPart, denoised: torch.Tensor) -> NoiseModel:
    """Measure the noise of a channel by its denoised version.

    Args:
        part: as of `parts_of`.
        denoised: the channel, ``(1, *spatial)``.

    Raises:
        NoNoiseError: where there is none to measure.
    """
    before, after = (one.cpu().float().numpy() for one in (part.noisy, denoised))
    return fit_noise_model(before, after, part.padding)


def padding_of(channel: torch.Tensor, filled: np.ndarray | None = None) -> np.ndarray:
    """Constant areas of a channel ``(1, *spatial)``, what was filled, and two voxels around; bool of the same shape."""
    voxels = channel.cpu().float().numpy()
    padded = constant_areas(voxels, float(voxels.min()))
    padded = padded if filled is None else padded | filled
    return ndimage.maximum_filter(padded, (1, *(5,) * (voxels.ndim - 1)))


def measure_channel(image: torch.Tensor, denoised: torch.Tensor, channel: int) -> NoiseModel:
    """Measure the noise of one channel of an image by a part of it.

    Args:
        image: ``(C, *spatial)``, standardized.
        denoised: of the same shape.
        channel: its number.

    Raises:
        NoNoiseError: where there is none to measure.
    """
    part, place = _part_of(image, channel, max(_FEW_VOXELS, _MAX_VOXELS // len(image)))
    return measure_part(part, denoised[channel][place][None])


def parts_of(image: torch.Tensor, max_voxels: int = _MAX_VOXELS) -> list[NoisyPart]:
    """Parts of an image that are enough to measure its noise: of a few channels, where there is most content.

    Args:
        image: ``(C, *spatial)``.
        max_voxels: of a channel, roughly.

    Returns:
        copies, plain tensors.
    """
    return [_part_of(image, channel, max_voxels)[0] for channel in evenly(len(image), _N_CHANNELS)]


def _part_of(image: torch.Tensor, channel: int, max_voxels: int) -> tuple[NoisyPart, tuple[slice, ...]]:
    """A part of a channel, and its place."""
    whole = image.as_tensor() if isinstance(image, MetaTensor) else image
    filled = padding_in(image.meta if isinstance(image, MetaTensor) else {}, channel, whole.shape[1:])[None]
    place = _fullest(whole[channel : channel + 1], filled, max_voxels)
    noisy = whole[channel][place][None].clone()
    return NoisyPart(noisy, padding_of(noisy, filled[(slice(None), *place)])), place


def evenly(n: int, n_chosen: int) -> list[int]:
    """A few of the numbers below ``n``, evenly spaced, the first and the last among them."""
    return sorted({round(k) for k in np.linspace(0, n - 1, min(n, n_chosen))})


def _fullest(channel: torch.Tensor, filled: np.ndarray, max_voxels: int) -> tuple[slice, ...]:
    """Where a channel has the least padding along every axis; of equals the place nearest to the middle."""
    n_axes = channel.ndim - 1
    stride = max(1, math.ceil((channel.numel() / _COARSE) ** (1 / n_axes)))
    every = (slice(None), *(slice(None, None, stride),) * n_axes)
    coarse = channel[every].cpu().float().numpy()
    content = ~(constant_areas(coarse, float(coarse.min())) | filled[every])[0]
    place, n_voxels = [], channel.numel()
    for axis, side in enumerate(channel.shape[1:]):
        share = (max_voxels / n_voxels) ** (1 / (n_axes - axis))
        kept = min(side, max(32, int(side * min(1.0, share)) // 16 * 16))
        counts = content.sum(axis=tuple(other for other in range(n_axes) if other != axis))
        window = max(1, min(len(counts), kept // stride))
        sums = np.convolve(counts, np.ones(window, dtype=int), mode="valid")
        middle = (len(counts) - window) / 2
        best = min(np.flatnonzero(sums == sums.max()), key=lambda start: abs(start - middle))
        start = (side - kept) // 2 if sums.min() == sums.max() else min(int(best) * stride, side - kept)
        place.append(slice(start, start + kept))
        n_voxels = n_voxels // side * kept
    return tuple(place)
