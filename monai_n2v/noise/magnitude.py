# SPDX-License-Identifier: Apache-2.0
"""Noise of magnitude images, whose mean lies above the signal: found in the air, and its bias removed."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import numpy as np
from scipy import ndimage, special

from monai_n2v.io.volume import where
from monai_n2v.noise.measure import Noise, measure_noise_and_air

MAGNITUDES = ("auto", "rician", "off")
_MOST_COILS = 64
# Greatest distance between the distribution of the air's values and that of a magnitude of noise alone. Magnitudes were
# up to 0.04 away, where M4Raw's noise is correlated; photon counts and microscopy can be as near as 0.02.
_ALIKE = 0.05
# Largest share of the air's values that are one: rounding to less than a quarter of the noise leaves 0.15, photon
# counts of that distribution have 0.18.
_TIED = 0.15
# The noise's strength in the tissue over that in the air, at most, or one over that; and its variance in bright tissue
# over that in dark: 1.0 to 1.5 in magnitudes, 1.9 and more in photon counts and microscopy.
_AGREE, _EVEN = 1.25, 1.6
# Volumes of a series that tell whether it is one of magnitudes of unlike scale.
_FEW = 8
# Share of voxels as dark as noise alone, from which on they may be air.
_MANY = 0.05
# Voxels of the box in which signal is looked for, and how many of the air's deviations it has to stand out.
_BOX, _DISTINCT = 5, 3.0


@dataclass(frozen=True)
class MagnitudeNoise:
    """Noise of a magnitude image.

    Attributes:
        sigma: standard deviation of the noise in each of the two channels, real and imaginary, of each coil.
        n_coils: how many coils were combined, as the root of the sum of squares; 1 means Rician noise. Coils whose
            noises are correlated act as fewer, so it need not be a whole number.
        has_air: whether the image has air, which becomes 0.
    """

    sigma: float
    n_coils: float = 1.0
    has_air: bool = True

    def __str__(self) -> str:
        """In words, for the log and the report."""
        kind = "Rician noise" if self.n_coils == 1 else f"noise of {self.n_coils:.3g} coils (non-central chi)"
        return f"{kind} of standard deviation {self.sigma:.3g}"


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


def find_magnitude_noise(volumes: np.ndarray, n_coils: float | None = None) -> MagnitudeNoise | None:
    """Tell by its air whether an image is a magnitude image, and how strong its noise is.

    The values of the air must have the distribution of a magnitude of noise alone: Rayleigh's for one coil. The noise
    in the tissue must be as strong as the air tells. The noise of many coils looks like normal noise above an offset,
    as cameras have it. So more than one coil is never found, but has to be known.

    Args:
        volumes: float32 ``(n_volumes, *spatial)``, as they were read.
        n_coils: how many coils were combined; one where it is None.

    Returns:
        the noise, or None where the image does not show that it is such a magnitude.
    """
    return None if volumes.min() < 0 else _by_air(*measure_noise_and_air(volumes), n_coils or 1.0)


def _by_air(noise: Noise, air: np.ndarray, n_coils: float) -> MagnitudeNoise | None:
    sigma = _sigma_of(air, n_coils)
    if sigma is None or (noise.dependence.ratio or math.inf) > _EVEN:
        return None
    return MagnitudeNoise(sigma, n_coils) if 1 / _AGREE < noise.sigma / sigma < _AGREE else None


def _sigma_of(air: np.ndarray, n_coils: float) -> float | None:
    """Strength of the noise in air that is the magnitude of noise alone, None in any other."""
    air = np.sort(air.astype(np.float64))
    sigma = math.sqrt(np.mean(air**2) / (2 * n_coils)) if air.size else 0.0
    if sigma <= 0:
        return None
    expected = special.gammainc(n_coils, (air / sigma) ** 2 / 2)
    # Of equal values the middle one counts, so that a little rounding does no harm.
    first, last = (np.searchsorted(air, air, side) / air.size for side in ("left", "right"))
    alike = np.abs((first + last) / 2 - expected).max() < _ALIKE and (last - first).max() < _TIED
    return sigma if alike else None


def may_be_magnitude(volumes: np.ndarray, n_coils: float | None = None) -> bool:
    """Tell whether an image of which `find_magnitude_noise` finds nothing may be a magnitude all the same.

    It has no negative value, many voxels as dark as noise alone, and either no air that could be looked at, or air of
    the right values, but too few other voxels to compare its noise with.

    Args:
        volumes: see `find_magnitude_noise`.
        n_coils: how many coils were combined; one where it is None.
    """
    if volumes.min() < 0:
        return False
    noise, air = measure_noise_and_air(volumes)
    if air.size:
        return _sigma_of(air, n_coils or 1.0) is not None and (noise.dependence.ratio or 0.0) <= _EVEN
    measured = volumes[volumes > 0]  # 0 is padding
    return measured.size > 0 and bool(np.mean(measured < 2 * noise.sigma) > _MANY)


def assume_magnitude_noise(volumes: np.ndarray, n_coils: float | None = None) -> MagnitudeNoise | None:
    """Measure the noise of an image that is known to be a magnitude: in its air, or else in its tissue.

    Args:
        volumes: see `find_magnitude_noise`.
        n_coils: how many coils were combined; one where it is None.

    Returns:
        the noise, or None where none could be measured.
    """
    noise, air = measure_noise_and_air(volumes)
    by_tissue = MagnitudeNoise(noise.sigma, n_coils or 1.0, has_air=False) if noise.sigma > 0 else None
    return _by_air(noise, air, n_coils or 1.0) or by_tissue


def noise_of_each(
    volumes: np.ndarray, n_coils: float | None, find: Callable[[np.ndarray, float | None], MagnitudeNoise | None]
) -> list[MagnitudeNoise]:
    """Measure the noise of every volume of a series, whose scales may differ.

    A volume in which none is found has that of all together; of volumes of unlike scale it is the median of a few,
    where half of these and more show that they are magnitudes.

    Args:
        volumes: see `find_magnitude_noise`.
        n_coils: how many coils were combined; one where it is None.
        find: `find_magnitude_noise` or `assume_magnitude_noise`.

    Returns:
        one per volume; empty where none was found.
    """
    common = find(volumes, n_coils)
    if common is None:
        if len(volumes) == 1 or volumes.min() < 0:
            return []
        few = volumes[:: max(1, len(volumes) // _FEW)]
        known = [one for one in (find(volume[None], n_coils) for volume in few) if one is not None]
        if 2 * len(known) < len(few):
            return []
        common = replace(known[0], sigma=float(np.median([one.sigma for one in known])))
    own = [find(volume[None], n_coils) for volume in volumes] if len(volumes) > 1 else [common]
    # What the tissue of one volume tells is less than what the air of all does.
    return [common if one is None or one.has_air < common.has_air else one for one in own]


def tell_noise(noises: Sequence[MagnitudeNoise]) -> str:
    """The noise of all volumes in words."""
    weakest, strongest = (choose(noises, key=lambda one: one.sigma) for choose in (min, max))
    unlike = strongest.sigma > 1.01 * weakest.sigma
    return f"{weakest} to {strongest.sigma:.3g}, by volume" if unlike else str(weakest)


def remove_magnitude_bias(denoised: np.ndarray, noise: MagnitudeNoise, padding: np.ndarray | None = None) -> np.ndarray:
    """Give every voxel the signal whose magnitude has the denoised value as its mean.

    Near 0 the mean hardly rises with the signal, so the small differences that denoised air still has would look like
    signal. So a voxel becomes 0 where the mean of the box of 5 voxels around it does not stand out from the air.

    Args:
        denoised: float32, one image of 2 or 3 axes: the mean of the magnitude at each voxel.
        noise: of the noisy image.
        padding: voxels that were not measured, bool of the same shape; they keep their value.

    Returns:
        float32 of the same shape; at least 0 but in padding.
    """
    ratios, means = _table(max(float(denoised.max()) / noise.sigma, 1.0), noise.n_coils)
    signal = np.asarray(noise.sigma * np.interp(denoised / noise.sigma, means, ratios), dtype=np.float32)
    if noise.has_air:
        signal[_is_air(denoised, float(means[0]) * noise.sigma, padding)] = 0
    if padding is not None:
        signal[padding] = denoised[padding]
    return signal


def _is_air(denoised: np.ndarray, level: float, padding: np.ndarray | None) -> np.ndarray:
    """Where the mean of the measured voxels around does not stand out from the air, whose mean is about ``level``."""
    measured = np.ones_like(denoised) if padding is None else (~padding).astype(np.float32)
    n_measured = ndimage.uniform_filter(measured, _BOX, mode="constant")
    around = ndimage.uniform_filter(denoised * measured, _BOX, mode="constant") / np.maximum(n_measured, 1e-3)
    near = around[(np.abs(around - level) < 0.15 * level) & (measured > 0)]
    if near.size == 0:
        return np.zeros(denoised.shape, dtype=bool)
    # A network may leave the air a little beside its level. Signal only adds, so the lower half tells the spread.
    center = float(np.median(near))
    below = near[near <= center] - center
    spread = float(np.sqrt(np.mean(below * below, dtype=np.float64)))
    air: np.ndarray = around < center + min(max(_DISTINCT * spread, 1e-3 * level), 0.15 * level)
    return air


def check_magnitude(magnitude: Any, coils: Any) -> None:
    """Refuse settings that cannot be.

    Raises:
        ValueError: for such.
    """
    if magnitude not in MAGNITUDES:
        raise ValueError(f"magnitude must be one of {', '.join(MAGNITUDES)}, got {magnitude!r}. Leave it out for auto.")
    is_number = isinstance(coils, Real) and not isinstance(coils, bool)
    if coils is not None and not (is_number and 1 <= coils <= _MOST_COILS):
        raise ValueError(
            f"coils must be a number from 1 to {_MOST_COILS}, got {coils!r}. Leave it out where it is not known."
        )
    if coils is not None and magnitude == "off":
        raise ValueError(f"coils must come with a magnitude, got {coils} and magnitude off. Drop one of them.")


def check_not_negative(volumes: np.ndarray, magnitude: str | None, name: Any = "") -> None:
    """Refuse an image with negative values as a magnitude.

    Raises:
        ValueError: for such.
    """
    if magnitude == "rician" and volumes.min() < 0:
        raise ValueError(
            f"magnitude must be auto or off for an image with negative values, got rician{where(name)}. Leave it out."
        )
