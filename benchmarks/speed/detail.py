# SPDX-License-Identifier: Apache-2.0
"""What `keep_detail` gains and costs: kinds and strengths of noise, faults, and real scans with noisy repeats.

``python -m benchmarks.speed.detail`` trains the command line's recipe on each and scores the network's own prediction
and the same with detail taken back. Steps, not seconds, count, so other work on the machine does not matter.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from benchmarks.common import load, save
from benchmarks.recipes import annealed, denoise, fit, images_of
from benchmarks.tasks import COLIN27_CROP, Task, colin27_crop, data_folder, set12


def tasks() -> Iterator[tuple[str, str, Task]]:
    """Image, noise and task."""
    for sigma in (10.0, 25.0, 50.0):
        yield "set12", f"sigma {sigma:g}", set12(sigma)
    white = set12()
    rng = np.random.default_rng(3)
    poisson = [
        (rng.poisson(c / 255 * 30) / 30 * 255 + rng.normal(0, 5, c.shape)).astype(np.float32) for c in white.clean
    ]
    yield "set12", "Poisson of up to 30 counts, and sigma 5", Task("poisson", poisson, white.clean, 0.0, 255.0)
    hot = [np.where(rng.random(x.shape) < 0.003, np.float32(300), x) for x in white.noisy]
    yield "set12", "sigma 25 and hot pixels", Task("hot", hot, white.clean, 25.0, 255.0)
    yield "discs in the dark", "Poisson", cells()
    for sigma in (4.0, 12.0):
        clean, noisy = colin27_crop(COLIN27_CROP, sigma)
        yield "colin27", f"sigma {sigma:g}", Task("colin27", [noisy], [clean], sigma, float(clean.max()))
    rician = np.hypot(clean + rng.normal(0, 12, clean.shape), rng.normal(0, 12, clean.shape)).astype(np.float32)
    yield "colin27", "Rician, sigma 12", Task("rician", [rician], [clean], 12.0, float(clean.max()))


def cells() -> Task:
    """25 bright discs in the dark, counts of photons."""
    rng = np.random.default_rng(0)
    place = np.indices((256, 256))
    clean = np.full((256, 256), 4.0)
    for _ in range(25):
        center, radius = rng.uniform(10, 246, 2), rng.uniform(5, 11)
        clean[((place - center[:, None, None]) ** 2).sum(axis=0) < radius**2] = rng.uniform(60, 150)
    clean = ndimage.gaussian_filter(clean, 1).astype(np.float32)
    return Task("cells", [rng.poisson(clean).astype(np.float32)], [clean], 0.0, float(clean.max()))


def predictions(task: Task, steps: int, seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """One network's own predictions, and those with detail."""
    recipe, images = annealed(task.spatial_dims), images_of(task)
    with tempfile.TemporaryDirectory() as folder:
        fit(recipe, images, Path(folder), steps, seed)
        weights = Path(folder) / "models" / "model.pt"
        return denoise(recipe, images, weights, keep_detail=False), denoise(recipe, images, weights)


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


def score_m4raw(contrast: str, steps: int, seed: int) -> list[dict[str, Any]]:
    """Errors of one repeat denoised, by the two others."""
    noisy, second, third = m4raw(contrast)
    brain = brain_of(noisy)
    gradient = ndimage.gaussian_gradient_magnitude((second + third) / 2, 1.5)
    calm = gradient < np.median(gradient[brain])

    def errors(method: str, output: np.ndarray) -> dict[str, Any]:
        product = (output - second) * (output - third)
        parts = {"brain": brain, "calm": brain & calm, "detailed": brain & ~calm}
        found = {name: round(float(np.sqrt(max(0.0, product[part].mean()))), 2) for name, part in parts.items()}
        return {"scan": contrast, "method": method, **found}

    sigmas = np.arange(0.4, 1.3, 0.1).round(1).tolist()
    smooth = {s: errors(f"Gaussian, sigma {s:g}", ndimage.gaussian_filter(noisy, (s, s, 0))) for s in sigmas}
    rows = [errors("noisy", noisy), min(smooth.values(), key=lambda found: found["brain"])]
    slices = np.moveaxis(noisy, -1, 0)
    for name, images in (("3D", [noisy]), ("2D", list(slices))):
        task = Task(contrast, [np.ascontiguousarray(image) for image in images], [], 0.0, 0.0)
        for method, outputs in zip(("prediction", "with detail"), predictions(task, steps, seed)):
            rows.append(errors(f"{name}, {method}", outputs[0] if name == "3D" else np.stack(outputs, axis=-1)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--images", nargs="*", help="only these, M4Raw left out; the other rows are kept")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results: dict[str, Any] = {"steps": arguments.steps, "rows": [], "m4raw": []}
    if arguments.images:
        results |= {key: value for key, value in (load("detail") or {}).items() if key != "machine"}
        results["rows"] = [row for row in results["rows"] if row["image"] not in arguments.images]
    for image, noise, task in tasks():
        if arguments.images and image not in arguments.images:
            continue
        for seed in arguments.seeds:
            scores = map(task.score, (task.noisy, *predictions(task, arguments.steps, seed)))
            named = zip(("noisy", "prediction", "with_detail"), (round(score, 3) for score in scores))
            results["rows"].append({"image": image, "noise": noise, "seed": seed, **dict(named)})
            print(json.dumps(results["rows"][-1]), flush=True)
            save("detail", results)
    for contrast in () if arguments.images else ("T1", "T2"):
        results["m4raw"] += score_m4raw(contrast, arguments.steps, arguments.seeds[0])
        print(json.dumps(results["m4raw"][-5:]), flush=True)
    save("detail", results)


if __name__ == "__main__":
    main()
