# SPDX-License-Identifier: Apache-2.0
"""Noise that can be drawn again: its strength by intensity and its correlation, read where a network's result is calm.

There the noisy image is noise and next to nothing else. What is left of structure goes with second differences: along
the other axes for the correlation along one, along all axes for the strength. The correlation is that of the noisy
image, since a network keeps some of the noise's low frequencies; the strength that of what the network removed.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from monai_n2v.noise.block_statistics import MIN_SIDE, second_difference
from monai_n2v.noise.correlation import filter_gain

MAX_LAG = 3
# The calmest share of the voxels of every intensity, where the noise is read.
_CALM = 0.25
_N_LEVELS, _MIN_VOXELS, _FEW, _FEW_IN_A_BLOCK = 8, 2000, 64, 300
# Second differences are taken along axes where the noise's correlation leaves this much of their variance.
_ENOUGH = 0.5
# Correlations below are none: chance and structure reach that far. So do differences of strength.
_NO_CORRELATION, _BY_CHANCE = 0.05, 0.05
# Strength goes with the intensity where it is nearly in its order (rank correlation) and differs by this factor.
_IN_ORDER, _DIFFERENT = 0.8, 1.25
# Nine tenths of an image's parts differ by more where the noise is uneven; anatomy alone makes them differ by 1.2.
_UNEVEN = 1.3
_WITHIN_3 = 0.995  # mean square of a standard normal value that is clipped at 3


class NoNoiseError(ValueError):
    """An image holds no noise that could be measured."""


@dataclass(frozen=True)
class NoiseModel:
    """Noise of an image, ready to be drawn.

    Attributes:
        levels: intensities, rising, ``(n,)``; of the noise-free image, in its units.
        sigmas: standard deviation of the noise at these, ``(n,)``; constant beyond the ends.
        lags: autocorrelation at lags 1 to 3 along each spatial axis, ``(n_axes, 3)``; the correlation of two voxels is
            the product over the axes.
        is_sure: whether a constant noise is about equally strong in all parts of the image.
    """

    levels: np.ndarray
    sigmas: np.ndarray
    lags: np.ndarray
    is_sure: bool = True

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


def fit_noise_model(noisy: np.ndarray, denoised: np.ndarray, ignore: np.ndarray | None = None) -> NoiseModel:
    """Measure the noise of images, where a denoised version of them is calm.

    Args:
        noisy: float32 ``(n_images, *spatial)``, 2 or 3 spatial axes.
        denoised: of the same shape.
        ignore: voxels to leave out, such as padding, bool of the same shape.

    Raises:
        NoNoiseError: where no noise is left to measure, or the image is too small to.
    """
    wanted = np.ones(noisy.shape, dtype=bool) if ignore is None else ~ignore
    calm = _calm(denoised, wanted)
    axes = [axis for axis in range(1, noisy.ndim) if noisy.shape[axis] >= MIN_SIDE]
    if calm.sum() < _FEW or np.array_equal(noisy, denoised) or len(axes) < 2:
        raise NoNoiseError("images must hold noise to measure, got next to none. Denoise with the scheme prior.")
    lags = np.zeros((noisy.ndim - 1, MAX_LAG))
    for axis in axes:
        others = [other for other in axes if other != axis]
        lags[axis - 1] = _lags(second_difference(noisy, others), calm[_within(noisy.ndim, others)], axis)
    lags = np.where(np.abs(lags[:, :1]) < _NO_CORRELATION, 0.0, lags)
    gains = {axis: filter_gain(lags[axis - 1]) for axis in axes}
    filtered = [axis for axis in axes if gains[axis] > _ENOUGH] or [max(gains, key=lambda axis: gains[axis])]
    sharp, inner = second_difference(noisy - denoised, filtered), _within(noisy.ndim, filtered)
    values = sharp[calm[inner]].astype(np.float64) / math.sqrt(math.prod(gains[axis] for axis in filtered))
    levels, sigmas = _by_level(denoised[inner][calm[inner]], values)
    is_sure = len(sigmas) > 1 or _is_even(sharp, denoised[inner], wanted[inner])
    return NoiseModel(levels, np.maximum(sigmas, 1e-3 * float(sigmas.max())), lags, is_sure)


def _is_even(residual: np.ndarray, denoised: np.ndarray, wanted: np.ndarray) -> bool:
    """Whether a residual is about equally strong in all parts of the images: in the calm of thirds of every axis."""
    strengths = []
    thirds = [[slice(k * side // 3, (k + 1) * side // 3) for k in range(3)] for side in residual.shape[1:]]
    for block in itertools.product([slice(None)], *thirds):
        calm = _calm(denoised[block], wanted[block])
        if calm.sum() >= _FEW_IN_A_BLOCK:
            strengths.append(_deviation(residual[block][calm]))
    if len(strengths) < 4:
        return True
    low, high = np.quantile(strengths, (0.1, 0.9))
    return bool(high < _UNEVEN * low)


def _by_level(level: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standard deviation of values of mean 0 by intensity; one number where it does not rise or fall with it."""
    n_levels = int(np.clip(len(values) // _MIN_VOXELS, 1, _N_LEVELS))
    parts = np.array_split(np.argsort(level, kind="stable"), n_levels)
    levels = np.array([level[part].mean(dtype=np.float64) for part in parts])
    sigmas = np.array([_deviation(values[part]) for part in parts])
    lowest, highest = sigmas[: n_levels // 4 + 1].mean(), sigmas[-(n_levels // 4 + 1) :].mean()
    order = np.corrcoef(np.arange(n_levels), np.argsort(np.argsort(sigmas)))[0, 1] if n_levels > 2 else 0.0
    if abs(order) > _IN_ORDER and not 1 / _DIFFERENT < highest / max(lowest, 1e-12) < _DIFFERENT:
        return levels, sigmas
    by_chance = max(_BY_CHANCE, 8 * math.sqrt(n_levels / len(values)))
    same = sigmas.max() < (1 + by_chance) * sigmas.min()
    # What differs without order is structure, which only adds.
    return levels.mean(keepdims=True), np.array([_deviation(values) if same else np.quantile(sigmas, 0.25)])


def _deviation(values: np.ndarray) -> float:
    """Standard deviation of normal values of mean 0, few of which are something else and have no great weight."""
    limit = 3 * np.quantile(np.abs(values), 0.6827)  # two thirds lie within one standard deviation
    return math.sqrt(np.mean(np.clip(values, -limit, limit) ** 2) / _WITHIN_3)


def _calm(denoised: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The voxels around which the smoothed result varies least, among those of their intensity."""
    sides = [side if side >= MIN_SIDE else 1 for side in denoised.shape[1:]]
    smooth = ndimage.uniform_filter(denoised, (1, *(min(side, 3) for side in sides)))
    window = (1, *(min(side, 7) for side in sides))
    smooth -= smooth.mean(dtype=np.float64)
    variation = ndimage.uniform_filter(smooth * smooth, window) - ndimage.uniform_filter(smooth, window) ** 2
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


def _lags(unit: np.ndarray, calm: np.ndarray, axis: int) -> list[float]:
    """Autocorrelation at lags 1 to 3 along an axis, of pairs of calm voxels."""
    n, lags = unit.shape[axis], []
    limit = 3 * _deviation(unit[calm])  # what is left of an edge has no great weight
    for lag in range(1, MAX_LAG + 1):
        if n <= lag:
            lags.append(0.0)
            continue
        here, there = (_along(axis, unit.ndim, start, n - lag + start) for start in (0, lag))
        both = calm[here] & calm[there]
        a, b = (np.clip(one[both], -limit, limit) for one in (unit[here], unit[there]))
        power = float(np.sqrt(np.mean(a * a, dtype=np.float64) * np.mean(b * b, dtype=np.float64))) if a.size else 0.0
        lags.append(float(np.mean(a * b, dtype=np.float64)) / power if power > 0 else 0.0)
    return lags


def _within(n_axes: int, filtered: Sequence[int]) -> tuple[slice, ...]:
    """The voxels that second differences along some axes are left for."""
    return tuple(slice(1, -1) if axis in filtered else slice(None) for axis in range(n_axes))


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
        all(model.is_sure for model in models),
    )
