# SPDX-License-Identifier: Apache-2.0
"""Taking detail back on a GPU: equal to the CPU first, then its time over that of the prediction before it.

``python -m benchmarks.gpu.detail``; ``--device cpu --small`` tells without a GPU that it runs.
"""

from __future__ import annotations

import argparse
import functools
import statistics
from typing import Any

import torch

from benchmarks.common import save
from benchmarks.gpu.step import milliseconds
from benchmarks.speed.prediction import make_network
from monai_n2v.inferers.detail import DetailInferer, keep_detail
from monai_n2v.inferers.tiled import AlignedTileInferer

SIDES = {2: (4096, 4096), 3: (384, 384, 384)}


def check(device: torch.device) -> dict[str, float]:
    """Largest difference between devices, as a share of the noise."""
    found = {}
    for spatial_dims, side in ((2, 300), (3, 70)):
        generator = torch.Generator().manual_seed(0)
        noisy, estimate = (torch.randn(1, 1, *(side,) * spatial_dims, generator=generator) for _ in range(2))
        estimate *= 0.3
        kept = keep_detail(noisy.to(device), estimate.to(device)).cpu()
        found[f"{spatial_dims}d"] = float((kept - keep_detail(noisy, estimate)).abs().max())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    difference = check(device)
    if max(difference.values()) > 1e-4:
        raise SystemExit(f"GPU and CPU differ: {difference}")
    results: dict[str, Any] = {"largest_difference_from_cpu": difference}
    for spatial_dims, shape in SIDES.items():
        shape = tuple(side // 8 for side in shape) if arguments.small else shape
        image = torch.randn(1, 1, *shape, device=device)
        network = make_network(spatial_dims, "N2VUNet").to(device)
        tiles = AlignedTileInferer(spatial_dims, halo=24, divisor=4)
        inferers = {"prediction": tiles, "with_detail": DetailInferer(tiles, spatial_dims)}
        with torch.inference_mode():
            times: dict[str, list[float]] = {name: [] for name in inferers}
            for _ in range(6):
                for name, inferer in inferers.items():
                    times[name] += milliseconds(functools.partial(inferer, image, network), 1, device)
        medians = {f"{name}_ms": round(statistics.median(values[1:]), 2) for name, values in times.items()}
        results[f"{spatial_dims}d"] = {"image": list(shape), **medians}
        print(results, flush=True)
    save("gpu_detail" if device.type == "cuda" else "try_detail", results)


if __name__ == "__main__":
    main()
