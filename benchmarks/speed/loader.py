# SPDX-License-Identifier: Apache-2.0
"""Masked patches per second: `PatchLoader` against MONAI's transforms in a DataLoader, alone and feeding a network.

``python -m benchmarks.speed.loader [--device cuda]``

Both cut, flip, rotate and mask patches of the same size from the same volume in memory. Feeding means the command
line's network trained on them; its bare step on a ready batch is the limit.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from benchmarks.common import save

BATCHES = {2: (16, (64, 64)), 3: (4, (32, 32, 32))}
MASK = {"mask_fraction": 0.05, "fill": "median", "radius": 1}


def patch_loader(spatial_dims: int, volume: torch.Tensor, device: torch.device) -> Iterator[dict[str, torch.Tensor]]:
    """Batches as the bundles make them."""
    from monai_n2v.data import PatchCut, PatchLoader
    from monai_n2v.transforms.pairing import RandN2VMaskd

    batch_size, patch = BATCHES[spatial_dims]
    pairing = RandN2VMaskd("image", batched=True, **MASK)
    yield from PatchLoader([{"image": volume}], PatchCut(patch), batch_size, 10**6, transform=pairing, device=device)


def data_loader(
    spatial_dims: int, volume: torch.Tensor, device: torch.device, n_workers: int
) -> Iterator[dict[str, torch.Tensor]]:
    """Batches by MONAI's own transforms, patch by patch, masked last."""
    from monai.data import DataLoader, Dataset
    from monai.transforms import Compose, RandFlipd, RandRotate90d, RandSpatialCropd, ToTensord

    from monai_n2v.transforms.pairing import RandN2VMaskd

    batch_size, patch = BATCHES[spatial_dims]
    transforms = Compose(
        [
            RandSpatialCropd("image", roi_size=patch, random_size=False),
            *(RandFlipd("image", prob=0.5, spatial_axis=axis) for axis in range(spatial_dims)),
            RandRotate90d("image", prob=0.75),
            RandN2VMaskd("image", **MASK),
            ToTensord(("image", "label", "mask"), track_meta=False),
        ]
    )
    dataset = Dataset([{"image": volume}] * 10**5, transforms)
    options = {"num_workers": n_workers, "persistent_workers": n_workers > 0}
    loader = DataLoader(dataset, batch_size=batch_size, pin_memory=device.type == "cuda", **options)
    for batch in loader:
        yield {key: batch[key].to(device, non_blocking=True) for key in ("image", "label", "mask")}


def make_step(spatial_dims: int, device: torch.device) -> Callable[[dict[str, torch.Tensor]], None]:
    """A training step of the command line's network, in bfloat16 where the device is fast at it."""
    from monai_n2v.inferers.precision import autocast_bfloat16, has_fast_bfloat16
    from monai_n2v.losses import N2VLoss
    from monai_n2v.networks import N2VUNet

    layout = torch.channels_last if spatial_dims == 2 else torch.channels_last_3d
    network = N2VUNet(spatial_dims, features={2: 32, 3: 16}[spatial_dims]).to(device, memory_format=layout)
    optimizer, loss = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True), N2VLoss()
    forward = autocast_bfloat16(network) if has_fast_bfloat16(device) else network

    def step(batch: dict[str, torch.Tensor]) -> None:
        optimizer.zero_grad()
        loss(forward(batch["image"]), batch["label"], batch["mask"]).backward()
        optimizer.step()

    return step


def rate(batches: Iterator[dict[str, torch.Tensor]], use: Callable[[dict[str, torch.Tensor]], Any], n: int) -> float:
    """Patches per second over ``n`` batches, after a few to warm up."""
    for _ in range(5):
        use(next(batches))
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started, n_patches = time.perf_counter(), 0
    for _ in range(n):
        batch = next(batches)
        use(batch)
        n_patches += len(batch["image"])
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return n_patches / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 2])
    parser.add_argument("--batches", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    device = torch.device(arguments.device)
    results: dict[str, Any] = {"mask": MASK}
    for spatial_dims in (2, 3):
        sides = {2: (512, 512), 3: (128, 128, 128)}[spatial_dims]
        volume = torch.randn(1, *sides, generator=torch.Generator().manual_seed(0))
        step = make_step(spatial_dims, device)
        ready = next(patch_loader(spatial_dims, volume, device))

        def repeated(batch: dict[str, torch.Tensor] = ready) -> Iterator[dict[str, torch.Tensor]]:
            while True:
                yield batch

        sources: dict[str, Callable[[], Iterator[dict[str, torch.Tensor]]]] = {
            "ready batch": repeated,
            "PatchLoader": lambda d=spatial_dims, v=volume: patch_loader(d, v, device),  # type: ignore[misc]
        }
        for n in arguments.workers:
            sources[f"DataLoader, {n} workers"] = lambda d=spatial_dims, v=volume, n=n: data_loader(d, v, device, n)  # type: ignore[misc]
        found: dict[str, dict[str, list[float]]] = {name: {"alone": [], "feeding": []} for name in sources}
        for _ in range(arguments.rounds):
            for name, source in sources.items():
                if name != "ready batch":
                    found[name]["alone"].append(rate(source(), len, arguments.batches))
                found[name]["feeding"].append(rate(source(), step, arguments.batches))
        results[f"{spatial_dims}d"] = {
            "batch": [BATCHES[spatial_dims][0], *BATCHES[spatial_dims][1]],
            "patches_per_second": {
                name: {how: round(float(np.median(values)), 1) for how, values in rates.items() if values}
                for name, rates in found.items()
            },
        }
        print(json.dumps(results[f"{spatial_dims}d"]), flush=True)
    save("loader" if device.type == "cpu" else "gpu_loader", results)


if __name__ == "__main__":
    main()
