# SPDX-License-Identifier: Apache-2.0
"""What was removed from an image, measured: how much, whether it is noise, and what to warn of.

Everything goes slab by slab in float64, so that large volumes are never copied whole.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

LAGS = 3

# Where a warning starts; `docs/explanation/architecture.md` tells how they were chosen.
_LIMIT_AUTOCORRELATION = 0.15
LIMIT_EDGES = 0.2
_LIMIT_REMOVED = 0.5

_SLAB = 2**21  # voxels
_BLOCK = 4  # voxels along each side of the blocks whose means are compared with edges
_BINS, _RANGE = 121, 5.0  # of the histogram, and its half width in standard deviations


@dataclass(frozen=True)
class Quality:
    """Measures of a noisy image and its denoised version; the residual is noisy minus denoised.

    Intensities are in the units of the image.

    Attributes:
        n_voxels: number of voxels compared.
        mean_noisy: mean of the noisy image.
        std_noisy: standard deviation of the noisy image, signal and noise.
        mean_denoised: mean of the denoised image.
        mean_removed: mean of the residual.
        std_removed: standard deviation of the residual; 0 for a constant one.
        sigma_noisy: standard deviation of the noise that is independent between voxels, before.
        sigma_denoised: the same, after.
        alive: fraction of the voxels whose noisy neighborhood is not constant.
        autocorrelation: of the residual, one row per axis, at lags 1 to 3; nan where there is none.
        of_noise: autocorrelation of the noise itself, likewise: what that of a good residual is; 0 for white noise.
        edges: standard deviation of the structure that the residual has at edges beyond that in flat places, in
            units of ``std_removed``; 0 for noise. Two standard errors below the estimate.
        bins: ``(n + 1,)``, limits of the residual's histogram.
        density: ``(n,)``, its density.
    """

    n_voxels: int
    mean_noisy: float
    std_noisy: float
    mean_denoised: float
    mean_removed: float
    std_removed: float
    sigma_noisy: float
    sigma_denoised: float
    alive: float
    autocorrelation: tuple[tuple[float, ...], ...]
    of_noise: tuple[tuple[float, ...], ...]
    edges: float
    bins: np.ndarray
    density: np.ndarray

    @property
    def white_limit(self) -> float:
        """What 95 % of the autocorrelations of white noise stay below in size."""
        return 1.96 / math.sqrt(self.n_voxels)

    @property
    def autocorrelation_limit(self) -> float:
        """Where the warning starts: at an effect that matters, and beyond chance in small images."""
        return max(_LIMIT_AUTOCORRELATION, 2 * self.white_limit)

    @property
    def strongest(self) -> float:
        """The largest autocorrelation in size, with its sign, beyond all between white noise and the noise's own.

        0 for a constant residual. Where neighbors share noise, a part of it may stay, and the residual be whiter.
        """
        found, of_noise = np.array(self.autocorrelation), np.array(self.of_noise)
        beyond = (found - np.clip(found, np.minimum(of_noise, 0), np.maximum(of_noise, 0))).ravel().tolist()
        return max((v for v in beyond if math.isfinite(v)), key=abs, default=0.0)

    @property
    def removed_share(self) -> float:
        """Standard deviation of the residual where the image is not constant, in units of the noise before."""
        spread = self.std_removed / math.sqrt(self.alive) if self.alive else 0.0
        return spread / self.sigma_noisy if self.sigma_noisy else math.inf


def measure(noisy: np.ndarray, denoised: np.ndarray, of_noise: np.ndarray | None = None) -> Quality:
    """Compare a noisy image with its denoised version.

    The noise is estimated from the median size of the finest diagonal Haar coefficients (Donoho and Johnstone, 1994),
    which pass no linear ramps and few edges. Blocks in which the noisy image is constant (air set to zero, clipped
    intensities) hold no noise and are left out. Noise that is correlated between neighbors is underestimated.

    Args:
        noisy: ``(n_volumes, *spatial)``, 2 or 3 spatial axes, any real dtype.
        denoised: of the same shape.
        of_noise: ``(n_axes, 3)``, autocorrelation of the noise at lags 1 to 3 voxels, where it was measured; white
            otherwise.

    Returns:
        the measures, over all volumes.
    """
    mean_noisy, mean_denoised = (float(a.mean(dtype=np.float64)) for a in (noisy, denoised))
    n_axes, offset = noisy.ndim - 1, mean_noisy - mean_denoised
    squares, products = np.zeros(2), np.zeros((2, n_axes, LAGS))
    coefficients: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    blocks: list[np.ndarray] = []
    n_cells = 0
    for before, after in _slabs(noisy, denoised):
        removed = before - after - offset
        squares += np.square(before - mean_noisy).sum(), np.square(removed).sum()
        products += _lagged(removed)
        alive = _varies(before)
        n_cells += alive.size
        for cells, values in zip(coefficients, (before, after)):
            cells.append(np.abs(_haar(values)[alive], dtype=np.float32))
        blocks.append(np.stack([_block_means(a) for a in (_gradient(after), removed, removed**2)]))
    std_noisy, std_removed = np.sqrt(squares / noisy.size).tolist()
    # Rounding in float32 leaves a constant residual a spread of about 1e-7 of the values.
    if std_removed <= 1e-6 * max(abs(mean_noisy), std_noisy):
        std_removed = 0.0
    autocorrelation = np.full((n_axes, LAGS), np.nan)
    if std_removed:
        # Lags that reach across most of a thin volume have too few pairs to tell anything.
        many = products[1] >= noisy.size / 2
        np.divide(products[0], products[1] * std_removed**2, out=autocorrelation, where=many)
    sigma_noisy, sigma_denoised = (_spread(cells) for cells in coefficients)
    voxels = math.prod(min(_BLOCK, n) for n in noisy.shape[1:])
    bins, density = _histogram(noisy, denoised, offset, std_removed)
    return Quality(
        n_voxels=noisy.size,
        mean_noisy=mean_noisy,
        std_noisy=std_noisy,
        mean_denoised=mean_denoised,
        mean_removed=offset,
        std_removed=std_removed,
        sigma_noisy=sigma_noisy,
        sigma_denoised=sigma_denoised,
        alive=sum(len(cells) for cells in coefficients[0]) / n_cells,
        autocorrelation=tuple(tuple(row) for row in autocorrelation.tolist()),
        of_noise=tuple(map(tuple, (np.zeros((n_axes, LAGS)) if of_noise is None else of_noise).tolist())),
        edges=_excess_at_edges(np.concatenate(blocks, axis=1), voxels) / std_removed if std_removed else 0.0,
        bins=bins,
        density=density,
    )


def find_faults(quality: Quality, trained: bool = True) -> list[str]:
    """Say in plain words what speaks against a result.

    Args:
        quality: the measures.
        trained: whether the network was trained on images of the kind; the advice is to train longer then, else to
            train.

    Returns:
        a few sentences per fault; empty where no check found one.
    """
    if quality.std_removed == 0:
        return ["Nothing was removed: noisy and denoised image differ by a constant at most."]
    faults = []
    longer = "Train longer" if trained else "Train on the image instead of using the prior alone"
    if quality.edges > LIMIT_EDGES:
        faults.append(
            f"The residual shows structure at edges, with a standard deviation of {quality.edges:.0%} of the "
            f"residual's own; a good result stays below {LIMIT_EDGES:.0%}. Anatomy was blurred or shifted in "
            f"intensity. {longer}, and compare edges before and after."
        )
    strongest, limit = quality.strongest, quality.autocorrelation_limit
    beyond = " beyond that of the noise" if np.any(quality.of_noise) else ""
    if strongest > limit:
        faults.append(
            f"The residual shows structure: neighboring voxels of it resemble each other (autocorrelation "
            f"{strongest:.2f}{beyond}, noise stays below {limit:.2f}). Either anatomy was removed, or neighbors share "
            "more noise than was measured before."
        )
    elif strongest < -limit:
        faults.append(
            f"The residual shows a pattern: neighboring voxels of it oppose each other (autocorrelation "
            f"{strongest:.2f}{beyond}, noise stays above {-limit:.2f}). Look for blotches or a checkerboard in the "
            f"denoised image. {longer}; that will not help where the noise itself alternates between voxels."
        )
    if quality.removed_share < _LIMIT_REMOVED:
        faults.append(
            f"Almost no noise was removed: the residual has a standard deviation of {quality.removed_share:.0%} of the "
            f"estimated noise. {'The training may be too short' if trained else longer}, or the noise is correlated "
            "between voxels."
        )
    return faults


def _slabs(noisy: np.ndarray, denoised: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of slabs along the first spatial axis, float64 ``(n, *rest)`` each, one volume after the other."""
    length = noisy.shape[1]
    planes = max(2 * _BLOCK, _SLAB // max(1, math.prod(noisy.shape[2:])))
    cuts = np.linspace(0, length, max(1, length // planes) + 1).astype(int)
    for before, after in zip(noisy, denoised):
        for start, stop in pairwise(cuts):
            yield before[start:stop].astype(np.float64), after[start:stop].astype(np.float64)


def _lagged(values: np.ndarray) -> np.ndarray:
    """Sums of products at lags 1 to 3 along every axis, and how many: ``(2, n_axes, 3)``."""
    out = np.zeros((2, values.ndim, LAGS))
    for axis in range(values.ndim):
        along = np.moveaxis(values, axis, 0)
        for lag in range(1, min(LAGS, len(along) - 1) + 1):
            pairs = along[:-lag], along[lag:]
            out[:, axis, lag - 1] = (pairs[0] * pairs[1]).sum(), pairs[0].size
    return out


def _gradient(values: np.ndarray) -> np.ndarray:
    """Length of the gradient per voxel, of the same shape."""
    return np.sqrt(sum(np.gradient(values, axis=axis) ** 2 for axis in range(values.ndim)))


def _halve(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """First and second of each pair along ``axis``; a last single one is left out."""
    along = np.moveaxis(values, axis, 0)
    n = len(along) - len(along) % 2
    return np.moveaxis(along[0:n:2], 0, axis), np.moveaxis(along[1:n:2], 0, axis)


def _haar(values: np.ndarray) -> np.ndarray:
    """Finest diagonal Haar coefficients, half as many along every axis; they keep the spread of white noise."""
    for axis in range(values.ndim):
        first, second = _halve(values, axis)
        values = (first - second) / math.sqrt(2)
    return values


def _spread(sizes: list[np.ndarray]) -> float:
    """Standard deviation of normal values from the median of their sizes, which outliers hardly move."""
    together = np.concatenate(sizes)
    return float(np.median(together, overwrite_input=True)) / 0.6745 if together.size else 0.0


def _varies(values: np.ndarray) -> np.ndarray:
    """Which of the blocks of `_haar` hold more than one value."""
    low = high = values
    for axis in range(values.ndim):
        low, high = np.minimum(*_halve(low, axis)), np.maximum(*_halve(high, axis))
    return high > low


def _block_means(values: np.ndarray) -> np.ndarray:
    """Means over blocks of 4 voxels along every axis (all along shorter ones), flat."""
    for axis, n in enumerate(values.shape):
        side = min(_BLOCK, n)
        along = np.moveaxis(values, axis, 0)[: n - n % side]
        means = along.reshape(-1, side, *along.shape[1:]).mean(axis=1)
        values = np.moveaxis(means, 0, axis)
    return values.ravel()


def _excess_at_edges(blocks: np.ndarray, voxels: int) -> float:
    """Standard deviation that block means of the residual have at edges beyond that in flat places.

    Independent noise gives the mean of a block the variance of its voxels divided by their number, however strong the
    noise is there: this is taken off first, since noise may grow with the signal, as in magnitude MR. Correlated noise
    gives more, but the same more at edges and elsewhere. The twentieth of the blocks that stray most is left out: the
    few brightest spots of an image, which Noise2Void always dims, would outweigh all else.

    Args:
        blocks: ``(3, n_blocks)``: mean gradient of the denoised image, mean and mean square of the residual.
        voxels: of a block.
    """
    gradient, means, squares = blocks
    half, steep = np.quantile(gradient, [0.5, 0.9])
    edges, flat = gradient > steep, gradient <= half
    if not edges.any():
        return 0.0
    excess = means**2 - squares / voxels
    at_edges, in_flat = (_trimmed_mean(excess[places]) for places in (edges, flat))
    error = math.sqrt(2 / int(edges.sum())) * float(squares[edges].mean()) / voxels
    return math.sqrt(max(0.0, at_edges - in_flat - 2 * error))


def _trimmed_mean(values: np.ndarray) -> float:
    """Mean without the highest twentieth."""
    n = max(1, round(0.95 * values.size))
    return float(np.partition(values, n - 1)[:n].mean())


def _histogram(noisy: np.ndarray, denoised: np.ndarray, offset: float, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Limits and density of the residual within five standard deviations of its mean."""
    half = _RANGE * spread or 1.0
    bins = np.linspace(offset - half, offset + half, _BINS + 1)
    counts = np.zeros(_BINS)
    for before, after in _slabs(noisy, denoised):
        counts += np.histogram(before - after, bins)[0]
    return bins, counts / (noisy.size * (bins[1] - bins[0]))
