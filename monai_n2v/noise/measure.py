# SPDX-License-Identifier: Apache-2.0
"""What the noise of an image is like, measured on that image alone: strength, correlation, dependence on the signal."""

import math
from dataclasses import dataclass, field

import numpy as np

from monai_n2v.noise.block_statistics import (
    MIN_SIDE,
    block_means,
    block_moments,
    block_values,
    core,
    second_difference,
    take_tiles,
)
from monai_n2v.noise.correlation import (
    FILTER_LAGS,
    Correlation,
    filter_gain,
    of_background,
    of_flat_regions,
    of_residual,
)
from monai_n2v.noise.processing import Traces, constant_areas, find_traces

# More voxels than this make no number better; 2**23 take about three seconds in 3D.
MAX_VOXELS = 2**23
# Blocks darker than this share of the signal's range may be background.
_DARK = 0.2


@dataclass(frozen=True)
class _BlockStatistics:
    """Mean, variance and use of every block of an image.

    Attributes:
        mean: mean intensity, ``(n_blocks,)``.
        variance: variance within the block, structure included, ``(n_blocks,)``.
        usable: whether the block varies, holds no padding and next to no clipped voxels, ``(n_blocks,)``.
        dark: whether it lies in the lowest fifth of the signal's range, ``(n_blocks,)``.
        extent: 1st to 99th percentile of the means of usable blocks: the signal's range.
        size: voxels per block.
    """

    mean: np.ndarray
    variance: np.ndarray
    usable: np.ndarray
    dark: np.ndarray
    extent: float
    size: float


@dataclass(frozen=True)
class Dependence:
    """How the noise variance goes with the signal.

    Attributes:
        kind: ``constant``, ``grows`` (Poisson-like), ``rician`` (the background of a magnitude image) or ``unknown``.
        ratio: noise variance in the brightest regions over that in the darkest; None where unknown.
    """

    kind: str
    ratio: float | None


@dataclass(frozen=True, kw_only=True)
class Noise:
    """What was measured; lengths in voxels, intensities in the units of the image, axes counted without the volumes.

    Numbers that were not measured are 0.

    Attributes:
        sigma: standard deviation of the noise in calm regions.
        local_sigma: its 5th, 50th and 95th percentile over blocks, where structure counts as well.
        signal_range: 1st to 99th percentile of block means.
        spread: how much more the calm blocks differ in energy than noise of one strength would make them, as the
            logarithm of a standard deviation; large where structure and not noise is seen.
        flat: autocorrelation in flat regions, per measured axis.
        background: the same in the signal-free background; empty where there is none.
        residual: the same in what a trained network removed; empty without one.
        dependence: how noise goes with the signal.
        traces: what processing left.
    """

    sigma: float = 0.0
    local_sigma: tuple[float, float, float] = (0.0, 0.0, 0.0)
    signal_range: float = 0.0
    spread: float = 0.0
    flat: dict[int, Correlation] = field(default_factory=dict)
    background: dict[int, Correlation] = field(default_factory=dict)
    residual: dict[int, Correlation] = field(default_factory=dict)
    dependence: Dependence = Dependence("unknown", None)
    traces: Traces


def measure_noise(volumes: np.ndarray, residual: np.ndarray | None = None) -> Noise:
    """Measure the noise of an image on a part of it that is large enough and always the same.

    Args:
        volumes: float32 ``(n_volumes, *spatial)`` with 2 or 3 spatial axes. An axis of fewer than 12 voxels is not
            measured; its slices count as volumes.
        residual: what a trained network removed from ``volumes``, same shape.
    """
    return measure_noise_and_air(volumes, residual)[0]


def measure_noise_and_air(volumes: np.ndarray, residual: np.ndarray | None = None) -> tuple[Noise, np.ndarray]:
    """The same with the values of the voxels in signal-free background; none of these where there is none."""
    no_air = np.empty(0, np.float32)
    measured = [axis for axis in range(1, volumes.ndim) if volumes.shape[axis] >= MIN_SIDE]
    thin = [axis for axis in range(1, volumes.ndim) if axis not in measured]

    def tiles_of(image: np.ndarray) -> np.ndarray:
        image = np.moveaxis(image, thin, range(1, 1 + len(thin)))
        return take_tiles(image.reshape(-1, *image.shape[1 + len(thin) :]), MAX_VOXELS)

    tiles, axes = tiles_of(volumes), list(range(1, 1 + len(measured)))
    lowest = tiles == volumes.min()
    padded = constant_areas(tiles, float(volumes.min()))
    traces = find_traces(tiles, padded, lowest, tiles == volumes.max(), [axis - 1 for axis in measured])
    if len(axes) < 2:
        return Noise(traces=traces), no_air
    blocks = _describe_blocks(tiles, block_means(core(padded)), block_means(core(lowest)))

    def named(found: dict[int, Correlation]) -> dict[int, Correlation]:
        return {measured[axis - 1] - 1: correlation for axis, correlation in found.items()}

    bright = blocks.usable & ~blocks.dark
    use = bright if bright.sum() >= max(64, 0.1 * blocks.usable.sum()) else blocks.usable
    flat = of_flat_regions(tiles, axes, use)
    removed = {} if residual is None else of_residual(tiles_of(residual), axes, blocks.usable, blocks.size)
    if not flat:
        return Noise(signal_range=blocks.extent, residual=named(removed), traces=traces), no_air
    energy, freedom = _energy(tiles, flat, blocks)
    ground = _background(blocks, energy)
    sigma, spread = _strength(energy[use], freedom)
    low, middle, high = np.sqrt(np.percentile(energy[blocks.usable], [5, 50, 95])).tolist()
    background = of_background(tiles, axes, ground, blocks.size) if ground.any() else {}
    dependence = _dependence(energy, blocks, ground, volumes.min() >= 0 and traces.clipped_low < 0.05)
    noise = Noise(
        sigma=sigma, local_sigma=(low, middle, high), signal_range=blocks.extent, spread=spread, flat=named(flat),
        background=named(background), residual=named(removed), dependence=dependence, traces=traces,
    )  # fmt: skip
    return noise, block_values(core(tiles), ground)


def _describe_blocks(tiles: np.ndarray, padded: np.ndarray, lowest: np.ndarray) -> _BlockStatistics:
    # Around the overall mean, since float32 squares of CT's -1024 would drown noise of a few units.
    offset = tiles.mean(dtype=np.float64)
    centered = core(tiles) - np.float32(offset)
    mean, variance = block_moments(centered)
    usable = (padded == 0) & (lowest < 0.1) & (variance > 0)
    low, high = map(float, np.percentile(mean[usable] if usable.any() else mean, [1, 99]))
    return _BlockStatistics(
        mean + offset, variance, usable, mean < low + _DARK * (high - low), high - low, centered.size / len(mean)
    )


def _energy(tiles: np.ndarray, flat: dict[int, Correlation], blocks: _BlockStatistics) -> tuple[np.ndarray, float]:
    """Noise variance of every block, structure included, and the degrees of freedom of one such variance.

    Second differences are taken along the axes where correlation changes their variance least; the change is undone.
    """
    gains = {axis: filter_gain(correlation.lags) for axis, correlation in flat.items()}
    filtered = [axis for axis, gain in gains.items() if gain > 0.6] or [max(gains, key=lambda axis: gains[axis])]
    gain = math.prod(gains[axis] for axis in filtered)
    energy = block_means(core(second_difference(tiles, filtered), filtered) ** 2) / gain
    # Correlation costs degrees of freedom: the sum of its squares over all lags.
    loss = math.prod(
        1 + 2 * sum(c**2 for c in (FILTER_LAGS if axis in filtered else correlation.lags))
        for axis, correlation in flat.items()
    )
    return energy, blocks.size / loss


def _strength(energy: np.ndarray, freedom: float) -> tuple[float, float]:
    """Standard deviation of the noise, and how much wider calm energies spread than those of even noise."""
    # Normal scores of the 5th and the 25th percentile.
    low, calm = _chi_square_quantile(-1.645, freedom), _chi_square_quantile(-0.6745, freedom)
    lowest, quarter = np.quantile(energy, [0.05, 0.25])
    spread = 0.5 * (math.log(quarter / lowest) - math.log(calm / low)) if lowest > 0 else math.inf
    return math.sqrt(quarter / calm), spread


def _chi_square_quantile(z: float, freedom: float) -> float:
    """Quantile of chi-square over its mean at the normal score ``z`` (Wilson and Hilferty)."""
    return max(1 - 2 / (9 * freedom) + z * math.sqrt(2 / (9 * freedom)), 0.1) ** 3


def _background(blocks: _BlockStatistics, energy: np.ndarray) -> np.ndarray:
    """Blocks of signal-free background: many, dark, and with no more variance than their noise explains."""
    ground = blocks.usable & blocks.dark
    if ground.any():
        noise = np.median(energy[ground])
        ground &= blocks.variance <= 1.5 * noise
        level = np.median(blocks.mean[ground]) if ground.any() else 0.0
        # Means of blocks scatter by their noise and by a slow unevenness of the background.
        ground &= np.abs(blocks.mean - level) < 3 * math.sqrt(noise / blocks.size) + 0.02 * blocks.extent
    enough = ground.sum() >= max(32, 0.05 * blocks.usable.sum())
    flat = enough and np.median(blocks.variance[ground]) < 1.3 * np.median(energy[ground])
    distinct = enough and blocks.extent > 4 * math.sqrt(np.median(energy[ground]))
    return ground if flat and distinct else np.zeros_like(ground)


def _dependence(energy: np.ndarray, blocks: _BlockStatistics, ground: np.ndarray, magnitude: bool) -> Dependence:
    tissue = blocks.usable & ~ground
    n_bins = min(8, int(tissue.sum()) // 24)
    if n_bins < 4:
        return Dependence("unknown", None)
    # By brightness, equally many blocks each; in each the calm ones, where structure adds least.
    order = np.argsort(blocks.mean[tissue], kind="stable")
    bins = np.array([np.quantile(energy[tissue][part], 0.2) for part in np.array_split(order, n_bins)])
    ratio = float(bins[-2:].mean() / max(bins[:2].mean(), 1e-30))
    if ground.any() and magnitude:
        level, spread = np.median(blocks.mean[ground]), math.sqrt(np.median(blocks.variance[ground]))
        # Rayleigh noise has 0.43 of the variance and lies 1.9 of its deviations above zero; more coils, more of both.
        if level < 8 * spread and np.median(energy[ground]) < 0.75 * np.median(bins):
            return Dependence("rician", ratio)
    ranks = np.corrcoef(np.arange(n_bins), np.argsort(np.argsort(bins)))[0, 1]
    if ratio > 1.6 and ranks > 0.8:
        return Dependence("grows", ratio)
    return Dependence("constant" if 1 / 1.6 < ratio < 1.6 else "unknown", ratio)
