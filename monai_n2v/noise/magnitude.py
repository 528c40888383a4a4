# SPDX-License-Identifier: Apache-2.0
"""Noise of magnitude images, whose mean lies above the signal: found in the background, and its bias removed."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage, optimize, special

from monai_n2v.noise.measure import Noise, measure_noise

MAGNITUDES = ("auto", "rician", "off")
# Mean over standard deviation in the background: 1.91 for one coil, more for more. Below, it is no magnitude.
_LEAST_RATIO = 1.85
_MOST_COILS = 64
# Up to this many the noise counts as that of one coil: correlation between voxels shifts the ratio a little.
_ONE_COIL = 1.3
# Strength by the background over that by the tissue: of one noise they agree.
_AGREE = 1.25
# Voxels of the box over which signal is looked for, and how many of the background's deviations it has to stand out.
_BOX, _DISTINCT = 5, 3.0


@dataclass(frozen=True)
class MagnitudeNoise:
    """Noise of a magnitude image.

    Attributes:
        sigma: standard deviation of the noise in each of the two channels, real and imaginary, of each coil.
        n_coils: how many coils were combined, as the root of the sum of squares; 1 means Rician noise. Coils whose
            noises are correlated act as fewer, so it need not be a whole number.
    """

    sigma: float
    n_coils: float = 1.0

    def __str__(self) -> str:
        """In words, for the log and the report."""
        kind = "Rician noise" if self.n_coils == 1 else f"noise of {self.n_coils:.3g} coils (non-central chi)"
        return f"{kind} of standard deviation {self.sigma:.3g}"

    def mean_of(self, signal: np.ndarray) -> np.ndarray:
        """What the magnitude is on average; see `magnitude_mean`."""
        return magnitude_mean(signal, self.sigma, self.n_coils)


def magnitude_mean(signal: np.ndarray, sigma: float, n_coils: float = 1) -> np.ndarray:
    """Mean of the magnitude over coils, root of the sum of squares: Rician for one, else non-central chi.

    ``sigma * sqrt(pi / 2) * L(-signal^2 / (2 sigma^2))`` with the generalized Laguerre function of order 1/2 and
    parameter ``n_coils - 1`` (Koay and Basser 2006, Eq. 3); from a table, as the function is slow.

    Args:
        signal: float32, without noise, at least 0: the root of the sum of squares over the coils.
        sigma: standard deviation of the noise in each of the two channels of each coil.
        n_coils: how many coils.

    Returns:
        float32 of the signal's shape.
    """
    ratios, means = _table(max(float(signal.max()) / sigma, 1.0), n_coils)
    return np.asarray(sigma * np.interp(signal / sigma, ratios, means), dtype=np.float32)


def _table(highest: float, n_coils: float) -> tuple[np.ndarray, np.ndarray]:
    """Signals from 0 to ``highest``, dense near 0 where the mean hardly rises, and the means of their magnitudes."""
    ratios = np.concatenate([np.linspace(0, 1, 256, endpoint=False) ** 2, np.geomspace(1, max(highest, 2.0), 512)])
    first = math.sqrt(2) * math.exp(special.gammaln(n_coils + 0.5) - special.gammaln(n_coils))
    # Beyond, the function overflows, and the mean is the signal's length with the noise's own power.
    near = first * special.hyp1f1(-0.5, n_coils, -(np.minimum(ratios, 30) ** 2) / 2)
    far = np.sqrt(ratios**2 + 2 * n_coils - 1)
    return ratios, np.where(ratios < 30, near, far)


def _ratio(n_coils: float) -> float:
    """Mean over standard deviation of the magnitude where there is no signal."""
    mean = math.sqrt(2) * math.exp(special.gammaln(n_coils + 0.5) - special.gammaln(n_coils))
    return mean / math.sqrt(2 * n_coils - mean**2)


def find_magnitude_noise(volumes: np.ndarray, n_coils: float | None = None) -> MagnitudeNoise | None:
    """Tell whether an image is a magnitude image with a signal-free background, and how strong its noise is.

    There the mean over the standard deviation of a chi distribution tells the number of coils; the mean square is twice
    their number times the variance. Noise in the tissue has to be as strong, which photon counts do not fulfill.

    Args:
        volumes: float32 ``(n_volumes, *spatial)``, as they were read.
        n_coils: how many coils were combined, where it is known.

    Returns:
        the noise, or None where the image does not show that it is a magnitude.
    """
    if volumes.min() < 0:
        return None
    return _of_background(measure_noise(volumes), n_coils)


def assume_magnitude_noise(volumes: np.ndarray, n_coils: float | None = None) -> MagnitudeNoise | None:
    """Measure the noise of an image that is known to be a magnitude: in its background, or in its tissue.

    Args:
        volumes: see `find_magnitude_noise`.
        n_coils: how many coils were combined; where it is None, what the background tells, else 1.

    Returns:
        the noise, or None where none could be measured.
    """
    noise = measure_noise(volumes)
    of_tissue = MagnitudeNoise(noise.sigma, n_coils or 1.0) if noise.sigma > 0 else None
    return _of_background(noise, n_coils) or of_tissue


def _of_background(noise: Noise, n_coils: float | None) -> MagnitudeNoise | None:
    mean, deviation = noise.ground or (0.0, 0.0)
    if not mean > _LEAST_RATIO * deviation > 0:
        return None
    if n_coils is None:
        ratio = min(mean / deviation, _ratio(_MOST_COILS))
        found = optimize.brentq(lambda n: _ratio(n) - ratio, 0.9, _MOST_COILS + 1)
        n_coils = 1.0 if found < _ONE_COIL else float(found)
    sigma = math.sqrt((mean**2 + deviation**2) / (2 * n_coils))
    return MagnitudeNoise(sigma, n_coils) if 1 / _AGREE < sigma / max(noise.sigma, 1e-30) < _AGREE else None


def remove_magnitude_bias(denoised: np.ndarray, noise: MagnitudeNoise) -> np.ndarray:
    """Give every voxel the signal whose magnitude has the denoised value as its mean.

    Near 0 the mean hardly rises with the signal, so what little a denoised background varies would become a signal of a
    third of the noise. Where the mean over a box of 5 voxels does not stand out from the background, there is none.

    Args:
        denoised: float32, one image of 2 or 3 axes: the mean of the magnitude at each voxel.
        noise: of the noisy image.

    Returns:
        float32 of the same shape, at least 0.
    """
    ratios, means = _table(max(float(denoised.max()) / noise.sigma, 1.0), noise.n_coils)
    signal = np.asarray(noise.sigma * np.interp(denoised / noise.sigma, means, ratios), dtype=np.float32)
    level = float(means[0]) * noise.sigma
    around = ndimage.uniform_filter(denoised, _BOX) - np.float32(level)
    # Below its level lies nothing but the background's own variation.
    below = around[(around < 0) & (around > -0.5 * level)]
    if below.size:
        signal[around < _DISTINCT * float(np.sqrt(np.mean(below * below, dtype=np.float64)))] = 0
    return signal


def check_magnitude(magnitude: Any, coils: Any) -> None:
    """Refuse settings that cannot be.

    Raises:
        ValueError: for such.
    """
    if magnitude not in MAGNITUDES:
        raise ValueError(f"magnitude must be one of {', '.join(MAGNITUDES)}, got {magnitude!r}. Leave it out for auto.")
    is_number = isinstance(coils, (int, float)) and not isinstance(coils, bool)
    if coils is not None and not (is_number and 1 <= coils < math.inf):
        raise ValueError(f"coils must be a number from 1, got {coils!r}. Leave it out where it is not known.")
