# SPDX-License-Identifier: Apache-2.0
"""What a folder of small images costs beside its bare forward passes, and whether memory grows with it.

``python -m benchmarks.speed.folder`` denoises 200 PNG of 128x128 and 50 NIfTI volumes of 32x32x32 (phantoms with white
noise, seeded) by a trained network, as ``monai-n2v denoise -i FOLDER -o OUT --model MODEL`` does. Bare is: every image
read and its result written by the same functions, and in between one forward pass of the same network. Both run in one
process, in turn, several times; medians are reported. The whole command is run apart, once with half of the images.
Then volumes of 128x128x128 are denoised with the next one read in turn, or ahead by a thread.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import save
from benchmarks.speed.growth import run

CASES = {"200 PNG of 128x128": (200, (128, 128)), "50 NIfTI of 32x32x32": (50, (32, 32, 32))}


def make_folder(folder: Path, n_images: int, shape: tuple[int, ...]) -> None:
    """Smooth phantoms with white noise."""
    import nibabel
    from PIL import Image

    folder.mkdir()
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    for number in range(n_images):
        rng = np.random.default_rng(number)
        clean = 128 + 60 * np.sin((3 + number % 5) * axes[0]) * np.cos(4 * axes[-1])
        noisy = clean + rng.normal(0, 15, shape)
        if len(shape) == 2:
            Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(folder / f"{number:03d}.png")
        else:
            nibabel.save(nibabel.Nifti1Image(noisy.astype(np.float32), np.eye(4)), folder / f"{number:03d}.nii.gz")


def bare(model: Path, source: Path, target: Path) -> float:
    """Seconds for reading, forward passes and writing alone."""
    from monai.bundle import ConfigParser

    from monai_n2v.io.images import read_volume, save_volume

    parser = ConfigParser()
    parser.read_config(str(model / "configs" / "inference.json"))
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(model / "models" / "model.pt", weights_only=True))
    started = time.perf_counter()
    with torch.no_grad():
        for path in sorted(source.iterdir()):
            volume = read_volume(path)
            output = network(torch.from_numpy(volume.data)[None])[0].numpy()
            save_volume(output, volume, target / path.name)
    return time.perf_counter() - started


def command(model: Path, source: Path, target: Path) -> float:
    """Seconds of the command line's own work, with everything imported."""
    from monai_n2v.cli.main import main as monai_n2v

    started = time.perf_counter()
    options = ["--model", str(model), "--device", "cpu", "-q"]
    if monai_n2v(["denoise", "-i", str(source), "-o", str(target), *options]):
        raise SystemExit("denoise failed")
    return time.perf_counter() - started


def compared(model: Path, source: Path, folder: Path, n_runs: int) -> dict[str, Any]:
    """Both in turn; medians."""
    seconds: dict[str, list[float]] = {"bare": [], "command": []}
    for number in range(n_runs + 1):
        for name, function in (("bare", bare), ("command", command)):
            target = folder / f"{name}{number}"
            target.mkdir()
            taken = function(model, source, target)
            seconds[name] += [taken] if number else []  # the first warms up
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    ratios = [b / a for a, b in zip(*seconds.values())]
    return {
        "bare_seconds": round(medians["bare"], 2),
        "seconds": round(medians["command"], 2),
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
    }


def reading_ahead(folder: Path, n_volumes: int, side: int, n_runs: int) -> dict[str, Any]:
    """Seconds for a folder of volumes, read when their turn comes or one ahead by a thread (MONAI's)."""
    from monai_n2v.bundle import Denoiser, resolve_model

    make_folder(folder / "large", n_volumes, (side,) * 3)
    sources = sorted((folder / "large").iterdir())
    items = [{"image": str(path), "target": str(folder / "denoised" / path.name)} for path in sources]
    ahead = {
        "_target_": "monai.data.ThreadDataLoader",
        "dataset": "@dataset",
        "batch_size": 1,
        "buffer_size": 1,
        "num_workers": 0,
        "collate_fn": "$monai_n2v.data.collate_one",
    }
    network = resolve_model(folder / "model")
    ways = {"in_turn": Denoiser(network), "ahead": Denoiser(network, dataloader=ahead)}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(n_runs + 1):
        for name, denoiser in ways.items():
            started = time.perf_counter()
            denoiser.run(items, lambda *_: None)
            seconds[name] += [time.perf_counter() - started] if number else []
    ratios = [b / a for a, b in zip(*seconds.values())]
    row: dict[str, Any] = {"case": f"{n_volumes} NIfTI of {side}x{side}x{side}"}
    row |= {f"seconds_{name}": round(statistics.median(times), 2) for name, times in seconds.items()}
    return row | {"ratio": round(statistics.median(ratios), 2), "ratios": [round(ratio, 2) for ratio in ratios]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for name, (n_images, shape) in CASES.items():
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            make_folder(folder / "half", n_images // 2, shape)
            make_folder(folder / "all", n_images, shape)
            first = sorted((folder / "all").iterdir())[0]
            train = ["train", "-i", str(first), "-o", str(folder / "model"), "--epochs", "1", "-q"]
            subprocess.run([sys.executable, "-m", "monai_n2v.cli", *train], check=True)
            row = {"case": name, **compared(folder / "model", folder / "all", folder, arguments.runs)}
            for part in ("half", "all"):
                found = run("denoise", "-i", folder / part, "-o", folder / f"out_{part}", "--model", folder / "model")
                row |= {f"command_seconds_{part}": found["seconds"], f"peak_gib_{part}": found["peak_gib"]}
            rows.append(row)
            print(row, flush=True)
            if len(shape) == 3:
                ahead = reading_ahead(folder, 6, 128, arguments.runs)
                print(ahead, flush=True)
    save("folder", {"runs": arguments.runs, "rows": rows, "reading_ahead": ahead})


if __name__ == "__main__":
    main()
