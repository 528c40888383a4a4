# SPDX-License-Identifier: Apache-2.0
"""Whether Noise2Void's assumption, noise independent between voxels, holds for an image; told before any training."""

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from monai_n2v.io.plain import to_plain
from monai_n2v.noise.between_volumes import measure_series
from monai_n2v.noise.block_statistics import MAX_LAG
from monai_n2v.noise.correlation import Correlation
from monai_n2v.noise.measure import Noise, measure_noise
from monai_n2v.noise.sentences import MUCH_CLIPPED, headline, series_sentences, strength_sentences, trace_sentences

# Neighbors on both sides with correlation a each predict 2 a^2 of the noise's variance: at 0.15, 5 %, which a network
# then keeps. Below that Noise2Void loses less than structN2V does by hiding context. aydin uses the same value.
THRESHOLD = 0.15
# Noise below this share of the signal's range is not worth removing.
_HARDLY = 1 / 200
# Calm blocks of one noise level differ by what chance explains (spread 0); of clean structure, by 0.5 and more. Where
# all axes lack high frequencies or are strongly correlated, what is seen is smooth, and less makes it doubtful.
_NO_FLOOR, _NO_FLOOR_SMOOTH, _SMOOTH = 0.4, 0.1, 0.6
# Gaussian smoothing by 1.2 voxels and more: where all axes are that smooth there is no telling noise from structure.
_TOO_SMOOTH = 0.84
# Volumes of fewer slices are denoised slice by slice, where correlation across slices does not matter.
_THIN = 8
# Over a white background, correlation in flat regions that grows by this with structure may be nothing but structure.
_MIXED = 0.05


@dataclass(frozen=True)
class AxisCheck:
    """What holds along one axis.

    Attributes:
        axis: spatial axis in stored orientation, from 0.
        verdict: ``PASS``, ``WARN`` or ``UNSURE``.
        sentence: the reason in plain words.
        correlations: every measurement of the noise's autocorrelation along the axis, the deciding one first.
        cutoff: share of the frequencies that are there, None where not measured.
        period: period of the noise variance in voxels, None where there is none.
    """

    axis: int
    verdict: str
    sentence: str
    correlations: tuple[Correlation, ...]
    cutoff: float | None
    period: float | None


@dataclass(frozen=True)
class NoiseCheck:
    """Whether Noise2Void suits an image, and what was measured.

    Attributes:
        verdict: ``PASS``, ``WARN`` or ``UNSURE`` overall.
        noisy: whether there is noise to remove; None where noise cannot be told from structure.
        snr: signal range (1st to 99th percentile of the means of small blocks) over ``noise.sigma``, or None.
        axes: one check per spatial axis.
        footprint: structN2V footprint to use, uint8 with odd sides and one axis per spatial axis, or None.
        between_volumes: correlation of the noise of consecutive volumes; None where it was not measured.
        sentences: everything worth knowing in plain words, the overall verdict first.
        noise: the measurements.
    """

    verdict: str
    noisy: bool | None
    snr: float | None
    axes: tuple[AxisCheck, ...]
    footprint: np.ndarray | None
    between_volumes: float | None
    sentences: tuple[str, ...]
    noise: Noise

    @property
    def autocorrelation(self) -> np.ndarray:
        """Autocorrelation of the noise, ``(n_axes, 3)`` at lags 1 to 3; 0 along the axes that passed."""
        found = np.zeros((len(self.axes), MAX_LAG))
        for row, axis in zip(found, self.axes):
            if axis.verdict != "PASS" and axis.correlations:
                row[:] = axis.correlations[0].lags
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dicts, ready for JSON."""
        return to_plain(asdict(self))


def check_noise(
    volumes: np.ndarray, spacing: Sequence[float] | None = None, residual: np.ndarray | None = None
) -> NoiseCheck:
    """Tell before training whether Noise2Void's assumption holds for an image.

    Args:
        volumes: float32 ``(n_volumes, *spatial)`` with 2 or 3 spatial axes, stored orientation, finite.
        spacing: voxel sides in mm, one per spatial axis; named in the sentences.
        residual: what a trained network removed from ``volumes``, same shape: the best witness of correlation.

    Raises:
        ValueError: where shapes or values are not of that kind.
    """
    volumes = np.asarray(volumes, dtype=np.float32)
    _check_arguments(volumes, spacing, residual)
    noise = measure_noise(volumes, None if residual is None else np.asarray(residual, dtype=np.float32))
    noisy = _is_noisy(noise)
    names = [f"axis {i}" + (f" ({spacing[i]:.3g} mm)" if spacing else "") for i in range(volumes.ndim - 1)]
    axes = tuple(_check_axis(i, name, noise, noisy) for i, name in enumerate(names))
    footprint, reason = suggest_footprint(axes) if noisy else (None, [])
    counted = [check for check in axes if check.correlations or volumes.shape[1 + check.axis] >= _THIN]
    verdict = _overall(counted, noise, noisy)
    snr = noise.signal_range / noise.sigma if noise.sigma > 0 else None
    warned = [check.axis for check in axes if check.verdict == "WARN"]
    sentences = [headline(verdict, warned, noisy), *strength_sentences(noise, noisy, snr)]
    sentences += [axis.sentence for axis in axes] + reason + trace_sentences(noise.traces, noise.sigma)
    between_volumes = None if noisy is False else measure_series(volumes)
    sentences += series_sentences(between_volumes)
    return NoiseCheck(verdict, noisy, snr, axes, footprint, between_volumes, tuple(sentences), noise)


def suggest_footprint(axes: Sequence[AxisCheck]) -> tuple[np.ndarray | None, list[str]]:
    """Which voxels to hide together: the connected run of correlated lags along every axis that warns of correlation.

    Across two axes the correlation is taken as the product, so that weak ones give a cross and strong ones a box.

    Returns:
        the footprint or None, and a sentence about it where there is something to say.
    """
    runs, profiles = [], []
    for check in axes:
        lags = np.abs(check.correlations[0].lags) if check.correlations else np.zeros(0)
        run = next((i for i, lag in enumerate(lags) if lag <= THRESHOLD), len(lags)) if check.verdict == "WARN" else 0
        runs.append(run)
        profiles.append(np.array([1.0, *lags])[np.abs(np.arange(-run, run + 1))])
    measured = [check for check in axes if check.correlations]
    if not any(runs):
        return None, []  # nothing to hide, or correlation that skips the next voxel: no connected run
    if len(measured) == len([run for run in runs if run]):
        return None, [
            "No structN2V footprint can help: noise is correlated along every axis measured, so a footprint would hide "
            "all of the context. Take the image from before it was smoothed or resampled."
        ]
    footprint = (functools.reduce(np.multiply.outer, profiles) > THRESHOLD).astype(np.uint8)
    shape = " x ".join(map(str, footprint.shape))
    return footprint, [
        f"A structN2V footprint of {shape} voxels hides the correlated neighbors ({footprint.sum()} voxels)."
    ]


def _check_arguments(volumes: np.ndarray, spacing: Sequence[float] | None, residual: np.ndarray | None) -> None:
    if volumes.ndim not in (3, 4) or volumes.size == 0:
        raise ValueError(
            f"volumes must be (n_volumes, *spatial) with 2 or 3 spatial axes, got shape {volumes.shape}. "
            "Add an axis in front for a single image."
        )
    if not np.isfinite(volumes).all():
        raise ValueError(
            "volumes must be finite, got NaN or infinity. Replace them first, for example by numpy.nan_to_num."
        )
    if spacing is not None and len(spacing) != volumes.ndim - 1:
        raise ValueError(f"spacing must be one number per spatial axis, got {len(spacing)}. Give {volumes.ndim - 1}.")
    if residual is not None and np.shape(residual) != volumes.shape:
        raise ValueError(
            f"residual must be of the shape of volumes, {volumes.shape}, got {np.shape(residual)}. "
            "Use the noisy image minus the denoised one."
        )


def _is_noisy(noise: Noise) -> bool | None:
    if not noise.flat:
        return False if noise.traces.padding == 1 else None
    if noise.sigma < _HARDLY * noise.signal_range:
        return False
    lags = {axis: found.lags[0] for axis, found in noise.flat.items()}
    if min(lags.values()) > _TOO_SMOOTH:
        return None
    smooth = all(noise.traces.cutoff.get(axis, 1.0) < 1 or lag > _SMOOTH for axis, lag in lags.items())
    return None if noise.spread > (_NO_FLOOR_SMOOTH if smooth else _NO_FLOOR) else True


def _check_axis(axis: int, name: str, noise: Noise, noisy: bool | None) -> AxisCheck:
    found = [source[axis] for source in (noise.residual, noise.flat, noise.background) if axis in source]
    cutoff, period = noise.traces.cutoff.get(axis), noise.traces.period.get(axis)

    def checked(verdict: str, sentence: str) -> AxisCheck:
        return AxisCheck(axis, verdict, f"{verdict} {name}: {sentence}", tuple(found), cutoff, period)

    if cutoff is not None and cutoff < 1:
        return checked(
            "WARN",
            f"the highest {100 * (1 - cutoff):.0f} % of the frequencies are missing, as after zero-filling, resampling "
            "or smoothing; what noise there is, is correlated.",
        )
    if period is not None:
        return checked(
            "WARN",
            f"the noise's strength repeats every {period:.1f} voxels, as after interpolation or in interlaced slices.",
        )
    if not found:
        return checked("UNSURE", "too few voxels, or too few that are not padding, to measure correlation.")
    verdict, found = weigh(found)
    lag = found[0].lags[0]
    told = f"correlation with the next voxel is {lag:.2f} (+-{2 * found[0].error:.2f}, {_SOURCES[found[0].source]})"
    if (noisy is False or noise.spread > _NO_FLOOR) and not noise.residual:
        return checked("UNSURE", f"{told}, but that may be structure: no noise stands out.")
    if verdict == "PASS":
        return checked(verdict, f"noise looks {'independent' if abs(lag) < 0.08 else 'nearly independent'}, {told}.")
    if verdict == "WARN":
        strongest = max(abs(value) for value in found[0].lags)
        reach = "" if strongest == abs(lag) else f", up to {strongest:.2f} further off"
        return checked(verdict, f"noise is correlated: {told}{reach}. Noise2Void would keep part of it.")
    return checked(verdict, f"not decided: {told}; structure or chance may explain it.")


_SOURCES = {"flat": "in flat regions", "background": "in the background", "residual": "in what the network removed"}


def weigh(found: list[Correlation]) -> tuple[str, list[Correlation]]:
    """Verdict of the best source, and the sources with the deciding one first."""
    first, verdict = found[0], _judge(found[0])
    ground = next((correlation for correlation in found if correlation.source == "background"), None)
    if ground is None or first.source != "flat":
        return verdict, found
    other = _judge(ground)
    if verdict == "UNSURE" and other != "UNSURE":
        return other, [ground, first]
    if verdict == "WARN" and other == "PASS" and first.drift > _MIXED:
        return "UNSURE", found
    # Correlated in the background only: ghosts and windowing do that too.
    return ("UNSURE" if (verdict, other) == ("PASS", "WARN") else verdict), found


def _judge(correlation: Correlation) -> str:
    """PASS or WARN where chance, and structure mixing in, cannot turn it."""
    lags = np.abs(correlation.lags)
    doubt = 2 * correlation.error + (correlation.drift if correlation.lags[0] > 0 else 0.0)
    if (lags - doubt > THRESHOLD).any():
        return "WARN"
    # Structure only adds to the first lag, hence it cannot hide correlation; chance can.
    if lags[0] + correlation.error < THRESHOLD and (lags[1:] - 2 * correlation.error < THRESHOLD).all():
        return "PASS"
    return "UNSURE"


def _overall(axes: Sequence[AxisCheck], noise: Noise, noisy: bool | None) -> str:
    verdicts = {check.verdict for check in axes}
    if "WARN" in verdicts:
        return "WARN"
    one_sided = max(noise.traces.clipped_low, noise.traces.clipped_high) > MUCH_CLIPPED
    return "UNSURE" if "UNSURE" in verdicts or one_sided or noisy is not True else "PASS"
