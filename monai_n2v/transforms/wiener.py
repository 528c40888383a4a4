# SPDX-License-Identifier: Apache-2.0
"""Empirical Wiener filter: the denoised image tells where there is structure, the noisy image what it is like."""

import contextlib
import itertools
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import convert_to_tensor
from scipy.fft import dct
from scipy.linalg import toeplitz

from monai_n2v.noise.model import NoiseModel, NoNoiseError
from monai_n2v.transforms.components import SPREADS, are_components
from monai_n2v.transforms.drawn_noise import noise_strength
from monai_n2v.transforms.noise_parts import evenly, measure_channel

_SIDE = 8  # of a block, in voxels
# Where the grids of blocks begin: points of a lattice, spread more evenly than as many of a grid.
_SHIFTS = [(i % 8, (3 * i + i // 8) % 8, 5 * (i % 8 + i // 8) % 8) for i in range(16)]
_KAISER = 2.0  # of the window that blocks are weighted by; their borders are less certain
_MAX_VOXELS, _MAX_AT_A_TIME = 2**24, 2**20  # of a slab, and of what is transformed at a time
# Share of the noise's power that counts: faint structure, such as small lesions, is worth a little noise.
_COUNTED = 0.7
_N_COMPONENTS = 8  # by which the noise of a series is measured
_LEAST_POWER = 1e-3  # of the noise's power at any frequency, beside its mean


def wiener_filter(noisy: torch.Tensor, denoised: torch.Tensor, noise: NoiseModel, spatial_dims: int) -> torch.Tensor:
    """Filter a noisy image with a denoised version of it as the pilot.

    Both are cut into overlapping blocks of 8 voxels a side, whose cosine transforms are P and Y. What comes back is
    ``Y * P^2 / (P^2 + 0.7 S)``, where S is the power of the noise at each frequency, of its strength and correlation
    ([1]_, Eq. 10; [2]_ for blocks that overlap, without grouping them). So what the network found in a block is
    measured again in the noisy image, and what it found nothing of is left out. Not all of S is counted: faint
    structure stays, such as small lesions, with a little noise.

    Args:
        noisy: one image ``(*spatial)``; with one axis more than ``spatial_dims`` slices lie along the last.
        denoised: of the same shape and device.
        noise: of the noisy image, in its units; white along the last axis of slices.
        spatial_dims: axes of the network, 2 or 3.

    Returns:
        float32 of the same shape and device.

    References:
        .. [1] Ghael, Sayeed, Baraniuk, "Improved Wavelet Denoising via Empirical Wiener Filtering", SPIE 1997.
        .. [2] Dabov, Foi, Katkovnik, Egiazarian, "Image Denoising by Sparse 3-D Transform-Domain Collaborative
           Filtering", IEEE TIP 2007, Sec. III-B.
    """
    filtered = torch.empty(noisy.shape, dtype=torch.float32, device=noisy.device)
    for rows, slab in _filtered_slabs(noisy, denoised, noise, spatial_dims):
        filtered[rows] = slab
    return filtered


def _filtered_slabs(
    noisy: torch.Tensor, denoised: torch.Tensor, noise: NoiseModel, spatial_dims: int
) -> Iterator[tuple[slice, torch.Tensor]]:
    """`wiener_filter` in slabs across the first axis, and which rows they are."""
    sides = [_SIDE] * spatial_dims + [1] * (noisy.ndim - spatial_dims)
    depth = max(_SIDE, _MAX_VOXELS // max(1, math.prod(noisy.shape[1:])) // _SIDE * _SIDE)
    for start in range(0, len(noisy), depth):
        # Blocks lie in the same places however many slabs there are.
        seen, pilot = (_extended(image, start, depth, sides) for image in (noisy, denoised))
        rows = slice(start, min(start + depth, len(noisy)))
        slab = _filter_slab(seen, pilot, noise, sides)
        yield rows, slab[tuple(slice(n) for n in (rows.stop - rows.start, *noisy.shape[1:]))]


def _extended(image: torch.Tensor, start: int, depth: int, sides: Sequence[int]) -> torch.Tensor:
    """Rows from ``start``, with a block around on every side, mirrored where the image ends; of whole blocks."""
    for axis, side in enumerate(sides):
        if side == 1:
            continue
        n = image.shape[axis]
        first, end = (start, min(start + depth, n)) if axis == 0 else (0, n)
        places = torch.arange(first - side, end + side + -(end - first) % side, device=image.device) % (2 * n)
        image = image.index_select(axis, torch.minimum(places, 2 * n - 1 - places))
    return image.float()


def _filter_slab(noisy: torch.Tensor, pilot: torch.Tensor, noise: NoiseModel, sides: Sequence[int]) -> torch.Tensor:
    """What is inside the blocks around a slab, filtered."""
    transforms, power, window = _cosines(noise, sides, noisy.device)
    within = tuple(range(1, 2 * len(sides), 2))
    total, weights = torch.zeros_like(noisy), torch.zeros_like(noisy)
    inner = [n - side if side > 1 else n for n, side in zip(noisy.shape, sides)]
    # So few rows of blocks at a time that memory is reused and stays in the processor's cache.
    n_rows = max(1, _MAX_AT_A_TIME // (_SIDE * math.prod(inner[1:]))) * _SIDE
    pieces = itertools.product(_shifts(sides), range(0, inner[0], n_rows))
    for shift, above in pieces:
        size = [min(n_rows, inner[0] - above), *inner[1:]]
        place = tuple(slice(first, first + n) for first, n in zip((shift[0] + above, *shift[1:]), size))
        # With the axes of blocks and those within them by turns.
        split = [count for n, side in zip(size, sides) for count in (n // side, side)]
        found, seen = (_transformed(image[place].reshape(split), transforms) for image in (pilot, noisy))
        strength = noise_strength(noise, pilot[place].reshape(split).mean(within, keepdim=True))
        gain = found.square_()
        gain /= gain + _COUNTED * strength**2 * power
        # Blocks of few coefficients hold the least noise.
        certainty = window / gain.square().sum(within, keepdim=True).clamp_(min=1)
        back = _transformed(seen.mul_(gain), [one.T for one in transforms])
        total[place] += back.mul_(certainty).reshape(size)
        weights[place] += certainty.expand(split).reshape(size)
    margin = tuple(slice(side, None) if side > 1 else slice(None) for side in sides)
    return total[margin].div_(weights[margin])


def _shifts(sides: Sequence[int]) -> list[tuple[int, ...]]:
    return [tuple(first if side > 1 else 0 for first, side in zip(shift, sides)) for shift in _SHIFTS]


def _transformed(blocks: torch.Tensor, transforms: Sequence[torch.Tensor]) -> torch.Tensor:
    for axis, one in enumerate(transforms):
        if len(one) > 1:
            blocks = torch.movedim(torch.movedim(blocks, 2 * axis + 1, -1) @ one.T, -1, 2 * axis + 1)
    return blocks.contiguous()


def _cosines(
    noise: NoiseModel, sides: Sequence[int], device: torch.device
) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """By axis the matrices of the cosine transform; the power of noise of strength 1 at each frequency; the window."""
    matrices, powers, windows = [], [], []
    for side, lags in zip(sides, noise.lags):
        matrix = dct(np.eye(side), axis=0, norm="ortho")
        covariance = toeplitz(np.concatenate([[1.0], lags, np.zeros(side)])[:side])
        matrices.append(matrix)
        powers.append(np.maximum(np.einsum("fi,ij,fj->f", matrix, covariance, matrix), _LEAST_POWER))
        windows.append(np.kaiser(side, _KAISER) if side > 1 else np.ones(1))

    def spread(values: Sequence[np.ndarray]) -> torch.Tensor:
        product = torch.ones([1] * 2 * len(sides), dtype=torch.float64)
        for axis, one in enumerate(values):
            product = product * torch.from_numpy(one).view(
                [-1 if a == 2 * axis + 1 else 1 for a in range(2 * len(sides))]
            )
        return product.float().to(device)

    return [torch.from_numpy(one).float().to(device) for one in matrices], spread(powers), spread(windows)


def check_weight(weight: Any) -> None:
    """Refuse what is no weight of the filter.

    Raises:
        ValueError: for anything but a number from 0 to 1.
    """
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight <= 1:
        raise ValueError(f"wiener must be a share from 0 to 1, got {weight!r}. Use 0 for the network alone.")


class WienerFilterd(MapTransform):
    """Refine predictions by the noisy image; see `wiener_filter`.

    The noise is measured in what the network removed, channel by channel. Where none is found, predictions stay as
    they are. The components of a series (`PrincipalComponentsd`) share one noise, so it is measured in several of them.
    The first ones stand so high above it that the network's own errors count more: these are filtered twice, the
    second time with the first result as the pilot, and nothing of the network's result is mixed in.

    Args:
        keys: predictions ``(C, *spatial)``, standardized.
        source_key: the noisy image, standardized.
        weight: share of the filtered image in the result, from 0 to 1; 0 leaves predictions as they are.
        spatial_dims: axes of the network, 2 or 3.

    Raises:
        ValueError: for another weight.
    """

    def __init__(
        self,
        keys: KeysCollection = "pred",
        source_key: str = "image",
        weight: float = 1.0,
        spatial_dims: int = 3,
    ) -> None:
        super().__init__(keys)
        check_weight(weight)
        self.source_key, self.weight, self.spatial_dims = source_key, float(weight), spatial_dims

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Filter ``data[key]``; returns a new dictionary."""
        d = dict(data)
        for key in self.key_iterator(d) if self.weight else ():
            image, denoised = d[self.source_key], convert_to_tensor(d[key])
            d[key] = (self._of_components if are_components(image) else self._of_channels)(image, denoised)
        return d

    def _of_channels(self, image: torch.Tensor, denoised: torch.Tensor) -> torch.Tensor:
        found = denoised.clone()
        for channel, before in enumerate(denoised):
            try:
                noise = measure_channel(image, denoised, channel)
            except NoNoiseError:
                continue
            noisy = convert_to_tensor(image[channel]).to(before.device)
            for rows, slab in _filtered_slabs(noisy, before, noise, self.spatial_dims):
                found[channel, rows].lerp_(slab, self.weight)
        return found

    def _of_components(self, image: MetaTensor, denoised: torch.Tensor) -> torch.Tensor:
        spreads = np.asarray(image.meta[SPREADS], dtype=np.float64).ravel()
        models = []
        for channel in evenly(len(denoised), _N_COMPONENTS):
            with contextlib.suppress(NoNoiseError):
                models.append((measure_channel(image, denoised, channel), spreads[channel]))
        if not models:
            return denoised
        sigma = float(np.median([model.sigma * spread for model, spread in models]))
        lags = np.median([model.lags for model, _ in models], axis=0)
        found = torch.empty_like(denoised)
        for channel, pilot in enumerate(denoised):
            noise = NoiseModel(np.zeros(1), np.array([sigma / spreads[channel]]), lags)
            noisy = convert_to_tensor(image[channel]).to(pilot.device)
            once = wiener_filter(noisy, pilot, noise, self.spatial_dims)
            found[channel] = wiener_filter(noisy, once, noise, self.spatial_dims)
        return found
