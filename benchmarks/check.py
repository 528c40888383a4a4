# SPDX-License-Identifier: Apache-2.0
"""How often `check_noise` is right: simulated noise on Colin27, and what it says of real images.

Every case is a crop of Colin27 (slices and crops of slices in 2D, crops in 3D) with noise of a known kind, of a
standard deviation between 3 and 25 (Colin27 goes up to 255), drawn from the case's seed. The thresholds were chosen on
seeds below 2000; the table is of seeds from there. ``python -m benchmarks.check``. One thread.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage, signal

from benchmarks.common import save
from benchmarks.tasks import data_folder
from monai_n2v.noise.check import NoiseCheck, check_noise

Case = tuple[np.ndarray, int | None, dict[str, Any]]


def anatomy(colin: np.ndarray, dims: int, rng: np.random.Generator) -> np.ndarray:
    """A crop with or without air, or a whole slice."""
    lows, highs = np.array([15, 20, 15]), np.array([166, 197, 150])
    if dims == 3:
        sides = rng.integers(48, 97, 3)
        start = [int(rng.integers(low, high - side + 1)) for low, high, side in zip(lows, highs, sides)]
        return colin[tuple(slice(s, s + n) for s, n in zip(start, sides))]
    axis = int(rng.integers(3))
    plane = np.take(colin, int(rng.integers(60, 120)), axis=axis)
    if rng.random() < 0.5:
        return plane
    sides = rng.integers(80, 129, 2)
    start = [int(rng.integers(10, n - side - 9)) for n, side in zip(plane.shape, sides)]
    return plane[tuple(slice(s, s + n) for s, n in zip(start, sides))]


def scaled(noise: np.ndarray, sigma: float) -> np.ndarray:
    return noise * (sigma / noise.std())


def white(clean: np.ndarray, sigma: float, rng: np.random.Generator) -> Case:
    return clean + sigma * rng.normal(size=clean.shape), None, {}


def line(clean: np.ndarray, sigma: float, rng: np.random.Generator) -> Case:
    """Correlated along one axis: smoothed by 0.5 to 1.2 voxels, or autoregressive with 0.3 to 0.7."""
    axis, noise = int(rng.integers(clean.ndim)), rng.normal(size=clean.shape)
    if rng.random() < 0.5:
        width = float(rng.uniform(0.5, 1.2))
        return clean + scaled(ndimage.gaussian_filter1d(noise, width, axis=axis), sigma), axis, {"width": width}
    weight = float(rng.uniform(0.3, 0.7))
    return clean + scaled(signal.lfilter([1.0], [1.0, -weight], noise, axis=axis), sigma), axis, {"weight": weight}


def smoothed(clean: np.ndarray, sigma: float, rng: np.random.Generator) -> Case:
    width = float(rng.uniform(0.5, 1.0))
    return clean + scaled(ndimage.gaussian_filter(rng.normal(size=clean.shape), width), sigma), None, {"width": width}


def clean_band_limited(clean: np.ndarray, sigma: float, rng: np.random.Generator) -> Case:
    del sigma  # no noise at all
    width = float(rng.uniform(0.7, 1.5))
    return ndimage.gaussian_filter(clean, width), None, {"width": width, "sigma": 0.0}


def poisson(clean: np.ndarray, sigma: float, rng: np.random.Generator) -> Case:
    """Photon counts whose noise has the asked strength where the signal is 100."""
    scale = 100 / sigma**2
    return rng.poisson((clean + 5) * scale) / scale, None, {}


def rician(clean: np.ndarray, sigma: float, rng: np.random.Generator) -> Case:
    real, imaginary = sigma * rng.normal(size=(2, *clean.shape))
    return np.hypot(clean + real, imaginary), None, {}


def zero_filled(clean: np.ndarray, sigma: float, rng: np.random.Generator) -> Case:
    """White noise whose highest frequencies along one axis are set to zero, with those of the anatomy."""
    axis, share = int(rng.integers(clean.ndim)), float(rng.uniform(0.5, 0.9))
    spectrum = np.fft.rfft(clean + sigma * rng.normal(size=clean.shape), axis=axis)
    kept = int(share * spectrum.shape[axis])
    spectrum[(slice(None),) * axis + (slice(kept, None),)] = 0
    return np.fft.irfft(spectrum, n=clean.shape[axis], axis=axis), axis, {"share": share}


def resampled(clean: np.ndarray, sigma: float, rng: np.random.Generator) -> Case:
    """Linear interpolation along one axis to 0.6 to 0.9 of the voxel side."""
    axis, zoom = int(rng.integers(clean.ndim)), float(rng.uniform(0.6, 0.9))
    noisy = clean + sigma * rng.normal(size=clean.shape)
    at = np.arange(0, clean.shape[axis] - 1, zoom)
    low = at.astype(int)
    weight = (at - low).reshape([-1 if a == axis else 1 for a in range(clean.ndim)])
    return np.take(noisy, low, axis) * (1 - weight) + np.take(noisy, low + 1, axis) * weight, axis, {"zoom": zoom}


def is_right(kind: str, check: NoiseCheck, axis: int | None) -> bool:
    """Whether the verdict is the right one for a kind of noise along an axis."""
    verdicts = [a.verdict for a in check.axes]
    if kind == "clean_band_limited":
        return check.noisy is not True and check.verdict != "PASS"
    if kind in ("white", "poisson", "rician"):
        return check.verdict == "PASS"
    if kind == "smoothed":
        return check.verdict == "WARN" and check.footprint is None
    others = [verdict for a, verdict in enumerate(verdicts) if a != axis]
    right = check.verdict == verdicts[axis or 0] == "WARN" and "WARN" not in others
    if kind != "line":
        return right
    sides = None if check.footprint is None else check.footprint.shape
    return right and sides is not None and all((n > 1) == (a == axis) for a, n in enumerate(sides))


KINDS: dict[str, Callable[[np.ndarray, float, np.random.Generator], Case]] = {
    kind.__name__: kind for kind in (white, line, smoothed, clean_band_limited, poisson, rician, zero_filled, resampled)
}


def run_case(colin: np.ndarray, kind: str, dims: int, seed: int) -> dict[str, Any]:
    """Make one case and judge it."""
    rng = np.random.default_rng([seed, dims, list(KINDS).index(kind)])
    clean, sigma = anatomy(colin, dims, rng), float(np.exp(rng.uniform(np.log(3), np.log(25))))
    noisy, axis, facts = KINDS[kind](clean, sigma, rng)
    start = time.perf_counter()
    check = check_noise(noisy[None].astype(np.float32))
    seconds = time.perf_counter() - start
    row = {"kind": kind, "dims": dims, "seed": seed, "shape": clean.shape, "axis": axis, "sigma": sigma, **facts}
    row |= {
        "right": is_right(kind, check, axis),
        "verdict": check.verdict,
        "axes": [a.verdict for a in check.axes],
        "noisy": check.noisy,
        "sigma_measured": check.noise.sigma,
        "lag1": [a.correlations[0].lags[0] if a.correlations else None for a in check.axes],
        "footprint": None if check.footprint is None else check.footprint.shape,
        "dependence": check.noise.dependence.kind,
        "spread": check.noise.spread,
        "seconds": seconds,
    }
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}


def summarize(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line per kind and number of dimensions."""
    table = []
    for kind in KINDS:
        for dims in (2, 3):
            mine = [row for row in rows if (row["kind"], row["dims"]) == (kind, dims)]
            ratios = [row["sigma_measured"] / row["sigma"] for row in mine if row["sigma"]]
            counts = {verdict: sum(row["verdict"] == verdict for row in mine) for verdict in ("PASS", "WARN", "UNSURE")}
            table.append({
                "kind": kind, "dims": dims, "cases": len(mine), "right": sum(row["right"] for row in mine), **counts,
                "called_noisy": sum(row["noisy"] is True for row in mine),
                "sigma_ratio_median": round(float(np.median(ratios)), 3) if ratios else None,
                "sigma_ratio_worst": round(max(ratios, key=lambda r: abs(np.log(r))), 3) if ratios else None,
            })  # fmt: skip
    return table


def real_images() -> dict[str, np.ndarray]:
    """Real images as ``(n_volumes, *spatial)``."""
    import nibabel
    import tifffile
    from PIL import Image

    data, shipped = data_folder(), Path(nibabel.__file__).parent / "tests" / "data"
    slices = np.stack([np.asarray(Image.open(p)) for p in sorted((data / "m4raw" / "T2_rep1").glob("*.png"))])
    ct = nibabel.load(data / "ct_3d" / "totalseg_aorta_ct_1p5mm_noisy.nii.gz")
    colin = nibabel.load(data / "clean_mri_3d" / "colin27_ch2_1mm.nii.gz")
    fmri = nibabel.load(shipped / "example4d.nii.gz")
    return {
        "m4raw T2_rep1, 18 slices (2D)": slices,
        "m4raw T2_rep1, volume (3D)": slices[None],
        "ct_3d": np.asarray(ct.dataobj)[None],
        "gowt1 t01": tifffile.imread(data / "gowt1" / "t01.tif")[None],
        "nibabel example4d": np.moveaxis(np.asarray(fmri.dataobj), -1, 0),
        "cryoet 13pf_MT": tifffile.imread(data / "cryoet" / "13pf_MT.tif")[None],
        "Colin27 as it is": np.asarray(colin.dataobj)[None],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=40, help="per kind and number of dimensions")
    parser.add_argument("--first-seed", type=int, default=2000)
    parser.add_argument("--no-save", action="store_true", help="print the table and the wrong cases only")
    arguments = parser.parse_args()
    import nibabel

    path = data_folder() / "clean_mri_3d" / "colin27_ch2_1mm.nii.gz"
    colin = np.asarray(nibabel.load(path).dataobj, dtype=np.float32)
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.cases)
    rows = [run_case(colin, kind, dims, seed) for kind in KINDS for dims in (2, 3) for seed in seeds]
    table = summarize(rows)
    for row in table:
        print(row)
    for row in rows:
        if not row["right"]:
            print("wrong:", row)
    if arguments.no_save:
        return
    real = {}
    for name, volumes in real_images().items():
        start = time.perf_counter()
        check = check_noise(volumes.astype(np.float32))
        real[name] = {"seconds": round(time.perf_counter() - start, 2), **check.to_dict()}
        print(name, *check.sentences, sep="\n    ")
    noise = np.random.default_rng(0).normal(size=(1, 256, 256, 256)).astype(np.float32)
    start = time.perf_counter()
    check_noise(noise)
    timing = {"shape": noise.shape[1:], "seconds": round(time.perf_counter() - start, 2)}
    print(timing)
    wrong = [row for row in rows if not row["right"]]
    save("check", {"first_seed": arguments.first_seed, "table": table, "timing": timing, "real": real, "wrong": wrong})


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
