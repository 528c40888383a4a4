# SPDX-License-Identifier: Apache-2.0
"""What was measured of an image's noise, in plain words."""

from collections.abc import Sequence

from monai_n2v.noise.between_volumes import are_independent
from monai_n2v.noise.measure import Noise
from monai_n2v.noise.processing import Traces

# More than this share of clipped voxels makes noise one-sided in much of the image.
MUCH_CLIPPED = 0.05


def headline(verdict: str, warned: Sequence[int], noisy: bool | None) -> str:
    """The overall verdict in one sentence; ``warned`` are the axes that made it WARN."""
    if noisy is False:
        return f"{verdict}: there is hardly any noise to remove."
    if verdict == "PASS":
        return "PASS: noise looks independent between voxels, as Noise2Void assumes."
    if verdict == "WARN":
        where = f"{'axis' if len(warned) == 1 else 'axes'} {' and '.join(map(str, warned))}"
        if noisy is None:
            return f"WARN: the image looks resampled or smoothed along {where}, and no noise stands out."
        return f"WARN: Noise2Void's assumption does not hold along {where}; expect noise to stay."
    return "UNSURE: this image alone does not tell whether Noise2Void's assumption holds; look at what it removes."


def strength_sentences(noise: Noise, noisy: bool | None, snr: float | None) -> list[str]:
    """How strong noise is and how it goes with the signal."""
    if snr is None and noisy is False:
        return ["There is no noise at all."]
    if snr is None:
        return ["The noise's strength was not measured: too few voxels, or too few that vary."]
    if noisy is False:
        share = 100 / snr
        return [f"Hardly any noise: standard deviation at most {noise.sigma:.3g}, {share:.1f} % of the signal's range."]
    if noisy is None:
        return [
            f"No even noise floor stands out: what varies from voxel to voxel follows structure, and noise is at most "
            f"about {noise.sigma:.3g}. A clean or smoothed image looks like this."
        ]
    low, middle, high = noise.local_sigma
    told = [
        f"Noise has a standard deviation of {noise.sigma:.3g} (local 5/50/95 %: {low:.3g}, {middle:.3g}, {high:.3g}; "
        f"structure counts in the upper ones); the signal's range is {snr:.0f} times that."
    ]
    if noise.dependence.kind == "grows":
        told.append(
            f"Noise grows with the signal: its variance is {noise.dependence.ratio or 0:.1f} times larger where it is "
            "bright, as for photon counts or close to a coil. Noise2Void allows that."
        )
    if noise.dependence.kind == "rician":
        told.append(
            "The background looks like that of a magnitude image (Rician noise): the mean of noise is above zero "
            "there. Where the air shows it clearly, denoise takes off what this adds to dark regions (--magnitude)."
        )
    return told


def trace_sentences(traces: Traces, sigma: float) -> list[str]:
    """What processing left in the intensities; ``sigma`` is the noise's standard deviation."""
    told = []
    if traces.padding > 0.01:
        told.append(f"{100 * traces.padding:.0f} % of the voxels are padding of one value; they were left out.")
    for share, edge in ((traces.clipped_low, "lowest"), (traces.clipped_high, "highest")):
        if share > 0.005:
            more = " Clipped noise is one-sided, and Noise2Void learns its mean." if share > MUCH_CLIPPED else ""
            told.append(f"{100 * share:.1f} % of the other voxels are exactly at the {edge} value: clipped.{more}")
    if traces.step is not None and traces.step > sigma > 0:
        told.append(f"Intensities lie {traces.step:.3g} apart, more than the noise's {sigma:.3g}: coarsely rounded.")
    return told


def series_sentences(correlation: float | None) -> list[str]:
    """Whether the volumes of a series can be denoised together."""
    if correlation is None:
        return []
    if are_independent(correlation):
        return [
            f"Noise is independent between volumes (correlation of consecutive ones {correlation:.2f}): they can be "
            "denoised together (--volumes)."
        ]
    return [f"The volumes should be denoised apart (--volumes): {why_apart(correlation)}."]


def why_apart(correlation: float | None) -> str:
    """Why volumes should not be denoised together."""
    if correlation is None:
        return "the noise between volumes could not be measured"
    return f"noise is shared between volumes (correlation {correlation:.2f}), as after resampling in time"
