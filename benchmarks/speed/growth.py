# SPDX-License-Identifier: Apache-2.0
"""How time and memory grow with the size and the number of volumes, as a user of the command line meets them.

``python -m benchmarks.speed.growth`` trains on cubes of 64 to 512 voxels to each side (int16, white noise, seeded) and
denoises them with the ready network, and trains on folders of 1 to 64 cubes of 96. Every command is a process of its
own, whose peak memory it reports. Time per epoch is the difference of two trainings of different length.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import save

EPOCHS = (2, 12)


def make_cube(path: Path, side: int, seed: int) -> None:
    """A cube of white noise around 1000."""
    import nibabel

    rng = np.random.default_rng(seed)
    data = np.empty((side,) * 3, dtype=np.int16)
    for k in range(side):
        data[..., k] = rng.normal(1000, 100, (side, side))
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), path)


def run_apart(function: Callable[..., None], *arguments: Any) -> None:
    """Call in a process of its own, since those started later inherit the peak of this one."""
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{function.__name__} failed")


def run(*arguments: Any) -> dict[str, Any]:
    """Run monai-n2v; its wall-clock seconds, its peak memory in GiB, and what it printed as JSON."""
    command = [sys.executable, "-m", "monai_n2v.cli", *map(str, arguments), "-q", "--json"]
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        output = process.stdout.read() if process.stdout else ""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    record = json.loads(output.splitlines()[-1])
    return {"seconds": round(time.perf_counter() - started, 1), "peak_gib": round(usage.ru_maxrss / 2**20, 2)} | record


def train(source: Path, folder: Path) -> dict[str, Any]:
    """Train twice, shortly and longer."""
    short, long = (run("train", "-i", source, "-o", folder / f"model{n}", "--epochs", n) for n in EPOCHS)
    per_epoch = (long["training_seconds"] - short["training_seconds"]) / (EPOCHS[1] - EPOCHS[0])
    return {
        "seconds_per_epoch": round(per_epoch, 2),
        "seconds_of_the_short_training": short["seconds"],
        "training_peak_gib": long["peak_gib"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", type=int, nargs="*", default=[64, 128, 256, 512])
    parser.add_argument("--counts", type=int, nargs="*", default=[1, 8, 64])
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "2"
    sizes, counts = [], []
    for side in arguments.sides:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            run_apart(make_cube, folder / "cube.nii", side, 0)
            row = {"side": side, "voxels": side**3, **train(folder / "cube.nii", folder)}
            model = folder / f"model{EPOCHS[0]}"
            found = run("denoise", "-i", folder / "cube.nii", "-o", folder / "out.nii", "--model", model)
            row |= {"denoise_seconds": found["seconds"], "prediction_seconds": found["prediction_seconds"]}
            sizes.append(row | {"denoise_peak_gib": found["peak_gib"]})
            print(json.dumps(sizes[-1]), flush=True)
    for count in arguments.counts:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "volumes").mkdir()
            for number in range(count):
                make_cube(folder / "volumes" / f"{number:02d}.nii", 96, number)
            counts.append({"volumes": count, "side": 96, **train(folder / "volumes", folder)})
            print(json.dumps(counts[-1]), flush=True)
    save("growth", {"threads": 2, "steps_per_epoch": 10, "sizes": sizes, "counts": counts})


if __name__ == "__main__":
    main()
