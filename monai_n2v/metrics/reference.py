# SPDX-License-Identifier: Apache-2.0
"""How far a denoised image is from the truth: measured against references, or estimated from noisy images alone.

Functions take one channel, spatial axes only, where they do not say otherwise, in the units of the image, unclipped.
Sums go plane by plane in float64, so that large volumes are never copied whole.

References:
    .. [1] Marcos-Morales et al., "Evaluating Unsupervised Denoising Requires Unsupervised Metrics", ICML 2023 (uMSE).
    .. [2] Batson and Royer, "Noise2Self: Blind Denoising by Self-Supervision", ICML 2019 (Sec. 2).
"""

import math
from collections.abc import Iterable

import numpy as np
from scipy import ndimage

from monai_n2v.metrics.residual import measure

# Every score, in the order of the tables.
SCORES = (
    *("val_loss", "data_range", "psnr_noisy", "psnr_denoised", "ssim_noisy", "ssim_denoised"),
    *("repeats_mse_noisy", "repeats_mse_denoised", "repeats_psnr_noisy", "repeats_psnr_denoised"),
    *("sigma", "blind_mse", "blind_mse_error", "blind_psnr_noisy", "blind_psnr"),
    *("residual_lag1_axis0", "residual_lag1_axis1", "residual_lag1_axis2"),
)

# Of the SSIM paper, and what scikit-image takes with gaussian_weights=True.
_WINDOW, _WINDOW_SIGMA = 11, 1.5
_K1, _K2 = 0.01, 0.03
_SLAB = 2**20  # voxels; larger ones take more memory and hardly less time
_SAMPLE = 2**16  # voxels that tell whether values repeat


def data_range_of(noisy: np.ndarray, clean: np.ndarray | None = None) -> float:
    """The range that PSNR and SSIM refer to, where the user names none.

    Args:
        noisy: the noisy image.
        clean: the clean one, where there is one.

    Returns:
        maximum minus minimum of ``clean``; without it the distance of the 0.1th and 99.9th percentile of ``noisy``,
        which no single outlier moves and which does not depend on what denoised.
    """
    if clean is not None:
        return float(clean.max()) - float(clean.min())
    low, high = np.percentile(noisy, [0.1, 99.9])
    return float(high - low)


def psnr(mse: float, data_range: float) -> float:
    """Peak signal-to-noise ratio in dB.

    Args:
        mse: mean squared error; an estimate of it may be negative.
        data_range: peak to peak, in the units of the image.

    Returns:
        ``10 log10(data_range**2 / mse)``; inf for an error of 0, -inf for an infinite one, nan for a
        negative one or without a range.
    """
    if not (mse >= 0 and data_range > 0):
        return math.nan
    return 20 * math.log10(data_range) - 10 * math.log10(mse) if mse else math.inf


def ssim(image: np.ndarray, reference: np.ndarray, data_range: float, spatial_dims: int) -> float:
    """Structural similarity: Gaussian window of 11 voxels and standard deviation 1.5, borders left out.

    Along an axis shorter than the window, and along the slices of a volume that a 2D network denoised, the window is
    one voxel: this is the mean of the slices' SSIM.

    Args:
        image: of 2 or 3 axes.
        reference: of the same shape.
        data_range: see `data_range_of`.
        spatial_dims: axes of the network; a third axis beyond them counts slices.

    Returns:
        SSIM as scikit-image has it without sample covariance; nan where every axis is shorter than the window.
    """
    fits = [n >= _WINDOW and axis < spatial_dims for axis, n in enumerate(image.shape)]
    if not any(fits) or not data_range > 0:
        return math.nan
    overlap = _WINDOW - 1 if fits[0] else 0
    # Planes of the overlap are filtered twice: at least as many others belong to them.
    step = max(_WINDOW, _SLAB // math.prod(image.shape[1:]))
    total, count = 0.0, 0
    for start in range(0, image.shape[0] - overlap, step):
        # In float32, as MONAI has it, variances of images far from zero are lost in the squares of their means.
        a, b = (x[start : start + step + overlap].astype(np.float64) for x in (image, reference))
        values = _ssim_map(a, b, data_range, [axis for axis, fit in enumerate(fits) if fit])
        total, count = total + float(values.sum()), count + values.size
    return total / count


def _ssim_map(a: np.ndarray, b: np.ndarray, data_range: float, axes: list[int]) -> np.ndarray:
    """SSIM of every window along ``axes`` that lies within two float64 images."""
    radius = _WINDOW // 2
    inside = tuple(slice(radius, n - radius) if axis in axes else slice(None) for axis, n in enumerate(a.shape))

    def mean(x: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(x, _WINDOW_SIGMA, radius=radius, axes=axes)[inside]

    mean_a, mean_b = mean(a), mean(b)
    variances = mean(a * a) - mean_a**2 + mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    c1, c2 = (_K1 * data_range) ** 2, (_K2 * data_range) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return luminance * (2 * covariance + c2) / (variances + c2)


def score_clean(
    noisy: np.ndarray, denoised: np.ndarray, clean: np.ndarray, data_range: float, spatial_dims: int
) -> dict[str, float]:
    """PSNR and SSIM of noisy and denoised image against the clean one.

    Args:
        noisy: of 2 or 3 axes.
        denoised: of the same shape.
        clean: of the same shape.
        data_range: see `data_range_of`.
        spatial_dims: see `ssim`.
    """
    scores = {}
    for name, image in (("noisy", noisy), ("denoised", denoised)):
        scores[f"psnr_{name}"] = psnr(_mean_square(image, clean), data_range)
        scores[f"ssim_{name}"] = ssim(image, clean, data_range, spatial_dims)
    return scores


def average_repeats(repeats: Iterable[np.ndarray]) -> tuple[np.ndarray, list[float] | None]:
    """Mean of independent noisy exposures, and how far its noise puts it off.

    Args:
        repeats: one or more images ``(C, *spatial)`` of one shape; taken one at a time.

    Returns:
        their mean, float32, and for every channel the noise variance of that mean, averaged over voxels: the sample
        variance of the repeats divided by their number. None in its place for a single repeat.
    """
    mean, scatter, n = np.zeros(0, dtype=np.float32), np.zeros(0), 0
    for n, repeat in enumerate(repeats, start=1):
        if n == 1:
            mean, scatter = repeat.astype(np.float32), np.zeros(len(repeat))
        for channel, plane in np.ndindex(*mean.shape[:2]):
            change = repeat[channel, plane].astype(np.float64) - mean[channel, plane]
            # Welford: the sum of squared deviations grows by this.
            scatter[channel] += float(np.square(change).sum()) * (n - 1) / n
            mean[channel, plane] += change / n
        del repeat  # before the next is read
    return mean, (scatter / (n - 1) / n / mean[0].size).tolist() if n > 1 else None


def score_repeats(
    noisy: np.ndarray, denoised: np.ndarray, mean: np.ndarray, variance: float | None, data_range: float
) -> dict[str, float]:
    """Unbiased mean squared error and PSNR against independent noisy exposures ([1]_).

    The distance to a noisy reference is too large by the reference's noise variance, which the repeats themselves tell
    and which is taken off. With a single repeat, half the mean square of its difference to ``noisy`` stands for that
    variance: right where both are equally noisy.

    Args:
        noisy: what was denoised; not among the repeats.
        denoised: of the same shape.
        mean: of the repeats, from `average_repeats`.
        variance: of the noise of ``mean``, from `average_repeats`.
        data_range: see `data_range_of`.

    Returns:
        the errors, which may come out negative where little error is left, and PSNR, then nan.
    """
    if variance is None:
        variance = _mean_square(noisy, mean) / 2
    scores = {}
    for name, image in (("noisy", noisy), ("denoised", denoised)):
        mse = _mean_square(image, mean) - variance
        scores[f"repeats_mse_{name}"] = mse
        scores[f"repeats_psnr_{name}"] = psnr(mse, data_range)
    return scores


def score_blind(noisy: np.ndarray, blind: np.ndarray, variance: float, data_range: float) -> dict[str, float]:
    """Estimate mean squared error and PSNR from the noisy image alone ([2]_).

    At a blind spot the prediction does not know the noise of the voxel it is compared with. For noise that is
    independent between voxels and zero on average, the mean square of their difference therefore is the error plus the
    noise variance.

    Args:
        noisy: the noisy image.
        blind: what was predicted at blind spots, nan elsewhere; of the same shape.
        variance: of the noise, averaged over voxels.
        data_range: see `data_range_of`.

    Returns:
        ``blind_mse``, an estimate for predictions through blind spots and so slightly above the error of the denoised
        image; its standard error, that of ``variance`` left out; PSNR, nan where the estimate is negative, and PSNR of
        the noisy image by the same ``variance``.
    """
    spots = ~np.isnan(blind)
    squares = np.square(blind[spots].astype(np.float64) - noisy[spots])
    n = squares.size
    mse = float(squares.mean()) - variance if n else math.nan
    return {
        "blind_mse": mse,
        "blind_mse_error": float(squares.std()) / math.sqrt(n) if n else math.nan,
        "blind_psnr_noisy": psnr(variance, data_range),
        "blind_psnr": psnr(mse, data_range),
    }


def score_residual(noisy: np.ndarray, denoised: np.ndarray) -> tuple[dict[str, float], float]:
    """Noise level, and autocorrelation of what was removed.

    The noise is estimated from finest Haar coefficients (`metrics.measure`). On smooth images with white
    noise this is right within two percent. Texture adds to it: the weaker the noise, the more.

    Args:
        noisy: of 2 or 3 axes.
        denoised: of the same shape.

    Returns:
        ``sigma`` and ``residual_lag1_axis<k>``, the autocorrelation of the residual between neighbors along axis k,
        nan where nothing was removed; and the fraction of the image that is not constant, which alone holds noise.
    """
    step = _step(noisy)
    # The median of coefficients of whole numbers jumps, at 8 bits by several percent: fill the gaps.
    quality = measure((_dither(noisy, step) if step else noisy)[None], denoised[None])
    sigma = math.sqrt(max(0.0, quality.sigma_noisy**2 - step**2 / 12))
    lags = {f"residual_lag1_axis{axis}": row[0] for axis, row in enumerate(quality.autocorrelation)}
    return {"sigma": sigma, **lags}, quality.alive


def _step(image: np.ndarray) -> float:
    """Distance of the levels of an image that was stored in few of them; 0 where values hardly repeat."""
    sample = image.ravel()[:: max(1, image.size // _SAMPLE)]
    levels = np.unique(sample)
    return float(np.diff(levels).min()) if 1 < len(levels) < len(sample) / 4 else 0.0


def _dither(image: np.ndarray, step: float) -> np.ndarray:
    """Spread every value over its level, but for the lowest and highest: padding and clipping stay constant."""
    change = np.random.default_rng(0).random(image.shape, dtype=np.float32)
    change -= np.float32(0.5)
    change *= np.float32(step)
    change[(image == image.min()) | (image == image.max())] = 0
    change += image
    return change


def _mean_square(image: np.ndarray, reference: np.ndarray) -> float:
    """Mean square of the difference."""
    squares = (float(np.square(a.astype(np.float64) - b).sum()) for a, b in zip(image, reference))
    return sum(squares) / image.size
