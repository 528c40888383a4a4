# SPDX-License-Identifier: Apache-2.0
"""Traces that processing leaves in intensities: padding, clipping, steps, missing frequencies, periodic variance."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from monai_n2v.noise.block_statistics import second_difference

# Lines and planes shorter than this tell too little about frequencies.
_SHORTEST = 32
# Mean power falls this much within a tenth of the frequencies only where they were removed; edges fall fourfold.
_CLIFF = 12.0
# Linear interpolation half-way between voxels takes the noise to 0.7 of its size, a swing of 0.17 in its logarithm.
_SWING = 0.1


@dataclass(frozen=True)
class Traces:
    """What processing left in the intensities; axes counted without the volumes.

    Attributes:
        padding: share of voxels in larger areas of exactly the lowest value.
        clipped_low: share of the other voxels at the lowest value.
        clipped_high: share of the other voxels at the highest value.
        step: step between intensities where they lie on a grid, else None.
        cutoff: share of the frequencies that are there, per axis of at least 32 voxels.
        period: period of the noise variance in voxels, per axis where it repeats.
    """

    padding: float
    clipped_low: float
    clipped_high: float
    step: float | None
    cutoff: dict[int, float]
    period: dict[int, float]


def find_traces(
    tiles: np.ndarray, padded: np.ndarray, lowest: np.ndarray, highest: np.ndarray, measured: Sequence[int]
) -> Traces:
    """Look for all traces.

    Args:
        tiles: ``(n_tiles, *tile)``.
        padded: where they are padded, from `constant_areas`.
        lowest: where they are at the image's lowest value.
        highest: where they are at its highest.
        measured: the spatial axis that each axis of a tile is.
    """
    kept = ~padded
    low, high = (float(np.mean(edge[kept])) if kept.any() else 0.0 for edge in (lowest, highest))
    cutoff, period = (
        {measured[axis - 1]: value for axis in range(1, tiles.ndim) if (value := found(tiles, axis)) is not None}
        for found in (_cutoff, _period)
    )
    return Traces(float(padded.mean()), low, high, _step_size(tiles), cutoff, period)


def constant_areas(tiles: np.ndarray, lowest: float) -> np.ndarray:
    """Where tiles are padded: larger areas of exactly the image's lowest value, or of its most frequent one.

    Args:
        tiles: ``(n_tiles, *tile)``.
        lowest: the image's lowest value.

    Returns:
        bool, same shape. A voxel belongs to it where some 3 x 3 (x 3) neighborhood around it is all of that value;
        single voxels at the lowest value are clipped noise.
    """
    values, counts = np.unique(_sample(tiles), return_counts=True)
    padded = np.zeros(tiles.shape, dtype=bool)
    for value in {lowest, float(values[np.argmax(counts)])}:
        at_value = tiles == np.float32(value)
        inner = at_value.view(np.uint8)
        for axis in range(1, tiles.ndim):
            inner = ndimage.minimum_filter1d(inner, 3, axis=axis, mode="nearest")
        for axis in range(1, tiles.ndim):
            inner = ndimage.maximum_filter1d(inner, 3, axis=axis, mode="nearest")
        padded |= inner.view(bool) & at_value
    return padded


def _sample(tiles: np.ndarray) -> np.ndarray:
    return tiles.ravel()[:: max(1, tiles.size // 1_000_000)]


def _step_size(image: np.ndarray) -> float | None:
    values = np.unique(_sample(image)).astype(np.float64)
    if len(values) < 2 or len(values) > image.size / 8:
        return None
    gaps = np.diff(values)
    step = float(np.quantile(gaps, 0.1, method="lower"))
    # A scale factor rounds to float32: allow for it, or only for few levels that are not even.
    on_grid = np.abs(gaps / step - np.round(gaps / step)) < 0.1
    return step if len(values) <= 256 or on_grid.mean() > 0.95 else None


def _cutoff(tiles: np.ndarray, axis: int) -> float | None:
    """Share of the frequencies along an axis that are there, 1 where all are, None where that cannot be told.

    Noise fills all frequencies, and edges fall off slowly; where power drops steeply and stays down, the image was
    zero-filled, resampled or smoothed along that axis.
    """
    n = tiles.shape[axis]
    if n < _SHORTEST:
        return None
    others = [other for other in range(1, tiles.ndim) if other != axis]
    lines = np.moveaxis(second_difference(tiles, others), axis, -1)
    taper = np.hanning(n + 2)[1:-1].astype(np.float32)
    power = np.zeros(n // 2 + 1)
    for tile in lines:
        spectrum = np.fft.rfft((tile - tile.mean(axis=-1, keepdims=True)) * taper, axis=-1)
        power += np.mean(np.abs(spectrum) ** 2, axis=tuple(range(spectrum.ndim - 1)))
    if not power.any():
        return None
    frequency = np.arange(len(power)) / n
    width = max(0.04, 3 / n)
    for edge in frequency[(frequency >= 0.15) & (frequency <= 0.5 - width)]:
        below = power[(frequency >= edge - 2 * width) & (frequency < edge - width / 2)].mean()
        above = power[frequency > edge + width / 2]
        if below > _CLIFF * above.max():
            return float(2 * edge)
    return 1.0


def _period(tiles: np.ndarray, axis: int) -> float | None:
    """Period in voxels with which the variance of second differences repeats along an axis, None where it does not.

    Linear interpolation to another grid weakens noise periodically; interlaced slices alternate.
    """
    n = tiles.shape[axis] - 2
    if n < _SHORTEST:
        return None
    # Second differences along every axis, of which single edges do not matter in the mean logarithm.
    size = np.abs(second_difference(tiles, range(1, tiles.ndim)))
    floor = 0.1 * float(np.median(size[size > 0])) if (size > 0).any() else 1.0
    rest = tuple(a for a in range(1, tiles.ndim) if a != axis)
    level = np.log(size + np.float32(floor)).mean(axis=rest, dtype=np.float64)
    level -= ndimage.uniform_filter1d(level, 9, axis=-1, mode="nearest")
    amplitude = np.abs(np.fft.rfft(level * np.hanning(n + 2)[1:-1], axis=-1)) / (n / 4)
    found = np.sqrt(np.mean(amplitude**2, axis=0))
    # Periods of up to 5 voxels; slower changes are anatomy. The running mean leaves these frequencies alone.
    band = np.where(np.arange(len(found)) >= n / 5, found, 0)
    if not band.any():
        return None
    peak = int(np.argmax(band))
    return float(n / peak) if band[peak] > max(_SWING, 5 * np.median(found[band > 0])) else None
