# SPDX-License-Identifier: Apache-2.0
"""Which network and which patches suit the prior: short pretrainings of equal time, scored on clean images.

``python -m benchmarks.architecture 3 --minutes 8`` pretrains every variant by the bundle's own command, on one thread,
and denoises by it without any adaptation. ``continued``: the same image amid its own reflection, sides five thirds as
long; a network that leans on the border of its patches loses there. ``--weights FILE --names NAME`` scores BasicUNet
with weights that are there, such as a prior of an earlier commit. Rows gather in ``results/architecture.json``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.networks.nets import BasicUNet
from scipy import ndimage

from benchmarks.common import ROOT, load, save
from benchmarks.tasks import COLIN27_CROP, colin27_crop, psnr, set12
from monai_n2v.handlers.checkpoints import load_weights
from monai_n2v.inferers import PaddedInferer
from monai_n2v.networks import N2VUNet

Make = Callable[[], torch.nn.Module]


def basic(dims: int, features: tuple[int, ...]) -> tuple[dict[str, Any], Make]:
    """MONAI's BasicUNet: the bundle's keys, and the network."""
    return {"features": list(features)}, lambda: BasicUNet(dims, 1, 1, features=features, norm=None)


def shallow(dims: int, features: int) -> tuple[dict[str, Any], Make]:
    """`N2VUNet`, two levels deep."""
    target = "monai_n2v.networks.N2VUNet"
    definition = {"_target_": target, "spatial_dims": dims, "features": features, "norm": None}
    return {"network_def": definition, "divisor": 4}, lambda: N2VUNet(dims, 1, 1, features=features, norm=None)


SIGMAS = {2: (10.0, 25.0, 50.0), 3: (4.0, 8.0, 12.0)}
WIDE = {2: (32, 32, 64, 128, 256, 32), 3: (16, 16, 32, 64, 128, 16)}
SMALL_PATCHES = {
    2: {"patch_size": [48, 48], "batch_size": 32},
    3: {"patch_size": [48, 48, 48], "batch_size": 4},
}


def variants(dims: int) -> dict[str, tuple[dict[str, Any], Make]]:
    """Keys of the bundle that differ, and the network, by name."""
    keys, make = basic(dims, WIDE[dims])
    half = (WIDE[dims][0] // 2, *(n // 2 for n in WIDE[dims][1:]))
    return {
        "BasicUNet, as shipped": (keys, make),
        "BasicUNet, small patches": (keys | SMALL_PATCHES[dims], make),
        "BasicUNet, half as wide": basic(dims, half),
        "N2VUNet": shallow(dims, WIDE[dims][0]),
        "N2VUNet, small patches": (
            shallow(dims, WIDE[dims][0])[0] | SMALL_PATCHES[dims],
            shallow(dims, WIDE[dims][0])[1],
        ),
    }


def pretrain(dims: int, keys: dict[str, Any], minutes: float, folder: Path) -> int:
    """Pretrain by the bundle's command; returns the number of steps."""
    bundle = f"bundles/n2v_denoise_{dims}d"
    configs = [f"{bundle}/configs/train.json", "configs/anneal.json", "configs/pretrain.json"]
    given = {"output_dir": folder, "max_time": 60 * minutes, "epoch_length": 20, "progress": False, "amp": True, **keys}
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(configs), "--bundle_root", bundle]
    command += [text for key, value in given.items() for text in (f"--{key}", str(value))]
    command += ["--finalize", "[]"]  # the bundle keeps its prior
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    [checkpoint] = sorted((folder / "checkpoints").glob("*.pt"), key=lambda path: path.stat().st_mtime)[-1:]
    return 20 * int(checkpoint.stem.split("=")[1])


def denoised(network: torch.nn.Module, noisy: np.ndarray) -> np.ndarray:
    """An image denoised as a whole."""
    mean, std = float(noisy.mean()), float(noisy.std())
    with torch.inference_mode():
        found = PaddedInferer(divisor=16)(torch.from_numpy((noisy - mean) / std).float()[None, None], network)
    output: np.ndarray = found[0, 0].numpy() * std + mean
    return output


def scores(dims: int, network: torch.nn.Module) -> dict[str, float]:
    """PSNR on the tasks of the bundle; on the last one with noise that its neighbors share, too."""
    cases: dict[str, tuple[list[np.ndarray], list[np.ndarray], float]] = {}
    for sigma in SIGMAS[dims]:
        if dims == 2:
            task = set12(sigma)
            cases[f"Set12, sigma {sigma:g}"] = task.noisy, task.clean, 255.0
        else:
            clean, noisy = colin27_crop(COLIN27_CROP, sigma)
            cases[f"Colin27, sigma {sigma:g}"] = [noisy], [clean], float(clean.max())
    name, (_, clean_images, peak) = list(cases.items())[1]
    rng = np.random.default_rng(0)
    shared = [ndimage.gaussian_filter(rng.normal(size=image.shape), 0.5, mode="wrap") for image in clean_images]
    noisy_images = [image + SIGMAS[dims][1] * one / one.std() for image, one in zip(clean_images, shared)]
    cases[f"{name}, smoothed by 0.5"] = noisy_images, clean_images, peak
    found = {}
    for name, (noisy_images, clean_images, peak) in cases.items():
        for suffix, share in (("", 0), (", continued", 3)):
            if share and "smoothed" in name:
                continue
            values = []
            for noisy, clean in zip(noisy_images, clean_images):
                margin = noisy.shape[0] // share if share else 0
                output = denoised(network, np.pad(noisy, margin, mode="reflect"))
                inner = tuple(slice(margin, margin + side) for side in noisy.shape)
                values.append(psnr(output[inner], clean, peak))
            found[name + suffix] = round(float(np.mean(values)), 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dims", type=int, choices=(2, 3))
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--names", nargs="*")
    parser.add_argument("--weights", type=Path)
    arguments = parser.parse_args()
    dims = arguments.dims
    torch.set_num_threads(1)

    def keep(name: str, network: torch.nn.Module, **told: Any) -> None:
        rows = (load("architecture") or {"rows": []})["rows"]
        rows = [row for row in rows if (row["dims"], row["name"]) != (dims, name)]
        parameters = sum(value.numel() for value in network.parameters())
        row = {"dims": dims, "name": name, **told, "parameters": parameters, **scores(dims, network)}
        save("architecture", {"rows": [*rows, row]})
        print(row, flush=True)

    if arguments.weights:
        network = basic(dims, WIDE[dims])[1]().eval()
        network.load_state_dict({key: value.float() for key, value in load_weights(arguments.weights).items()})
        keep(" ".join(arguments.names), network)
        return
    for name, (keys, make) in variants(dims).items():
        if arguments.names and name not in arguments.names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            steps = pretrain(dims, keys, arguments.minutes, Path(folder))
            network = make().eval()
            network.load_state_dict(load_weights(Path(folder) / "models" / "model.pt"))
        keep(name, network, minutes=arguments.minutes, steps=steps)


if __name__ == "__main__":
    main()
