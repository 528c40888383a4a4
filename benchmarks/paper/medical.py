# SPDX-License-Identifier: Apache-2.0
"""Brain MR: Colin27 with simulated Gaussian and Rician noise, and M4Raw, real scans with noisy repeats.

Ours with the command line's defaults, a fixed number of steps. ANTs, dipy, BM3D and BM4D are optional.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from benchmarks.m4raw import brain_of, m4raw, noise_powers
from benchmarks.paper.classic import collaborative, optional
from benchmarks.paper.schemes import SCHEMES, Scheme, trained
from benchmarks.paper.store import is_there, record
from benchmarks.recipes import N2V_ALONE
from benchmarks.tasks import COLIN27_CROP, colin27_crop, psnr

__all__ = ["METHODS", "run"]

METHODS = ("filters", "monai_n2v", "monai_n2v 2D", "monai_n2v 3D", "Noise2Noise")
STEPS = 300
SIGMAS = (4.0, 8.0, 12.0)
# A third of this crop is air, where Rician noise is far from zero on average; the other crop has hardly any.
RICIAN_CROP = (slice(0, 96), slice(60, 156), slice(85, 181))
# BM4D, the 2D network and learning from pairs are left to one sigma, since they take minutes each.
FULL_SIGMA = 12.0

Score = Callable[[np.ndarray], Mapping[str, float]]


def run(
    scale: str,
    seed: int = 0,
    methods: Collection[str] | None = None,
    missing: bool = False,
    peer: Path | None = None,
) -> None:
    """Denoise everything by every method, or what no row is there of; see `benchmarks.paper`.

    With ``peer``, a folder of results of `benchmarks.peers.careamics_n2v`, only these are scored.
    """
    if peer is not None:
        score_peer(scale, peer)
        return

    def wanted(name: str) -> bool:
        return methods is None or any(name.startswith(method) for method in methods)

    for contrast in ("T1", "T2"):
        repeats = m4raw(contrast)
        brain = brain_of(repeats[0])
        powers = noise_powers(repeats, brain)
        common = {"scale": scale, "image": f"M4Raw {contrast}", "noise": "real"}
        score_by_both = by_repeats(repeats[1], repeats[2], brain)
        volume = compare(common, repeats[0], None, float(np.sqrt(powers[0])), score_by_both, seed, wanted, missing)
        common |= {"noise": "real, by the third repeat"}
        if wanted("Noise2Noise") and not (missing and is_there("medical", **common, method="Noise2Noise 3D")):
            # Noise2Noise has seen the second repeat, so both are scored by the third, less its noise.
            score_by_third = by_repeat(repeats[2], powers[2], brain)
            blind = {"seed": seed, "steps": STEPS}
            volume = ours([repeats[0]], seed)[0] if volume is None else volume
            record("medical", **common, method="noisy", **score_by_third(repeats[0]))
            record("medical", **common, method="monai_n2v 3D", **score_by_third(volume), **blind)
            paired = noise2noise(repeats[0], repeats[1], seed)
            record("medical", **common, method="Noise2Noise 3D", **score_by_third(paired), **blind)
    for kind in ("Gaussian", "Rician"):
        for sigma in SIGMAS:
            clean, noisy, second = colin27(kind, sigma)
            score = by_clean(clean)
            common = {"scale": scale, "image": "Colin27", "noise": kind, "sigma": sigma}
            compare(common, noisy, second if sigma == FULL_SIGMA else None, sigma, score, seed, wanted, missing)


def score_peer(scale: str, folder: Path) -> None:
    """Rows of CAREamics from ``careamics_<task>.npz`` and ``.json``; it learned from the same noisy images."""
    for path in sorted(folder.glob("careamics_*.npz")):
        task = path.stem.removeprefix("careamics_")
        about = json.loads(path.with_suffix(".json").read_text())
        output = np.stack([array for _, array in np.load(path).items()], -1)
        if task == "colin27":
            clean = colin27("Gaussian", FULL_SIGMA)[0]
            score, image = by_clean(clean), {"image": "Colin27", "noise": "Gaussian", "sigma": FULL_SIGMA}
            output = output[..., 0]
        elif task.startswith("m4raw_"):
            repeats = m4raw(task.removeprefix("m4raw_"))
            score = by_repeats(repeats[1], repeats[2], brain_of(repeats[0]))
            image = {"image": f"M4Raw {task.removeprefix('m4raw_')}", "noise": "real"}
        else:
            continue
        name = f"{about['program'].replace('careamics', 'CAREamics')} {'3D' if task == 'colin27' else '2D'}"
        seconds = round(about["training_seconds"] + about["prediction_seconds"], 1)
        record("medical", scale=scale, **image, method=name, **score(output), seconds=seconds, steps=about["steps"])


def by_clean(clean: np.ndarray) -> Score:
    """PSNR of the clean image's maximum, over all voxels and over the head."""
    peak, inside = float(clean.max()), clean > 10

    def score(output: np.ndarray) -> dict[str, float]:
        return {
            "psnr": round(psnr(output, clean, peak), 2),
            "psnr_head": round(psnr(output[inside], clean[inside], peak), 2),
        }

    return score


def by_repeats(second: np.ndarray, third: np.ndarray, where: np.ndarray) -> Score:
    """PSNR of range 255 without the noise of two repeats: in the product of two errors it averages out."""

    def score(output: np.ndarray) -> dict[str, float]:
        return {"psnr": _psnr_255(float(((output - second) * (output - third))[where].mean()))}

    return score


def by_repeat(other: np.ndarray, power: float, where: np.ndarray) -> Score:
    """PSNR of range 255 by one repeat, less the power of its noise."""

    def score(output: np.ndarray) -> dict[str, float]:
        return {"psnr": _psnr_255(float(((output - other)[where] ** 2).mean()) - power)}

    return score


def _psnr_255(error: float) -> float:
    return round(float(10 * np.log10(255**2 / max(error, 1e-6))), 2)


def colin27(kind: str, sigma: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clean volume, and two with noise."""
    clean, noisy = colin27_crop(COLIN27_CROP if kind == "Gaussian" else RICIAN_CROP, sigma)
    rng = np.random.default_rng(11)
    second = clean + rng.normal(0, sigma, clean.shape)
    if kind == "Rician":
        noisy, second = (np.hypot(x, rng.normal(0, sigma, clean.shape)) for x in (noisy, second))
    return clean, noisy.astype(np.float32), second.astype(np.float32)


def compare(
    common: Mapping[str, Any],
    noisy: np.ndarray,
    second: np.ndarray | None,
    sigma: float,
    score: Score,
    seed: int,
    wanted: Callable[[str], bool],
    missing: bool,
) -> np.ndarray | None:
    """Rows of one image; more of them where there is a second one for Noise2Noise or the image is real.

    Returns:
        our result in 3D, where it was wanted.
    """
    thorough = second is not None or common["image"] != "Colin27"

    def keep(method: str, output: np.ndarray, seconds: float, **more: Any) -> None:
        record("medical", **common, method=method, **score(output), seconds=round(seconds, 1), **more)

    def due(method: str) -> bool:
        return not (missing and is_there("medical", **common, method=method))

    if wanted("filters"):
        keep("noisy", noisy, 0.0)
        for method, outputs in filters(noisy, sigma, common["noise"] == "Rician", thorough):
            if not due(method):  # nothing is computed before it is asked for
                continue
            best, seconds = None, 0.0
            started = time.perf_counter()
            for output in outputs:
                took = time.perf_counter() - started
                if best is None or score(output)["psnr"] > score(best)["psnr"]:
                    best, seconds = output, took
                started = time.perf_counter()
            assert best is not None
            keep(method, best, seconds)
    volume = None
    if wanted("monai_n2v 3D") and due("monai_n2v 3D"):
        started = time.perf_counter()
        volume = ours([noisy], seed)[0]
        keep("monai_n2v 3D", volume, time.perf_counter() - started, seed=seed, steps=STEPS)
    if thorough and wanted("monai_n2v 2D") and due("monai_n2v 2D"):
        started = time.perf_counter()
        slices = ours(list(np.moveaxis(noisy, -1, 0)), seed)
        keep("monai_n2v 2D", np.stack(slices, -1), time.perf_counter() - started, seed=seed, steps=STEPS)
    if second is not None and wanted("Noise2Noise") and due("Noise2Noise 3D"):
        started = time.perf_counter()
        output = noise2noise(noisy, second, seed)
        keep("Noise2Noise 3D", output, time.perf_counter() - started, seed=seed, steps=STEPS)
    return volume


def ours(images: Sequence[np.ndarray], seed: int) -> list[np.ndarray]:
    """Trained on the images themselves, by the command line's recipe with its defaults."""
    with trained(Scheme(), (N2V_ALONE[images[0].ndim],), images, None, STEPS, seed, anneal=True) as found:
        return found.predict(images)


def noise2noise(noisy: np.ndarray, second: np.ndarray, seed: int) -> np.ndarray:
    """The same network and steps, trained on two noisy images of the same."""
    name = N2V_ALONE[3]
    scheme = Scheme(pairing=SCHEMES["Noise2Noise"].pairing, targets="second")
    with trained(scheme, (name,), [noisy], [second], STEPS, seed, anneal=True) as found:
        return found.predict([noisy])[0]


def filters(
    noisy: np.ndarray, sigma: float, rician: bool, thorough: bool
) -> Iterator[tuple[str, Iterable[np.ndarray]]]:
    """Method and its outputs over its parameter, of which the best is kept: an oracle that no user has."""
    flat = 0.0 if noisy.shape[-1] < 30 else 1.0  # M4Raw's slices are 5 mm apart

    yield "Gaussian filter", (ndimage.gaussian_filter(noisy, (s, s, s * flat)) for s in np.arange(0.4, 1.3, 0.1))
    yield "median filter 3", (ndimage.median_filter(noisy, (3, 3, 3 if flat else 1)) for _ in range(1))
    from skimage.restoration import denoise_nl_means

    def means(patch_size: int, h: float) -> np.ndarray:
        options = {"patch_size": patch_size, "patch_distance": 5, "h": h * sigma, "sigma": sigma, "fast_mode": True}
        if flat:
            return denoise_nl_means(noisy, **options)
        return np.stack([denoise_nl_means(plane, **options) for plane in np.moveaxis(noisy, -1, 0)], -1)

    yield "non-local means (scikit-image)", (means(*one) for one in itertools.product((3, 5), (0.4, 0.6, 0.8, 1.0)))
    with optional("dipy"):
        from dipy.denoise.nlmeans import nlmeans

        options = {"sigma": sigma, "patch_radius": 1, "block_radius": 2, "rician": rician}
        yield "non-local means (dipy)", (nlmeans(noisy, **options) for _ in range(1))
    with optional("antspyx"):
        import ants

        image = ants.from_numpy(noisy.astype(np.float64))
        model = "Rician" if rician else "Gaussian"
        yield "ANTs DenoiseImage", (ants.denoise_image(image, noise_model=model).numpy() for _ in range(1))
    if thorough:
        with optional("bm4d, bm3d"):
            denoise = collaborative(sigma, 3 if flat else 2)
            if flat:
                yield "BM4D", (denoise(noisy) for _ in range(1))
            else:
                planes = np.moveaxis(noisy, -1, 0)
                yield "BM3D, slice by slice", (np.stack([denoise(plane) for plane in planes], -1) for _ in range(1))
