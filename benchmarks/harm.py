# SPDX-License-Identifier: Apache-2.0
"""Do no harm: small lesions, pure noise, a clean volume, and images unlike all procedural ones.

``python -m benchmarks.harm`` denoises by the program's defaults, the prior alone and adapted, and, where they are
installed, by BM4D (true sigma) and non-local means (scikit-image, at the best strength of `benchmarks.paper.medical`'s
choice: h = 0.8 sigma). Rows gather in ``results/harm.json``.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from scipy import ndimage

from benchmarks.common import load, save
from benchmarks.paper.classic import collaborative
from benchmarks.prior import METHODS, denoise_all
from benchmarks.tasks import COLIN27_CROP, colin27_crop, psnr

SIGMA = 8.0
RADII, CONTRASTS = (1, 2, 3), (1, 2, 4)
OURS = ("prior", "adapted", "n2v from scratch")

Denoise = Callable[[np.ndarray], np.ndarray]


def lesions() -> tuple[np.ndarray, np.ndarray, dict[tuple[int, int], list[np.ndarray]]]:
    """Colin27 with balls in its white matter: noisy image, clean image, and the balls by radius and contrast."""
    clean, noisy = colin27_crop(COLIN27_CROP, SIGMA, seed=3)
    smooth = ndimage.gaussian_filter(clean, 2)
    white = ndimage.binary_erosion((smooth > np.quantile(smooth, 0.75)) & (np.abs(clean - smooth) < 12), iterations=2)
    places = np.argwhere(white)
    rng = np.random.default_rng(0)
    taken: list[np.ndarray] = []
    balls: dict[tuple[int, int], list[np.ndarray]] = {}
    grid = np.indices(clean.shape)
    for radius, contrast in itertools.product(RADII, CONTRASTS):
        while len(balls.setdefault((radius, contrast), [])) < 6:
            place = places[rng.integers(len(places))]
            if (place < 8).any() or (place > np.array(clean.shape) - 9).any():
                continue
            if any(np.linalg.norm(place - other) < 9 for other in taken):
                continue
            taken.append(place)
            ball = ((grid - place[:, None, None, None]) ** 2).sum(0) <= radius**2
            balls[radius, contrast].append(ball)
            for image in (clean, noisy):
                image[ball] += np.float32(contrast * SIGMA)
    return noisy, clean, balls


def contrast_kept(
    output: np.ndarray, clean: np.ndarray, balls: Mapping[tuple[int, int], Sequence[np.ndarray]]
) -> dict[str, float]:
    """Median contrast of the balls against the shell around, over that of the clean image."""
    found = {}
    for (radius, contrast), members in balls.items():
        ratios = []
        for ball in members:
            shell = ndimage.binary_dilation(ball, iterations=3) & ~ndimage.binary_dilation(ball)
            kept, true = (float(image[ball].mean() - image[shell].mean()) for image in (output, clean))
            ratios.append(kept / true)
        found[f"radius {radius}, {contrast} sigma"] = round(float(np.median(ratios)), 3)
    return found


def unlike() -> Iterator[tuple[str, np.ndarray]]:
    """Images that no procedural one looks like, 128 x 128, from 0 to 200."""
    text = Image.new("L", (128, 128), 0)
    for line in range(9):
        ImageDraw.Draw(text).text((2, 2 + 14 * line), "Noise2Void 3.14159 aBcDeFg"[line:], fill=200)
    yield "text", np.asarray(text, dtype=np.float32)
    y, x = np.indices((128, 128))
    yield "checkerboard of 4 pixels", (200 * ((x // 4 + y // 4) % 2)).astype(np.float32)
    yield "checkerboard of 1 pixel", (200 * ((x + y) % 2)).astype(np.float32)
    yield "comb of 2 pixels", (200 * (x % 4 < 2)).astype(np.float32)


def methods(names: Sequence[str], sigma: float) -> dict[str, Denoise]:
    """Ways to denoise an image of a known sigma, which ours are not told."""

    def ours(name: str) -> Denoise:
        return lambda image: denoise_all([image], [1.0] * image.ndim, 0, METHODS[name])[0][0]

    def means(image: np.ndarray) -> np.ndarray:
        from skimage.restoration import denoise_nl_means

        found: np.ndarray = denoise_nl_means(
            image, patch_size=3, patch_distance=5, h=0.8 * sigma, sigma=sigma, fast_mode=True
        )
        return found

    all_of_them: dict[str, Denoise] = {name: ours(name) for name in OURS}
    all_of_them["non-local means"] = means
    all_of_them["BM3D or BM4D"] = lambda image: collaborative(sigma, image.ndim)(image)
    return {name: all_of_them[name] for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", default=["prior", "adapted", "non-local means", "BM3D or BM4D"])
    parser.add_argument("--cases", nargs="+", default=["lesions", "pure noise", "clean", "unlike"])
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = {(row["case"], row["method"]): row for row in (load("harm") or {"rows": []})["rows"]}

    def keep(case: str, method: str, **found: Any) -> None:
        rows[case, method] = {"case": case, "method": method, **found}
        save("harm", {"rows": list(rows.values())})
        print(json.dumps(rows[case, method]), flush=True)

    for name, denoise in methods(arguments.methods, SIGMA).items():
        if "lesions" in arguments.cases:
            noisy, clean, balls = lesions()
            output = denoise(noisy)
            keep("lesions", name, **contrast_kept(output, clean, balls), psnr=round(psnr(output, clean), 2))
        if "pure noise" in arguments.cases:
            for shape in ((64, 64, 64), (256, 256)):
                noise = np.random.default_rng(0).normal(0, SIGMA, shape).astype(np.float32)
                share = float(denoise(noise).std()) / SIGMA
                keep(f"pure noise, {len(shape)}D", name, share_left=round(share, 3))
        if "clean" in arguments.cases:
            clean = colin27_crop(COLIN27_CROP)[0]
            keep("clean Colin27", name, psnr=round(psnr(denoise(clean), clean), 2))
    for case, image in unlike() if "unlike" in arguments.cases else ():
        noisy = (image + np.random.default_rng(0).normal(0, 20, image.shape)).astype(np.float32)
        keep(case, "noisy", psnr=round(psnr(noisy, image), 2))
        for name, denoise in methods(arguments.methods, 20.0).items():
            keep(case, name, psnr=round(psnr(denoise(noisy), image), 2))


if __name__ == "__main__":
    main()
