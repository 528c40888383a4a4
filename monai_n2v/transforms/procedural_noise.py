# SPDX-License-Identifier: Apache-2.0
"""Noise of every kind that images come with, on clean ones: the pairing that pretrains the prior."""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import TransformBackends
from scipy import ndimage, special

from monai_n2v.noise.magnitude import magnitude_mean

_MAGNITUDE, _POISSON, _WITH_SIGNAL, _UNEVEN = 0.2, 0.08, 0.15, 0.15  # shares of these kinds; the rest is constant
_COILS = (1, 1, 2, 4)  # of magnitude images, each as often
_LITTLE = 0.003  # a variance that is little noise; weights go no higher than of that
_CORRELATED, _QUANTIZED, _CLIPPED = 0.3, 0.1, 0.1
_CORRELATED_MAGNITUDE = 0.6  # scanners interpolate and filter


class RandProceduralNoised(RandomizableTransform, MapTransform):
    """Pair clean patches with noisy ones, as traditional training does, for pretraining on procedural images.

    Every patch gets noise of its own kind and strength: Gaussian, growing with the signal, Poisson with Gaussian,
    that of magnitude images of one or several coils (Rician, non-central chi), or of uneven strength; white or
    correlated, by short kernels or by missing or weakened high frequencies; sometimes clipped at 0 or quantized. The
    target is the mean of the noisy value, which is the clean one, but for magnitudes and clipped values the mean of
    these. So what is learned is what Noise2Void estimates, too.

    The pair is then scaled and shifted as if the patch were a part of a larger standardized image. The mask becomes a
    weight, ``(noise variance + 0.003) ** -power``, so that patches of little noise count as well.

    Args:
        keys: clean patches ``(B, C, *spatial)`` of standard deviation about 1, from 0 (no signal) upwards; 2D or 3D.
        label_key: where the target goes, one per key.
        mask_key: where the weight goes, of the patches' shape.
        strength: least and largest standard deviation of the noise, in that of the clean images; drawn log-uniformly.
        power: exponent of the weight.

    Raises:
        ValueError: for a strength that is not two rising positive numbers, or not one ``label_key`` per key.
    """

    backend = [TransformBackends.TORCH]

    def __init__(
        self,
        keys: KeysCollection = "image",
        label_key: str = "label",
        mask_key: str = "mask",
        strength: Sequence[float] = (0.04, 2.0),
        power: float = 0.75,
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, 1.0)
        if len(self.keys) != 1:
            raise ValueError(f"keys must name one image, got {len(self.keys)}. Use image.")
        if len(strength) != 2 or not 0 < strength[0] < strength[1]:
            raise ValueError(f"strength must be two rising positive numbers, got {strength}. Use for example 0.03, 2.")
        self.label_key, self.mask_key = label_key, mask_key
        self.strength, self.power = tuple(map(math.log, strength)), power

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add noise to ``data[key]``; returns a new dictionary."""
        d = dict(data)
        key = self.keys[0]
        clean = d[key]
        pairs = [self._pair(patch.cpu().numpy()) for patch in clean]
        noisy, target, weight = zip(*pairs)
        to = {"device": clean.device, "dtype": torch.float32}
        d[key] = torch.from_numpy(np.stack(noisy)).to(**to)
        d[self.label_key] = torch.from_numpy(np.stack(target)).to(**to)
        weights = torch.tensor(weight).to(**to).view(-1, *(1,) * (clean.ndim - 1))
        d[self.mask_key] = weights.expand_as(d[key])
        return d

    def _pair(self, clean: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """A noisy patch, its target and its weight; all scaled as a part of a standardized image."""
        r = self.R
        s = math.exp(r.uniform(*self.strength))
        if r.random_sample() < 0.05:  # next to nothing but noise
            clean = clean.mean() + np.float32(0.03) * (clean - clean.mean())
        noisy, target = self._add_noise(clean, s)
        if r.random_sample() < _QUANTIZED:
            step = np.float32(s * math.exp(r.uniform(-2, 0.7)))
            noisy = np.round(noisy / step) * step
        variance = float(np.mean((noisy - target) ** 2))
        scale = math.exp(r.uniform(-0.8, 0.3)) / max(float(noisy.std()), 1e-3)
        shift = r.normal(0, 0.6) - scale * float(noisy.mean())
        weight = (variance * scale**2 + _LITTLE) ** -self.power
        return (noisy * scale + shift).astype(np.float32), (target * scale + shift).astype(np.float32), weight

    def _add_noise(self, clean: np.ndarray, s: float) -> tuple[np.ndarray, np.ndarray]:
        """The noisy patch, and the mean that its noise leaves."""
        r, kind = self.R, self.R.random_sample()
        if kind < _MAGNITUDE:
            n_coils, draw = _COILS[r.randint(len(_COILS))], self._field_drawer(clean, _CORRELATED_MAGNITUDE)
            power = (clean + np.float32(s) * draw()) ** 2  # along the signal; all other parts are noise alone
            for _ in range(2 * n_coils - 1):
                power += (np.float32(s) * draw()) ** 2
            return np.sqrt(power), magnitude_mean(clean, s, n_coils)
        if kind < _MAGNITUDE + _POISSON:
            gain = np.float32(s * s)
            readout = np.float32(s * r.uniform(0, 0.7)) * self._white(clean.shape)
            return r.poisson(clean / gain).astype(np.float32) * gain + readout, clean
        noise = self._field_drawer(clean)()
        kind -= _MAGNITUDE + _POISSON
        if kind < _WITH_SIGNAL:
            share = r.uniform(0.2, 1)
            return clean + np.float32(s) * np.sqrt(np.float32(share) * clean + np.float32(1 - share)) * noise, clean
        if kind < _WITH_SIGNAL + _UNEVEN:
            noise = noise * smooth_factor(self.R, clean.shape[1:], 0.2)  # as of a g-factor
        elif r.random_sample() < _CLIPPED:
            return np.maximum(clean + np.float32(s) * self._white(clean.shape), 0), clipped_mean(clean, s)
        return clean + np.float32(s) * noise, clean

    def _white(self, shape: Sequence[int]) -> np.ndarray:
        return self.R.standard_normal(shape).astype(np.float32)

    def _field_drawer(self, clean: np.ndarray, correlated: float = _CORRELATED) -> Any:
        """A function that draws noise of variance 1, of one random correlation, or white."""
        r, shape, n_axes = self.R, clean.shape, clean.ndim - 1
        if r.random_sample() >= correlated:
            return lambda: self._white(shape)
        along = r.random_sample(n_axes) < 0.6
        along[r.randint(n_axes)] = True
        kind = r.randint(3)
        if kind == 0:  # neighbors mixed, as by interpolation
            taps = [r.uniform(0.05, 0.6) if on else 0.0 for on in along]

            def mix() -> np.ndarray:
                noise = self._white(shape)
                for axis, tap in enumerate(taps):
                    if tap:
                        noise = ndimage.correlate1d(noise, (1, tap), axis=1 + axis, mode="wrap")
                return noise / np.float32(math.sqrt(math.prod(1 + tap * tap for tap in taps)))

            return mix
        if kind == 1:  # smoothed
            widths = [r.uniform(0.3, 0.8) if on else 0.0 for on in along]
            return lambda: _unit(ndimage.gaussian_filter(self._white(shape), (0, *widths), mode="wrap"))
        cut = [r.uniform(0.55, 0.95) if on else 1.0 for on in along]  # zero-filled
        edge = max(0.0, r.uniform(-0.5, 0.5))  # a sharp one as often as a window
        return lambda: _unit(_low_pass(self._white(shape), cut, edge))


def smooth_factor(rng: Any, shape: Sequence[int], bend: float) -> np.ndarray:
    """A smooth positive factor of median about 1.

    Args:
        rng: source of all that is random, of NumPy's old or new kind.
        shape: of the field.
        bend: standard deviation of the logarithm's curvature along each axis.

    Returns:
        float32 ``shape``.
    """
    log: Any = np.float32(0)
    for x in np.ogrid[tuple(slice(-1, 1, side * 1j) for side in shape)]:
        x = x.astype(np.float32)
        log = log + np.float32(rng.normal(0, 0.3)) * x + np.float32(rng.normal(0, bend)) * x * x
    return np.exp(log)


def _unit(noise: np.ndarray) -> np.ndarray:
    return noise / max(float(noise.std()), 1e-6)


def _low_pass(noise: np.ndarray, cut: Sequence[float], edge: float) -> np.ndarray:
    """Remove the frequencies above a share ``cut`` of the highest, along each axis, over a cosine ``edge`` below it."""
    for axis, share in enumerate(cut, start=1):
        if share < 1:
            side = noise.shape[axis]
            spectrum = np.fft.rfft(noise, axis=axis)
            frequency = np.arange(spectrum.shape[axis]) * (2 / side)
            window = 0.5 + 0.5 * np.cos(np.pi * np.clip((frequency - share) / max(edge, 1e-6) + 1, 0, 1))
            spectrum *= window.reshape(-1, *(1,) * (noise.ndim - 1 - axis))
            noise = np.fft.irfft(spectrum, side, axis=axis).astype(np.float32)
    return noise


def clipped_mean(signal: np.ndarray, sigma: float) -> np.ndarray:
    """Mean of ``max(signal + noise, 0)`` under white Gaussian noise of standard deviation ``sigma``; float32."""
    z = signal / sigma
    density = np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    return np.asarray(signal * special.ndtr(z) + sigma * density, dtype=np.float32)
