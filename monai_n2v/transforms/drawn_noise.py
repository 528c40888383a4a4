# SPDX-License-Identifier: Apache-2.0
"""Pairings that draw noise of the measured kind: recorruption and re-noising."""

import math
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import TransformBackends, ensure_tuple

from monai_n2v.noise.model import NoiseModel
from monai_n2v.transforms.pairing import _as_tensor, _like

_CONV = {2: F.conv2d, 3: F.conv3d}


def draw_noise(noise: NoiseModel | float, clean: torch.Tensor, rng: np.random.RandomState) -> torch.Tensor:
    """Draw noise.

    Args:
        noise: what to draw, or the standard deviation of white noise; in the units of ``clean``.
        clean: ``(B, C, *spatial)``, the intensities that a strength depends on.
        rng: source of all that is random.

    Returns:
        float32, of the shape and device of ``clean``.
    """
    generator = torch.Generator(clean.device).manual_seed(int(rng.randint(2**31)))
    if not isinstance(noise, NoiseModel):
        return float(noise) * torch.randn(clean.shape, generator=generator, device=clean.device)
    drawn = _correlated(noise, tuple(clean.shape), generator, clean.device)
    return drawn.mul_(noise_strength(noise, clean))


def _correlated(
    noise: NoiseModel, shape: tuple[int, ...], generator: torch.Generator, device: torch.device
) -> torch.Tensor:
    """Noise of variance 1 with the model's correlation."""
    if noise.is_white:
        return torch.randn(shape, generator=generator, device=device)
    n_axes = len(shape) - 2
    taps = noise.taps()[:n_axes]  # slices of a volume lie across its last axis
    margin = len(taps[0]) - 1
    drawn = torch.randn(
        (shape[0] * shape[1], 1, *(side + margin for side in shape[2:])), generator=generator, device=device
    )
    for axis, filter_ in enumerate(taps):
        kernel = torch.from_numpy(filter_).to(device).view(1, 1, *(-1 if a == axis else 1 for a in range(n_axes)))
        drawn = _CONV[n_axes](drawn, kernel)
    return drawn.view(shape)


def noise_strength(noise: NoiseModel, clean: torch.Tensor) -> torch.Tensor | float:
    """Standard deviation of noise at every voxel, linear between the model's levels.

    Args:
        noise: its model.
        clean: the intensities that it depends on, of any shape.

    Returns:
        float32 of the shape of ``clean``; one number where the noise is as strong everywhere.
    """
    if noise.is_constant:
        return float(noise.sigmas[0])
    levels, sigmas = (
        torch.from_numpy(np.asarray(a, dtype=np.float32)).to(clean.device) for a in (noise.levels, noise.sigmas)
    )
    right = torch.searchsorted(levels, clean.contiguous()).clamp_(1, len(levels) - 1)
    left = right - 1
    share = ((clean - levels[left]) / (levels[right] - levels[left]).clamp(min=1e-12)).clamp_(0, 1)
    return torch.lerp(sigmas[left], sigmas[right], share)


class _NoiseDrawer(RandomizableTransform, MapTransform):
    """What both pairings share: images by key, batched or not, and noise drawn for them."""

    backend = [TransformBackends.TORCH]

    def __init__(
        self, keys: KeysCollection, noise: NoiseModel | float, label_key: KeysCollection, batched: bool,
        allow_missing_keys: bool,
    ) -> None:  # fmt: skip
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, 1.0)
        self.label_keys = ensure_tuple(label_key)
        if len(self.label_keys) != len(self.keys):
            raise ValueError(
                f"label_key must have one name per key, got {len(self.label_keys)} for {len(self.keys)} keys. "
                "Name where the target of each key goes."
            )
        sigma = noise.sigma if isinstance(noise, NoiseModel) else float(noise)
        if not 0 < sigma < math.inf:
            raise ValueError(f"noise must be above 0, got {sigma:g}. Give its standard deviation.")
        self.noise, self.batched = noise, batched

    def _draw(self, clean: torch.Tensor) -> torch.Tensor:
        images = clean if self.batched else clean[None]
        drawn = draw_noise(self.noise, images.float(), self.R)
        return drawn if self.batched else drawn[0]


class RandRecorruptd(_NoiseDrawer):
    """Add drawn noise to a noisy image in two ways, as input and as target (recorrupted to recorrupted, R2R, [1]_).

    With ``n`` of the image's own noise, the input is ``y + alpha * n`` and the target ``y - n / alpha``. Their noises
    are independent, so the mean squared error over every voxel is, but for a constant, that against the clean image.
    Nothing is hidden. The noise has to be known well: one that is 10 % off costs a decibel or two.

    ``d[key]`` becomes the input, ``d[label_key]`` the target.

    Args:
        keys: noisy images, in the units of ``noise``.
        noise: what to draw, or the standard deviation of white noise.
        alpha: how much noise the input gets; small ones make the target noisier.
        label_key: where the target goes, one per key. What stood there is taken as the noise-free intensity, on
            which a strength may depend; without it, the noisy image is.
        batched: whether images come as ``(B, C, *spatial)`` rather than ``(C, *spatial)``.
        allow_missing_keys: whether absent keys are skipped.

    Raises:
        ValueError: for an alpha or a noise that is not above 0, or not one ``label_key`` per key.

    References:
        .. [1] Pang et al., "Recorrupted-to-Recorrupted: Unsupervised Deep Learning for Image Denoising", CVPR 2021.
    """

    def __init__(
        self, keys: KeysCollection, noise: NoiseModel | float, alpha: float = 0.5, label_key: KeysCollection = "label",
        batched: bool = False, allow_missing_keys: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(keys, noise, label_key, batched, allow_missing_keys)
        if not alpha > 0:
            raise ValueError(f"alpha must be above 0, got {alpha}. Use for example 0.5.")
        self.alpha = float(alpha)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Recorrupt ``data[key]``; returns a new dictionary."""
        d = dict(data)
        for key, label_key in self.key_iterator(d, self.label_keys):
            image = d[key]
            noisy = _as_tensor(image)
            clean = d.get(label_key)
            drawn = self._draw(noisy if clean is None else _as_tensor(clean))
            d[key] = _like(noisy + self.alpha * drawn, image)
            d[label_key] = _like(noisy - drawn / self.alpha, image)
        return d


class RandRenoiseImaged(_NoiseDrawer):
    """Add drawn noise to a network's own result and learn to take it off again (internal adaptation, [1]_).

    ``d[key]`` becomes ``d[label_key]`` with noise; the target stays. The noise need be known roughly only: one that is
    10 % off costs a tenth of a decibel.

    Args:
        keys: what becomes the input.
        noise: what to draw, or the standard deviation of white noise; in the units of the images.
        label_key: a denoised image of every key.
        batched: whether images come as ``(B, C, *spatial)`` rather than ``(C, *spatial)``.
        allow_missing_keys: whether absent keys are skipped.

    Raises:
        ValueError: for a noise that is not above 0, or not one ``label_key`` per key.

    References:
        .. [1] Vaksman, Elad, Milanfar, "LIDIA: Lightweight Learned Image Denoising with Instance Adaptation", CVPRW
           2020.
    """

    def __init__(
        self, keys: KeysCollection, noise: NoiseModel | float, label_key: KeysCollection = "label",
        batched: bool = False, allow_missing_keys: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(keys, noise, label_key, batched, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add noise to ``data[label_key]``; returns a new dictionary."""
        d = dict(data)
        for key, label_key in self.key_iterator(d, self.label_keys):
            clean = _as_tensor(d[label_key])
            d[key] = _like(clean + self._draw(clean), d[label_key])
        return d


RandRecorruptD = RandRecorruptDict = RandRecorruptd
RandRenoiseImageD = RandRenoiseImageDict = RandRenoiseImaged
