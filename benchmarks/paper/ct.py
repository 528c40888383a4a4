# SPDX-License-Identifier: Apache-2.0
"""The aorta CT by every method: no clean image exists, so what is left of the noise and of small vessels is told.

As `benchmarks.speed.intensity` measures them: the spread of voxels in the calmest cubes of soft tissue and in the lung,
and the contrast of vessels of the lung, each after over before; tissue means in HU.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np

from benchmarks.paper.medical import STEPS, filters, ours
from benchmarks.paper.store import is_there, record
from benchmarks.speed.intensity import TISSUES, calm_cubes, ct, shift

__all__ = ["METHODS", "run"]

METHODS = ("filters", "monai_n2v")


def run(scale: str, seed: int = 0, methods: Collection[str] | None = None, missing: bool = False) -> None:
    """Denoise by every method, or those that no row is there of; see `benchmarks.paper`."""
    noisy = ct().noisy[0]
    from scipy import ndimage

    smooth = ndimage.gaussian_filter(noisy, 1.5)
    soft = (smooth > TISSUES["soft"][0]) & (smooth < TISSUES["soft"][1])
    # No user knows it better: the noise is not white, and stronger in the lung.
    sigma = float(np.median([noisy[cube].std() for cube in calm_cubes(noisy, soft)]))

    def keep(method: str, outputs: Iterable[np.ndarray], **more: int) -> None:
        if missing and is_there("ct", method=method):
            return
        for output in outputs:  # one: there is nothing to choose a parameter by
            found = shift(noisy, np.asarray(output, dtype=np.float32))
            worst = max(found["tissues"].values(), key=abs)
            row = {key: found[key] for key in ("vessel_gain", "lung_spread", "calm_spread", "low_pass_std")}
            record("ct", scale=scale, method=method, sigma=round(sigma, 1), worst_tissue=worst, **row, **more)
            return

    if methods is None or "filters" in methods:
        lowest = float(noisy.min())  # some take values below 0 for background
        for method, outputs in filters(noisy - lowest, sigma, rician=False, thorough=True):
            if method != "Gaussian filter":
                keep(method, (np.asarray(output) + lowest for output in outputs))
        keep("Gaussian filter, sigma 0.7", (ndimage.gaussian_filter(noisy, 0.7) for _ in range(1)))
    if methods is None or "monai_n2v" in methods:
        keep("monai_n2v 3D", (ours([noisy], seed)[0] for _ in range(1)), seed=seed, steps=STEPS)
