# SPDX-License-Identifier: Apache-2.0
"""Training on a folder that exceeds its memory: seconds per epoch, waiting, peak memory.

``python -m benchmarks.bigdata`` writes seeded volumes as ``.nii.gz`` and trains the 3D bundle's loader on them in
processes of its own: all in memory, with a budget of a quarter of the folder, and so with a cache on disk, empty and
filled.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.common import save


def make_folder(folder: Path, n_images: int, side: int) -> None:
    import nibabel

    ramp = np.linspace(0, 1000, side)[:, None, None]
    for k in range(n_images):
        data = ramp + np.random.default_rng(k).normal(0, 30, (side,) * 3)
        nibabel.save(nibabel.Nifti1Image(np.rint(data).astype(np.int16), np.eye(4)), folder / f"{k:03d}.nii.gz")


def train(folder: Path, memory_gib: float | None, cache_dir: str | None, n_epochs: int, epoch_length: int) -> dict:
    """Train a small network for some epochs; runs in a process of its own."""
    import torch
    from monai.transforms import Compose

    from monai_n2v.data import PatchCut, PatchLoader, make_dataset
    from monai_n2v.io.images import find_images
    from monai_n2v.networks import N2VUNet
    from monai_n2v.transforms.files import LoadNoisyd
    from monai_n2v.transforms.intensity import StandardizeIntensityd
    from monai_n2v.transforms.pairing import RandN2VMaskd

    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    transform = Compose([LoadNoisyd("image"), StandardizeIntensityd("image")])
    dataset = make_dataset(find_images(folder), transform, cache_dir)
    masking = RandN2VMaskd("image", batched=True)
    loader = PatchLoader(dataset, PatchCut((32, 32, 32)), 4, epoch_length, masking, memory_gib=memory_gib)
    begun = time.perf_counter() - started
    network = N2VUNet(3, features=8)
    optimizer = torch.optim.Adam(network.parameters())
    epochs, waited = [], []
    for epoch in range(1, n_epochs + 1):
        loader.set_epoch(epoch)
        started = previous = time.perf_counter()
        for step, batch in enumerate(loader):
            if step == 0:
                waited.append(time.perf_counter() - previous)
            loss = ((network(batch["image"]) - batch["label"]) ** 2 * batch["mask"]).sum() / batch["mask"].sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        epochs.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds_before_the_first_epoch": round(begun, 2),
        "seconds_per_epoch": round(float(np.mean(epochs[1:])), 3),
        "of_these_to_the_first_batch": round(float(np.mean(waited[1:])), 3),
        "peak_gib": round(peak / 2**20, 3),
        "peak_gib_before": round(before / 2**20, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--side", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--epoch-length", type=int, default=50)
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        print(json.dumps(train(**arguments.one)))
        return
    size = 4 * arguments.images * arguments.side**3 / 2**30
    results: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as name:
        folder, cache = Path(name) / "images", str(Path(name) / "cache")
        folder.mkdir()
        make_folder(folder, arguments.images, arguments.side)
        runs = {
            "all in memory": (2 * size, None),
            "a quarter in memory": (size / 4, None),
            "a quarter in memory, filling the cache": (size / 4, cache),
            "a quarter in memory, from the cache": (size / 4, cache),
        }
        for what, (memory, cache_dir) in runs.items():
            options = {"folder": str(folder), "memory_gib": memory, "cache_dir": cache_dir}
            options |= {"n_epochs": arguments.epochs, "epoch_length": arguments.epoch_length}
            command = [sys.executable, "-m", "benchmarks.bigdata", "--one", json.dumps(options)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            results[what] = json.loads(done.stdout.splitlines()[-1])
    setting = {"images": arguments.images, "side": arguments.side, "epochs": arguments.epochs, "folder_gib": size}
    save("bigdata", {**setting, "epoch_length": arguments.epoch_length, "runs": results})


if __name__ == "__main__":
    main()
