# SPDX-License-Identifier: Apache-2.0
"""How true a training of one image leaves its intensities, by the recipe: what PSNR on soft-edged images hardly shows.

Zero-mean noise leaves the mean of many voxels alone, so ``noisy - denoised`` must vanish on average: over every tissue,
and low-pass filtered anywhere. ``python -m benchmarks.speed.intensity`` trains on a noisy CT and tells, in HU, the mean
of what was removed per tissue, and the spread of its low-pass part (Gaussian of 4 voxels, 8 voxels of border left out);
further whether vessels of the lung are sharpened, and what is left of the spread of voxels. Several processes may share
the work by seed, each with its own ``--output``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from benchmarks.common import load, save
from benchmarks.recipes import Recipe, annealed, denoise, fit, images_of
from benchmarks.speed.curves import network
from benchmarks.tasks import Task, data_folder

# By the image smoothed with a Gaussian of 1.5 voxels, HU.
TISSUES = {"lung": (-940, -700), "fat": (-150, -50), "soft": (0, 100), "bright": (150, 500), "above 500": (500, 1e9)}
BORDER = 8


def ct() -> Task:
    """The noisy CT, 120x126x164 voxels of 1.5 mm; there is no clean one."""
    import nibabel

    path = data_folder() / "ct_3d" / "totalseg_aorta_ct_1p5mm_noisy.nii.gz"
    noisy = np.asarray(nibabel.load(path).dataobj, dtype=np.float32)
    return Task("ct_3d", [noisy], [noisy], float("nan"), float("nan"))


def shift(noisy: np.ndarray, denoised: np.ndarray) -> dict[str, Any]:
    """Means and low-pass part of what was removed, in HU; gain of vessels, and spreads after over before."""
    removed = noisy - denoised
    smooth = ndimage.gaussian_filter(noisy, 1.5)
    low_pass = ndimage.gaussian_filter(removed, 4)[(slice(BORDER, -BORDER),) * 3]
    masks = {name: (smooth > low) & (smooth < high) for name, (low, high) in TISSUES.items()}
    around = ndimage.median_filter(noisy, 7)
    peaks = (noisy == ndimage.maximum_filter(noisy, 5)) & (noisy > -300) & ndimage.binary_dilation(masks["lung"])
    calm = calm_cubes(noisy, masks["soft"])
    lung = ndimage.binary_erosion(masks["lung"])
    return {
        "removed_std": round(float(removed.std()), 1),
        "mean": round(float(removed.mean()), 2),
        "tissues": {name: round(float(removed[mask].mean()), 2) for name, mask in masks.items()},
        "low_pass_std": round(float(low_pass.std()), 2),
        "low_pass_percentiles": [round(float(value), 1) for value in np.percentile(low_pass, (0.1, 99.9))],
        "vessel_gain": round(float(np.median((denoised - around)[peaks] / (noisy - around)[peaks])), 3),
        "lung_spread": round(float(denoised[lung].std() / noisy[lung].std()), 3),
        "calm_spread": round(float(np.median([denoised[cube].std() / noisy[cube].std() for cube in calm])), 3),
    }


def calm_cubes(noisy: np.ndarray, mask: np.ndarray, side: int = 8, n: int = 12) -> list[tuple[slice, ...]]:
    """The cubes of a tissue whose voxels differ least."""
    cubes = [
        tuple(slice(start, start + side) for start in corner)
        for corner in itertools.product(*(range(0, size - side, side) for size in noisy.shape))
    ]
    return sorted((cube for cube in cubes if mask[cube].mean() > 0.95), key=lambda cube: float(noisy[cube].std()))[:n]


def recipes() -> dict[str, tuple[Recipe, int]]:
    """Recipes and their steps."""
    normed = network(3, norm="batch")
    bundle = Recipe(3, anneal=False)
    return {
        "command line": (annealed(3), 400),
        "fill median": (annealed(3, fill="median"), 400),
        "fill uniform, radius 5": (annealed(3, radius=5), 400),
        "fill mean": (annealed(3, fill="mean"), 400),
        "fill median, batch norm, not clipped": (annealed(3, fill="median", grad_clip=None, **normed), 400),
        "command line, longer": (annealed(3), 1600),
        "bundle": (bundle, 600),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    parser.add_argument("--names", nargs="*", help="only these recipes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", default="intensity", help="name among the results")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    task = ct()
    images = images_of(task)
    rows: list[dict[str, Any]] = (load(arguments.output) or {}).get("rows", [])
    for seed in arguments.seeds:
        for name, (recipe, steps) in recipes().items():
            if arguments.names and name not in arguments.names:
                continue
            with tempfile.TemporaryDirectory() as folder:
                fit(recipe, images, Path(folder), steps, seed)
                denoised = denoise(recipe, images, Path(folder) / "models" / "model.pt")[0]
            new = {"name": name, "steps": steps, "seed": seed, **shift(task.noisy[0], denoised)}
            print(json.dumps(new), flush=True)
            rows = [*(r for r in rows if (r["name"], r["seed"]) != (name, seed)), new]
            save(arguments.output, {"task": task.name, "noise": "real", "rows": rows})


if __name__ == "__main__":
    main()
