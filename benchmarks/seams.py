# SPDX-License-Identifier: Apache-2.0
"""How far BasicUNet's tiled prediction lies from the whole volume's, on a network trained on noisy Colin27.

The halo is cropped. BasicUNet sees 104 voxels to each side, more than any practical halo, so a difference remains;
it is given in units of the noise's standard deviation. ``python -m benchmarks.seams --epochs 3``. Two threads.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import save
from benchmarks.tasks import colin27_crop

SIGMA = 12.0
CROP = (slice(18, 162), slice(20, 196), slice(20, 164))


def differences(spatial_dims: int, epochs: int, tile: int, halos: list[int], **overrides: Any) -> dict[str, Any]:
    """Largest and typical difference between tiles and the whole volume, per halo."""
    from monai_n2v.bundle.resources import bundle_name, find_bundle
    from monai_n2v.bundle.run import Denoiser, train
    from monai_n2v.bundle.trained import resolve_model
    from monai_n2v.transforms.files import as_meta_tensor

    bundle = find_bundle(bundle_name(spatial_dims))
    _, noisy = colin27_crop(CROP, SIGMA)
    image = as_meta_tensor(noisy[None], [1.0, 1.0, 1.0])
    with tempfile.TemporaryDirectory() as folder:
        data = [{"image": image}]
        record = train(bundle, data, Path(folder), ["anneal.json"], epochs=epochs, progress=False, **overrides)

        def denoise(tile_size: int, halo: int) -> torch.Tensor:
            sides = [tile_size] * spatial_dims
            return torch.from_numpy(Denoiser(resolve_model(folder), tile_size=sides, halo=halo, wiener=0)(image))

        whole = denoise(256, 16)
        rows = []
        for halo in halos:
            error = (denoise(tile, halo) - whole).abs() / SIGMA
            rows.append({"halo": halo, "largest": round(error.max().item(), 5), "mean": round(error.mean().item(), 6)})
            print(spatial_dims, rows[-1], flush=True)
    return {"steps": record["steps"], "tile_size": tile, "unit": "noise standard deviation", "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    results = {
        "2d": differences(2, arguments.epochs, 112, [16, 32, 48]),
        "3d": differences(3, arguments.epochs, 96, [16, 32]),
    }
    save("seams", results)


if __name__ == "__main__":
    main()
