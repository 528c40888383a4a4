# SPDX-License-Identifier: Apache-2.0
"""Autocorrelation of the noise of an image, read where structure is weakest.

Two observations carry it. A second difference along one axis removes most structure and leaves the correlation of noise
along the **other** axes as it is (exactly so where the covariance is a product over axes), hence no correction is
needed. And the energy of white noise in a block says nothing about its direction, so that choosing the calmest blocks,
where structure is weakest, does not bias the correlation measured there. Of correlated noise they look whiter than the
rest: in 2D a correlation of 0.6 reads about 0.53, one of 0.25 about 0.23.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from monai_n2v.noise.block_statistics import MAX_LAG, block_means, block_moments, core, second_difference

# Shares of the calmest blocks: where correlation is read, and where it is read again to see whether structure mixes in.
_CALM, _CALMER_HALF = 0.25, 0.5
# Autocorrelation of the filter (1, -2, 1) / sqrt(6) at lags 1 and 2.
FILTER_LAGS = (-2 / 3, 1 / 6)


@dataclass(frozen=True)
class Correlation:
    """Autocorrelation of noise along one axis.

    Attributes:
        source: ``flat`` regions, ``background`` or ``residual`` of a network.
        lags: at lags 1, 2 and 3 voxels.
        error: standard error of lag 1.
        drift: how much larger lag 1 is where more structure is; what is larger there is not noise. 0 where unknown.
    """

    source: str
    lags: tuple[float, ...]
    error: float
    drift: float = 0.0


def of_flat_regions(tiles: np.ndarray, axes: Sequence[int], use: np.ndarray) -> dict[int, Correlation]:
    """Autocorrelation in the calmest blocks, read across second differences along other axes.

    In 3D every axis is read across one or both of the others. Structure that is left only adds to the correlation, so
    the lowest reading is taken, of those that leave enough noise: along an axis of strongly correlated noise a second
    difference removes the noise first.

    Args:
        tiles: ``(n_tiles, *tile)``.
        axes: axes to measure along.
        use: which blocks to use, ``(n_blocks,)``.
    """
    readings: dict[int, dict[tuple[int, ...], Correlation]] = {}
    for n in range(1, len(axes)):
        for filtered in itertools.combinations(axes, n):
            calm = second_difference(tiles, filtered)
            for axis in set(axes) - set(filtered):
                reading = _read_calm(_lag_products(calm, axis, filtered), use)
                if reading is not None:
                    readings.setdefault(axis, {})[filtered] = reading
    lowest = {axis: min(found.values(), key=_first_lag) for axis, found in readings.items()}
    gains = {axis: filter_gain(correlation.lags) for axis, correlation in lowest.items()}
    flat = {}
    for axis, found in readings.items():
        left = {filtered: math.prod(gains.get(other, 1.0) for other in filtered) for filtered in found}
        enough = [filtered for filtered in found if left[filtered] > 0.3] or [max(left, key=lambda f: left[f])]
        flat[axis] = min((found[filtered] for filtered in enough), key=_first_lag)
    return dict(sorted(flat.items()))


def _first_lag(correlation: Correlation) -> float:
    return correlation.lags[0]


def of_background(tiles: np.ndarray, axes: Sequence[int], chosen: np.ndarray, size: float) -> dict[int, Correlation]:
    """Autocorrelation in blocks without signal, of the intensities themselves: nothing is filtered.

    ``size`` is the number of voxels per block.
    """
    centered = tiles - np.float32(tiles.mean(dtype=np.float64))
    return {axis: _read_plain(centered, axis, chosen, size, "background") for axis in axes}


def of_residual(tiles: np.ndarray, axes: Sequence[int], use: np.ndarray, size: float) -> dict[int, Correlation]:
    """Autocorrelation of what a trained network removed, all blocks to ``use`` counting the same."""
    return {axis: _read_plain(tiles, axis, use, size, "residual", level=True) for axis in axes}


def _lag_products(image: np.ndarray, axis: int, filtered: Sequence[int]) -> np.ndarray:
    """Mean product at lags 0 to 3 along an axis, per block, ``(1 + MAX_LAG, n_blocks)``."""
    here = core(image, filtered)
    return np.stack([block_means(here * core(image, filtered, axis, lag)) for lag in range(MAX_LAG + 1)])


def _read_calm(products: np.ndarray, use: np.ndarray) -> Correlation | None:
    energy = products[0]
    # A block that holds next to nothing is one of padding or of constant intensity that rounding made uneven.
    use = use & (energy > 1e-3 * np.median(energy[use])) if use.any() else use
    if use.sum() < 8:
        return None

    def pooled(share: float) -> tuple[np.ndarray, float]:
        calm = use & (energy <= np.quantile(energy[use], share))
        lags = products[1:, calm].sum(axis=1) / energy[calm].sum()
        error = np.sqrt(np.sum((products[1, calm] - lags[0] * energy[calm]) ** 2)) / energy[calm].sum()
        return lags, float(error)

    lags, error = pooled(max(_CALM, min(1.0, 20 / use.sum())))
    structured, _ = pooled(_CALMER_HALF)
    return Correlation("flat", tuple(map(float, lags)), error, float(max(structured[0] - lags[0], 0.0)))


def _read_plain(
    image: np.ndarray, axis: int, use: np.ndarray, count: float, source: str, level: bool = False
) -> Correlation:
    here = core(image)
    mean, variance = block_moments(here)
    covariance = []
    for lag in range(1, MAX_LAG + 1):
        there = core(image, (), axis, lag)
        covariance.append(block_means(here * there) - mean * block_means(there))
    use = use & (variance > 0)
    weight = 1 / variance[use] if level else np.ones(use.sum())
    total = float(np.sum(weight * variance[use]))
    # The mean of a block takes a share of 1 / count of white noise with it.
    lags = [float(np.sum(weight * c[use])) / total + 1 / count for c in covariance]
    error = np.sqrt(np.sum((weight * (covariance[0][use] - (lags[0] - 1 / count) * variance[use])) ** 2)) / total
    return Correlation(source, tuple(lags), float(error))


def filter_gain(lags: Sequence[float]) -> float:
    """Variance that a second difference leaves of noise with these lags along its axis; 1 for white noise."""
    return max(1 + 2 * (FILTER_LAGS[0] * lags[0] + FILTER_LAGS[1] * lags[1]), 0.05)
