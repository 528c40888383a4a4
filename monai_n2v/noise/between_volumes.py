# SPDX-License-Identifier: Apache-2.0
"""Whether the noise of a series is independent between its volumes, measured on the series alone."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from scipy import ndimage

from monai_n2v.noise.block_statistics import MIN_SIDE, second_difference

# Up to this correlation, noise counts as independent between volumes.
INDEPENDENT = 0.15
# Pairs of volumes that are looked at, and voxels of a volume along an axis.
_N_PAIRS, _MAX_SIDE = 8, 96
# Where structure is weakest: the share of the voxels, by the slope of the smoothed mean; fewer voxels tell nothing.
_CALM, _SMOOTH, _FEW = 0.25, 1.5, 1000
# From this many volumes on, far ones tell how much structure all share.
_MIN_VOLUMES = 6
_MEDIAN_OF_NORMAL = 0.6745  # of absolute values


def measure_series(volumes: np.ndarray) -> float | None:
    """Measure the correlation of the noise of consecutive volumes of a series.

    Noise is read where the mean of the volumes is calm, in second differences along the axes, which leave little of
    structure. What consecutive volumes share beyond far ones is noise. A series of fewer than 6 volumes has no far
    ones: where its volumes share more than a little, the differences of consecutive ones are asked, in which structure
    is nearly gone.

    Args:
        volumes: ``(n_volumes, *spatial)`` with 2 or 3 spatial axes, finite; of any intensity scale each.

    Returns:
        the median over pairs of volumes; None for a single volume, too few voxels with noise, or two volumes where
        shared noise cannot be told from structure. Up to 0.15 the noise counts as independent.
    """
    axes, n_volumes = _axes(volumes), len(volumes)
    if n_volumes < 2:
        return None
    near = _near(n_volumes)
    parts = {number: _part(volumes[number]) for number in sorted({number for pair in near for number in pair})}
    calm = _calm(list(parts.values()), axes)
    if calm is None:
        return None
    sharp = {number: second_difference(part, axes)[0] for number, part in parts.items()}
    far = [(a, b) for a in parts for b in parts if n_volumes >= _MIN_VOLUMES and b - a > n_volumes // 3]
    return _between(sharp, calm, near, far)


def noise_of_volumes(volumes: np.ndarray) -> np.ndarray | None:
    """Measure how strong the noise of each volume of a series is, where their mean is calm.

    Args:
        volumes: as of `measure_series`.

    Returns:
        standard deviations ``(n_volumes,)``, 0 for a constant volume; None where `measure_series` finds nothing.
    """
    axes = _axes(volumes)
    sample = sorted({number for pair in _near(len(volumes)) for number in pair})
    calm = _calm([_part(volumes[number]) for number in sample], axes) if len(volumes) > 1 else None
    if calm is None:
        return None
    strengths = []
    for volume in volumes:
        sharp = second_difference(_middle(volume)[None], axes)[0][calm]
        strengths.append(float(np.median(np.abs(sharp))) / _MEDIAN_OF_NORMAL)
    return np.array(strengths)


def _axes(volumes: np.ndarray) -> list[int]:
    return [axis for axis in range(1, volumes.ndim) if volumes.shape[axis] >= MIN_SIDE]


def _near(n_volumes: int) -> list[tuple[int, int]]:
    """Pairs of consecutive volumes, spread over the series."""
    firsts = sorted({int(k) for k in np.linspace(0, n_volumes - 2, min(n_volumes - 1, _N_PAIRS))})
    return [(first, first + 1) for first in firsts]


def _calm(parts: Sequence[np.ndarray], axes: Sequence[int]) -> np.ndarray | None:
    """Where the mean of volumes is calm; None where they are too small, or hold too few voxels with noise."""
    if len(axes) < 2:
        return None
    varies = np.any([second_difference(part, axes)[0] != 0 for part in parts], axis=0)
    if varies.sum() < _FEW / _CALM:
        return None
    mean = np.mean([part[0] for part in parts], axis=0)
    inner = tuple(slice(1, -1) if axis in axes else slice(None) for axis in range(1, mean.ndim + 1))
    slope = ndimage.gaussian_gradient_magnitude(mean, _SMOOTH)[inner]
    calm: np.ndarray = varies & (slope <= np.quantile(slope[varies], _CALM))
    return calm


def are_independent(correlation: float | None) -> bool:
    """Whether, by `measure_series`, the noise of one volume tells nothing of that of another."""
    return correlation is not None and abs(correlation) <= INDEPENDENT


def _middle(volume: np.ndarray) -> np.ndarray:
    ends = [(side, min(side, _MAX_SIDE)) for side in volume.shape]
    return volume[tuple(slice((side - kept) // 2, (side - kept) // 2 + kept) for side, kept in ends)]


def _part(volume: np.ndarray) -> np.ndarray:
    """The middle of a volume with mean 0 and deviation 1, and an axis in front."""
    part = _middle(volume)
    centered: np.ndarray = part - part.mean(dtype=np.float64)
    return (centered / (centered.std() or 1.0))[None]


def _between(
    sharp: Mapping[int, np.ndarray], calm: np.ndarray, near: Sequence[tuple[int, int]], far: Sequence[tuple[int, int]]
) -> float | None:
    """Correlation of near pairs beyond that of far ones."""
    values = {number: one[calm] / max(np.linalg.norm(one[calm]), 1e-12) for number, one in sharp.items()}
    found = float(np.median([values[a] @ values[b] for a, b in near]))
    if not far and abs(found) <= INDEPENDENT:
        return found
    if not far:
        steps = [sharp[b][calm] - sharp[a][calm] for a, b in near]
        # Differences that follow each other share a volume: of independent noise they correlate by -1/2.
        c = [a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12) for a, b in pairwise(steps)]
        return float((1 + 2 * np.median(c)) / max(2 + 2 * np.median(c), 1e-6)) if c else None
    shared = max(0.0, float(np.median([values[a] @ values[b] for a, b in far])))
    return (found - shared) / max(1 - shared, 1e-6)
