# SPDX-License-Identifier: Apache-2.0
"""Brain MR: Colin27 with simulated Gaussian and Rician noise, and M4Raw, real scans with noisy repeats.

Ours with the command line's defaults, a fixed number of steps. ANTs, dipy, BM3D and BM4D are optional.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from benchmarks.paper.schemes import SCHEMES, Scheme, as_images, trained
from benchmarks.paper.store import record
from benchmarks.recipes import annealed, denoise, fit
from benchmarks.speed.detail import m4raw
from benchmarks.tasks import COLIN27_CROP, colin27_crop, psnr

__all__ = ["run"]

STEPS = 400
SIGMAS = (4.0, 8.0, 12.0)
# A third of this crop is air, where Rician noise is far from zero on average; the other crop has hardly any.
RICIAN_CROP = (slice(0, 96), slice(60, 156), slice(85, 181))
# Steps, networks of two axes and learning from pairs are left to one sigma, since they take minutes each.
FULL_SIGMA = 12.0

Score = Callable[[np.ndarray], Mapping[str, float]]


def run(scale: str, seed: int = 0, methods: Collection[str] | None = None) -> None:
    """Denoise everything by every method; see `benchmarks.paper`."""

    def wanted(name: str) -> bool:
        return methods is None or any(name.startswith(method) for method in methods)

    for kind in ("Gaussian", "Rician"):
        for sigma in SIGMAS:
            clean, noisy, second = colin27(kind, sigma)
            peak, inside = float(clean.max()), clean > 10

            def score(output: np.ndarray, clean: np.ndarray = clean, peak: float = peak, inside: np.ndarray = inside):
                return {
                    "psnr": round(psnr(output, clean, peak), 2),
                    "psnr_head": round(psnr(output[inside], clean[inside], peak), 2),
                }

            common = {"scale": scale, "image": "Colin27", "noise": kind, "sigma": sigma}
            compare(common, noisy, second if sigma == FULL_SIGMA else None, sigma, score, seed, wanted)
    for contrast in ("T1", "T2"):
        noisy, second, third = m4raw(contrast)
        brain = ndimage.gaussian_filter(noisy, 3) > 0.25 * np.percentile(noisy, 99)
        sigma = float((second - third)[brain].std() / np.sqrt(2))

        def unbiased(output: np.ndarray, b: np.ndarray = second, c: np.ndarray = third, brain: np.ndarray = brain):
            # The noises of two repeats are independent, so their product leaves the error of the output alone.
            error = float(((output - b) * (output - c))[brain].mean())
            return {"psnr": round(float(10 * np.log10(255**2 / error)), 2)}

        common = {"scale": scale, "image": f"M4Raw {contrast}", "noise": "real"}
        compare(common, noisy, None, sigma, unbiased, seed, wanted)
        if wanted("Noise2Noise"):
            pairs(common, noisy, second, third, seed)


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
) -> None:
    """Rows of one image; more of them where there is a second one for Noise2Noise or the image is real."""
    thorough = second is not None or common["image"] != "Colin27"

    def keep(method: str, output: np.ndarray, seconds: float, **more: Any) -> None:
        record("medical", **common, method=method, **score(output), seconds=round(seconds, 1), **more)

    if wanted("filters"):
        keep("noisy", noisy, 0.0)
        for method, outputs in filters(noisy, sigma, common["noise"] == "Rician", thorough):
            started = time.perf_counter()
            best = max(outputs, key=lambda output: score(output)["psnr"])
            keep(method, best, time.perf_counter() - started)
    if wanted("monai_n2v 3D"):
        started = time.perf_counter()
        keep("monai_n2v 3D", ours([noisy], seed)[0], time.perf_counter() - started, seed=seed, steps=STEPS)
    if thorough and wanted("monai_n2v 2D"):
        started = time.perf_counter()
        slices = ours(list(np.moveaxis(noisy, -1, 0)), seed)
        keep("monai_n2v 2D", np.stack(slices, -1), time.perf_counter() - started, seed=seed, steps=STEPS)
    if second is not None and wanted("Noise2Noise"):
        started = time.perf_counter()
        output = noise2noise(noisy, second, seed)
        keep("Noise2Noise 3D", output, time.perf_counter() - started, seed=seed, steps=STEPS)


def ours(images: Sequence[np.ndarray], seed: int) -> list[np.ndarray]:
    """Trained on the images themselves, by the command line's recipe."""
    import tempfile
    from pathlib import Path

    recipe, held = annealed(images[0].ndim), as_images(images)
    with tempfile.TemporaryDirectory() as folder:
        fit(recipe, held, Path(folder), STEPS, seed)
        return denoise(recipe, held, Path(folder) / "models" / "model.pt")


def noise2noise(noisy: np.ndarray, second: np.ndarray, seed: int) -> np.ndarray:
    """The same network and steps, trained on two noisy images of the same."""
    name = "self_3d.json"
    scheme = Scheme(pairing=SCHEMES["Noise2Noise"].pairing, targets="second")
    with trained(scheme, (name,), [noisy], [second], STEPS, seed, anneal=True) as found:
        return found.predict([noisy])[0]


def pairs(common: Mapping[str, Any], noisy: np.ndarray, second: np.ndarray, third: np.ndarray, seed: int) -> None:
    """Noise2Noise of the first two repeats by the third; whose own noise is known from that of the first two."""
    output = noise2noise(noisy, second, seed)
    brain = ndimage.gaussian_filter(noisy, 3) > 0.25 * np.percentile(noisy, 99)
    power = float((second - third)[brain].var() / 2)
    error = float(((output - third)[brain] ** 2).mean()) - power
    found = {"psnr": round(float(10 * np.log10(255**2 / error)), 2), "seed": seed, "steps": STEPS}
    record("medical", **common, method="Noise2Noise 3D, by the third repeat", **found)


def filters(noisy: np.ndarray, sigma: float, rician: bool, thorough: bool) -> Any:
    """Method and its outputs over its parameter, of which the best is kept: an oracle that no user has."""
    flat = 0.0 if noisy.shape[-1] < 30 else 1.0  # M4Raw's slices are 5 mm apart

    yield "Gaussian filter", (ndimage.gaussian_filter(noisy, (s, s, s * flat)) for s in np.arange(0.4, 1.3, 0.1))
    yield "median filter 3", (ndimage.median_filter(noisy, (3, 3, 3 if flat else 1)) for _ in range(1))
    from skimage.restoration import denoise_nl_means

    def means(h: float) -> np.ndarray:
        options = {"patch_distance": 5, "h": h * sigma, "sigma": sigma, "fast_mode": True}
        if flat:
            return denoise_nl_means(noisy, patch_size=3, **options)
        slices = [denoise_nl_means(plane, patch_size=5, **options) for plane in np.moveaxis(noisy, -1, 0)]
        return np.stack(slices, -1)

    yield "non-local means (scikit-image)", (means(h) for h in (0.5, 0.8))
    try:
        from dipy.denoise.nlmeans import nlmeans

        yield (
            "non-local means (dipy)",
            (nlmeans(noisy, sigma=sigma, patch_radius=1, block_radius=2, rician=rician) for _ in range(1)),
        )
    except ImportError:
        pass
    try:
        import ants

        image = ants.from_numpy(noisy.astype(np.float64))
        model = "Rician" if rician else "Gaussian"
        yield "ANTs DenoiseImage", (ants.denoise_image(image, noise_model=model).numpy() for _ in range(1))
    except ImportError:
        pass
    if thorough:
        try:
            if flat:
                from bm4d import bm4d

                yield "BM4D", (bm4d(noisy, sigma) for _ in range(1))
            else:
                from bm3d import bm3d

                planes = np.moveaxis(noisy, -1, 0)
                yield "BM3D, slice by slice", (np.stack([bm3d(plane, sigma) for plane in planes], -1) for _ in range(1))
        except ImportError:
            pass
