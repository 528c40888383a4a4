# SPDX-License-Identifier: Apache-2.0
"""Pictures of what the prior has seen: procedural images, and noise of every kind on them.

``python -m benchmarks.procedural`` writes ``docs/images/procedural_2d.png``, ``procedural_3d.png`` (a slice of each
volume) and ``procedural_pairs.png`` (noisy above clean), and how many voxels are made per second, one thread, into
``results/procedural.json``.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from PIL import Image

from benchmarks.common import ROOT, save
from monai_n2v.data import PatchCut, PatchLoader, ProceduralImages
from monai_n2v.transforms import RandProceduralNoised

SHAPES = {2: (256, 256), 3: (64, 64, 64)}
PATCH = {2: (96, 96), 3: (80, 80, 80)}


def gray(image: np.ndarray, low: float | None = None, high: float | None = None) -> np.ndarray:
    """Between two percentiles, or between two values, as bytes."""
    low, high = (np.percentile(image, (0.5, 99.5))) if low is None or high is None else (low, high)
    return np.clip((image - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)


def tiled(tiles: list[np.ndarray], n_columns: int) -> np.ndarray:
    """Rows of pictures with a thin line between."""
    framed = [np.pad(tile, 2) for tile in tiles]
    return np.vstack([np.hstack(framed[k : k + n_columns]) for k in range(0, len(framed), n_columns)])


def main() -> None:
    torch.set_num_threads(1)
    rates = {}
    for dims, shape in SHAPES.items():
        images = ProceduralImages(shape, seed=0)
        started = time.perf_counter()
        scenes = [images[number]["image"][0].numpy() for number in range(18)]
        rates[f"{dims}D images"] = round(18 * float(np.prod(shape)) / (time.perf_counter() - started))
        slices = [scene if dims == 2 else scene[shape[0] // 2] for scene in scenes]
        tiles = [gray(one if dims == 2 else np.kron(one, np.ones((3, 3)))) for one in slices]
        Image.fromarray(tiled(tiles, 6)).save(ROOT / "docs" / "images" / f"procedural_{dims}d.png")
        loader = PatchLoader(images, PatchCut(PATCH[dims]), 8, 6, transform=RandProceduralNoised(), memory_gib=0.004)
        loader.set_epoch(1)
        started = time.perf_counter()
        batches = list(loader)
        rates[f"{dims}D noisy patches"] = round(48 * float(np.prod(PATCH[dims])) / (time.perf_counter() - started))
        if dims == 2:
            pairs = [(batch["image"][k, 0].numpy(), batch["label"][k, 0].numpy()) for batch in batches for k in (0, 1)]
            noisy = [gray(a, *np.percentile(a, (0.5, 99.5))) for a, _ in pairs]
            clean = [gray(b, *np.percentile(a, (0.5, 99.5))) for a, b in pairs]
            rows = [*noisy[:6], *clean[:6], *noisy[6:], *clean[6:]]
            picture = Image.fromarray(tiled([np.kron(t, np.ones((2, 2), dtype=np.uint8)) for t in rows], 6))
            picture.save(ROOT / "docs" / "images" / "procedural_pairs.png")
    save("procedural", {"voxels_per_second": rates})
    print(rates)


if __name__ == "__main__":
    main()
