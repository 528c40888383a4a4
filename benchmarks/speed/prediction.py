# SPDX-License-Identifier: Apache-2.0
"""Prediction: `AlignedTileInferer` over the bare forward pass, what halos cost, and the peak of memory.

``python -m benchmarks.speed.prediction [--device cuda]``

The bare pass is the network itself on one ready tile of the same sides; it and the whole prediction take turns. A voxel
that the network sees counts as processed, halo included. Peak memory is that of a process of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import load, machine, save
from benchmarks.speed.overhead import interleaved

BASIC = {2: (32, 32, 64, 128, 256, 32), 3: (16, 16, 32, 64, 128, 16)}
# Sides of the image: one that fits into memory whole, one that is cut. By name of the network.
SIZES = {
    2: {"fits": (768, 768), "cut": (2560, 2560)},
    3: {"fits": (96, 96, 96), "cut": (256, 256, 160)},
}


def make_network(spatial_dims: int, name: str) -> torch.nn.Module:
    """The command line's network, or the bundle's, in evaluation mode and the memory layout the bundles use."""
    from monai.networks.nets import BasicUNet

    from monai_n2v.networks import N2VUNet

    torch.manual_seed(0)
    network: torch.nn.Module
    if name == "N2VUNet":
        network = N2VUNet(spatial_dims, features={2: 32, 3: 16}[spatial_dims])
    else:
        network = BasicUNet(spatial_dims, 1, 1, features=BASIC[spatial_dims], norm="batch", bias=False)
    layout = torch.channels_last if spatial_dims == 2 else torch.channels_last_3d
    return network.to(memory_format=layout).eval()


def make_inferer(spatial_dims: int, name: str) -> Any:
    """The inferer as the configs have it."""
    from monai_n2v.inferers.tiled import AlignedTileInferer

    if name == "N2VUNet":
        return AlignedTileInferer(spatial_dims, halo=24, divisor=4)
    return AlignedTileInferer(spatial_dims, halo={2: 48, 3: 32}[spatial_dims], divisor=16)


def reads(inferer: Any, network: torch.nn.Module, size: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
    """Sides of the largest tile, and all voxels that the network sees."""
    from monai_n2v.inferers.predictor import Predictor
    from monai_n2v.inferers.tile_plan import cut_axis

    padded = [-(-side // inferer.divisor) * inferer.divisor for side in size]
    predictor = Predictor(network, (), {}, False, inferer.divisor, next(network.parameters()).device)
    tile = inferer._plan(predictor, padded, 4 * math.prod(size)).tile
    axes = [
        [cut.read.stop - cut.read.start for cut in cut_axis(n, side, inferer.halo)] for n, side in zip(padded, tile)
    ]
    return tuple(max(sides) for sides in axes), math.prod(sum(sides) for sides in axes)


def measure(spatial_dims: int, name: str, size: tuple[int, ...], n_rounds: int, device: torch.device) -> dict[str, Any]:
    """Times of a whole prediction and of the bare pass on one tile, in turns."""
    network, inferer = make_network(spatial_dims, name).to(device), make_inferer(spatial_dims, name)
    image = torch.rand(1, 1, *size)
    sides, seen = reads(inferer, network, size)
    tile = torch.rand(1, 1, *sides, device=device)

    def finished(function: Callable[[], Any]) -> Callable[[], None]:
        def call() -> None:
            function()
            if device.type == "cuda":
                torch.cuda.synchronize()

        return call

    row: dict[str, Any] = {}
    with torch.inference_mode():
        if device.type == "cuda":
            on_cpu = make_network(spatial_dims, name)
            corner = image[(..., *[slice(0, 150)] * spatial_dims)]
            in_tiles = make_inferer(spatial_dims, name)
            in_tiles.tile_size = (112,) * spatial_dims
            row["whole_off_cpu"], row["tiles_off_cpu"] = (
                float((used(corner, network) - used(corner, on_cpu)).abs().max()) for used in (inferer, in_tiles)
            )
            torch.cuda.reset_peak_memory_stats()
        calls = (lambda: inferer(image, network), lambda: network(tile))
        seconds = interleaved([finished(call) for call in calls], n_rounds)
    if device.type == "cuda":
        row["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    ours, bare = np.median(seconds, axis=0).tolist()
    ratios = (seen / seconds[:, 0]) / (math.prod(sides) / seconds[:, 1])
    return row | {
        "image": size,
        "tile": sides,
        "seconds": round(ours, 3),
        "bare_seconds_per_tile": round(bare, 4),
        "throughput_over_bare": round(float(np.median(ratios)), 3),
        "processed_over_result": round(seen / math.prod(size), 3),
        "voxels_per_second": round(math.prod(size) / ours),
        "n_rounds": n_rounds,
    }


def peak(spatial_dims: int, name: str, size: tuple[int, ...]) -> float:
    """GiB that a prediction adds to a process that holds the image, at most."""
    code = [sys.executable, "-m", "benchmarks.speed.prediction", "--peak", str(spatial_dims), name, *map(str, size)]
    return float(json.loads(subprocess.run(code, capture_output=True, text=True, check=True).stdout.splitlines()[-1]))


def print_peak(spatial_dims: int, name: str, *size: int) -> None:
    """Predict in this process and print by how much the peak of its memory rose, in GiB. Linux."""
    network, inferer = make_network(spatial_dims, name), make_inferer(spatial_dims, name)
    image = torch.rand(1, 1, *size)
    with torch.inference_mode():
        inferer(image[(..., *[slice(0, 64)] * spatial_dims)], network)  # what torch loads the first time
        Path("/proc/self/clear_refs").write_text("5")  # a process starts with the peak of the one that started it
        before = _high_water_mark()
        inferer(image, network)
    print((_high_water_mark() - before) / 2**20)


def _high_water_mark() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer", type=Path, help="result of benchmarks.peers.careamics_prediction")
    parser.add_argument("--peak", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    if arguments.peak:
        spatial_dims, name, *size = arguments.peak
        print_peak(int(spatial_dims), name, *map(int, size))
        return
    device = torch.device(arguments.device)
    started = time.perf_counter()
    rows = []
    for spatial_dims, sizes in SIZES.items():
        for name in ("N2VUNet", "BasicUNet"):
            for what, size in sizes.items():
                row = measure(spatial_dims, name, size, arguments.rounds, device)
                if device.type == "cpu":
                    row["peak_gib"] = round(peak(spatial_dims, name, size), 2)
                rows.append({"dims": spatial_dims, "network": name, "what": what, **row})
                print(json.dumps(rows[-1]), flush=True)
    name = "prediction" if device.type == "cpu" else "gpu_prediction"
    peer = (load(name) or {}).get("careamics")  # of its own machine and commit
    if arguments.peer:
        peer = {**json.loads(arguments.peer.read_text()), "machine": machine()}
    results: dict[str, Any] = {"rows": rows, "minutes": round((time.perf_counter() - started) / 60, 1)}
    save(name, results | ({"careamics": peer} if peer else {}))


if __name__ == "__main__":
    main()
