# SPDX-License-Identifier: Apache-2.0
"""M4Raw: real brains at 0.3 T with noisy repeats, by which a denoised repeat is scored without a clean image."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from benchmarks.tasks import data_folder


def m4raw(contrast: str) -> list[np.ndarray]:
    """The repeats of a scan, moved and scaled to the first one; ``(256, 256, 18)`` each.

    The scale of a repeat is told by its product with the third one, in which the noises of the two average out: its own
    power would hold its noise, and leave it a few percent too dim.
    """
    from PIL import Image
    from skimage.registration import phase_cross_correlation

    repeats = []
    for number in (1, 2, 3):
        files = sorted((data_folder() / "m4raw" / f"{contrast}_rep{number}").glob("*.png"))
        volume = np.stack([np.asarray(Image.open(file), dtype=np.float32) for file in files], axis=-1)
        if repeats:
            shift = phase_cross_correlation(repeats[0].mean(2), volume.mean(2), upsample_factor=50)[0]
            volume = np.fft.ifftn(ndimage.fourier_shift(np.fft.fftn(volume), [*shift, 0])).real
        repeats.append(volume)
    first, second, third = repeats
    brain = brain_of(first)
    of_second, of_third = (float((first * other)[brain].sum()) for other in (third, second))
    common = float((second * third)[brain].sum())
    return [first, second * of_second / common, third * of_third / common]


def brain_of(noisy: np.ndarray) -> np.ndarray:
    """Where M4Raw is scored: the brain, by the smoothed image."""
    brain: np.ndarray = ndimage.gaussian_filter(noisy, 3) > 0.25 * np.percentile(noisy, 99)
    return brain


def noise_powers(repeats: Sequence[np.ndarray], where: np.ndarray) -> list[float]:
    """Noise power of each of three repeats, whose noises are independent and need not be equally strong."""
    pairs = {(i, j): float((repeats[i] - repeats[j])[where].var()) for i, j in itertools.combinations(range(3), 2)}
    (a, b, c) = pairs[0, 1], pairs[0, 2], pairs[1, 2]
    return [(a + b - c) / 2, (a + c - b) / 2, (b + c - a) / 2]
