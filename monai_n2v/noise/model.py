# SPDX-License-Identifier: Apache-2.0
"""Noise that can be drawn again: its strength by intensity and its correlation, read from what a network removes.

What a good network removes is noise, and where its result is calm it is next to nothing else. There the residual is
measured. What is left of bias (a network keeps a little of the noise, and takes a little of the structure) is found by
a second measurement of noise that was drawn, and hence is known, and taken off (`NoiseModel.corrected`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

MAX_LAG = 3
# The calmest share of the voxels of every intensity, where the noise is read.
_CALM = 0.35
_N_LEVELS, _MIN_VOXELS = 8, 2000
# Strengths that differ by less are one; correlations below are none: chance and structure reach that far.
_SAME_STRENGTH, _NO_CORRELATION = 0.06, 0.03


@dataclass(frozen=True)
class NoiseModel:
    """Noise of an image, ready to be drawn.

    Attributes:
        levels: intensities, rising, ``(n,)``; of the noise-free image, in its units.
        sigmas: standard deviation of the noise at these, ``(n,)``; constant beyond the ends.
        lags: autocorrelation at lags 1 to 3 along each spatial axis, ``(n_axes, 3)``; the correlation of two voxels is
            the product over the axes.
    """

    levels: np.ndarray
    sigmas: np.ndarray
    lags: np.ndarray

    @property
    def sigma(self) -> float:
        """Root mean square of the standard deviations over the levels, each of which stands for as many voxels."""
        return float(np.sqrt(np.mean(self.sigmas**2)))

    @property
    def is_white(self) -> bool:
        """Whether neighboring voxels are independent."""
        return not self.lags.any()

    @property
    def is_constant(self) -> bool:
        """Whether the noise is as strong everywhere."""
        return len(self.sigmas) == 1

    def taps(self) -> list[np.ndarray]:
        """Filters ``(7,)``, one per axis, that give white noise this correlation and leave its variance."""
        filters = []
        for lags in self.lags:
            frequencies = np.arange(64) * math.pi / 64
            power = 1 + 2 * sum(lag * np.cos(k * frequencies) for k, lag in enumerate(lags, start=1))
            spectrum = np.concatenate([np.sqrt(np.maximum(power, 0)), [math.sqrt(max(power[-1], 0))]])
            taps = np.fft.irfft(spectrum, 128)[[-3, -2, -1, 0, 1, 2, 3]]
            filters.append((taps / np.linalg.norm(taps)).astype(np.float32))
        return filters

    def corrected(self, drawn: "NoiseModel", found: "NoiseModel") -> "NoiseModel":
        """Take off the bias of a measurement, as one of noise drawn from a known model shows it.

        Args:
            drawn: what was drawn.
            found: what was measured of that.

        Returns:
            this model, with the same relative bias taken off its strengths and the same absolute one off its
            correlations.
        """
        ratio = np.interp(self.levels, drawn.levels, drawn.sigmas) / np.interp(self.levels, found.levels, found.sigmas)
        lags = np.where(self.lags != 0, self.lags + drawn.lags - found.lags, 0.0)
        return replace(self, sigmas=self.sigmas * np.clip(ratio, 0.5, 2), lags=np.clip(lags, -0.9, 0.9))


def fit_noise_model(
    noisy: np.ndarray, denoised: np.ndarray, like: NoiseModel | None = None, ignore: np.ndarray | None = None
) -> NoiseModel:
    """Measure the noise of images by what a network removes from them.

    Args:
        noisy: float32 ``(n_images, *spatial)``, 2 or 3 spatial axes.
        denoised: of the same shape.
        like: a model whose levels to measure at; its own are chosen otherwise.
        ignore: voxels to leave out, such as padding, bool of the same shape.

    Raises:
        ValueError: where no noise is left to measure.
    """
    residual = noisy - denoised
    wanted = np.ones(noisy.shape, dtype=bool) if ignore is None else ~ignore
    calm = _calm(denoised, wanted)
    level, values = denoised[calm], residual[calm].astype(np.float64)
    if len(values) < 64 or not values.any():
        raise ValueError("images must hold noise to measure, got next to none. Denoise with the scheme prior.")
    n_levels = int(np.clip(len(values) // _MIN_VOXELS, 1, _N_LEVELS)) if like is None else len(like.levels)
    if n_levels > 1:
        edges = np.quantile(level, np.linspace(0, 1, n_levels + 1)[1:-1]) if like is None else _midpoints(like.levels)
        which = np.searchsorted(edges, level)
        counts = np.maximum(np.bincount(which, minlength=n_levels), 1)
        levels = np.bincount(which, level, n_levels) / counts
        mean = np.bincount(which, values, n_levels) / counts
        sigmas = np.sqrt(np.maximum(np.bincount(which, values**2, n_levels) / counts - mean**2, 0))
        if like is None and sigmas.max() < (1 + 2 * _SAME_STRENGTH) * max(sigmas.min(), 1e-12):
            n_levels = 1
    if n_levels == 1:
        levels, sigmas = np.array([level.mean(dtype=np.float64)]), np.array([values.std()])
    if like is not None and n_levels > 1:
        levels = like.levels
    sigmas = np.maximum(sigmas, 1e-3 * max(float(sigmas.max()), 1e-12))
    unit = (residual / np.interp(denoised, levels, sigmas)).astype(np.float32)
    lags = np.array([_lags(unit, calm, axis) for axis in range(1, noisy.ndim)])
    if like is None:
        lags = np.where(np.abs(lags[:, :1]) < _NO_CORRELATION, 0.0, lags)
    return NoiseModel(levels, sigmas, lags)


def _calm(denoised: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The voxels around which the result varies least, among those of their intensity."""
    size = (1, *(3,) * (denoised.ndim - 1))
    variation = ndimage.maximum_filter(denoised, size) - ndimage.minimum_filter(denoised, size)
    values = denoised[wanted]
    if values.size == 0:
        return wanted
    edges = np.quantile(values[:: max(1, values.size // 100_000)], np.linspace(0, 1, _N_LEVELS + 1)[1:-1])
    which = np.searchsorted(edges, denoised)
    calm = np.zeros_like(wanted)
    for n in range(_N_LEVELS):
        members = wanted & (which == n)
        if members.any():
            calm |= members & (variation <= np.quantile(variation[members], _CALM))
    return calm


def _midpoints(levels: np.ndarray) -> np.ndarray:
    return (levels[1:] + levels[:-1]) / 2


def _lags(unit: np.ndarray, calm: np.ndarray, axis: int) -> list[float]:
    """Autocorrelation at lags 1 to 3 along an axis, of pairs of calm voxels."""
    n, lags = unit.shape[axis], []
    for lag in range(1, MAX_LAG + 1):
        if n <= lag:
            lags.append(0.0)
            continue
        here, there = (_along(axis, unit.ndim, start, n - lag + start) for start in (0, lag))
        both = calm[here] & calm[there]
        a, b = unit[here][both], unit[there][both]
        power = float(np.sqrt(np.mean(a * a, dtype=np.float64) * np.mean(b * b, dtype=np.float64))) if a.size else 0.0
        lags.append(float(np.mean(a * b, dtype=np.float64)) / power if power > 0 else 0.0)
    return lags


def _along(axis: int, n_axes: int, start: int, stop: int) -> tuple[slice, ...]:
    return tuple(slice(start, stop) if a == axis else slice(None) for a in range(n_axes))


def pooled(models: Sequence[NoiseModel]) -> NoiseModel:
    """One model for several images: strengths averaged among levels next to each other, correlations over the images.

    Args:
        models: of the images.
    """
    if len(models) == 1:
        return models[0]
    levels, sigmas = (np.concatenate([getattr(model, name) for model in models]) for name in ("levels", "sigmas"))
    order = np.argsort(levels, kind="stable")
    parts = np.array_split(order, 1 if all(model.is_constant for model in models) else _N_LEVELS)
    parts = [part for part in parts if len(part)]
    return NoiseModel(
        np.array([levels[part].mean() for part in parts]),
        np.array([math.sqrt(np.mean(sigmas[part] ** 2)) for part in parts]),
        np.mean([model.lags for model in models], axis=0),
    )
