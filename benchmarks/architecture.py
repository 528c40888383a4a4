# SPDX-License-Identifier: Apache-2.0
"""Which network and which patches suit the prior: short pretrainings of equally many steps, scored on clean images.

``python -m benchmarks.architecture 3 --epochs 25`` pretrains every variant from random weights by the bundle's own
command, 100 steps an epoch, on one thread, and denoises by it without any adaptation. ``continued``: the same image
amid its own reflection, sides five thirds as long; a network that leans on the border of its patches loses there.
``--weights FILE --names NAME`` scores weights that are there, of a variant or of an earlier commit. Rows gather in
``results/architecture.json``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from scipy import ndimage

from benchmarks.common import ROOT, load, save
from benchmarks.tasks import COLIN27_CROP, colin27_crop, psnr, set12
from monai_n2v.handlers.checkpoints import load_weights
from monai_n2v.inferers import PaddedInferer

SIGMAS = {2: (10.0, 25.0, 50.0), 3: (4.0, 8.0, 12.0)}


def variants(dims: int) -> dict[str, dict[str, Any]]:
    """Keys of the bundle that differ, by name."""
    shallow = {"_target_": "monai_n2v.networks.N2VUNet", "spatial_dims": dims, "norm": None}
    shallow["features"] = {2: 32, 3: 16}[dims]
    found: dict[str, dict[str, Any]] = {
        "repeated border, as shipped": {},
        "zeros beyond the border": {"network_def#_target_": "BasicUNet"},
        "N2VUNet": {"network_def": shallow, "divisor": 4},
    }
    if dims == 3:
        large = {"network_def#_target_": "BasicUNet", "patch_size": [80, 80, 80], "batch_size": 1}
        found["zeros beyond the border, patches of 80"] = large
    return found


def network_of(dims: int, keys: dict[str, Any]) -> torch.nn.Module:
    """The network of the bundle with other keys."""
    parser = ConfigParser(ConfigParser.load_config_file(ROOT / f"bundles/n2v_denoise_{dims}d/configs/inference.json"))
    for key, value in keys.items():
        if key.startswith("network_def"):
            parser[key.replace("#", "::")] = value
    network: torch.nn.Module = parser.get_parsed_content("network_def")
    return network.eval()


def pretrain(dims: int, keys: dict[str, Any], epochs: int, folder: Path) -> None:
    """Pretrain by the bundle's command."""
    bundle = f"bundles/n2v_denoise_{dims}d"
    configs = [f"{bundle}/configs/train.json", "configs/anneal.json", "configs/pretrain.json"]
    given = {"output_dir": folder, "epochs": epochs, "progress": False, "amp": True, **keys}
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(configs), "--bundle_root", bundle]
    command += [text for key, value in given.items() for text in (f"--{key}", str(value))]
    command += ["--finalize", "[]"]  # the bundle keeps its prior
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


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
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--names", nargs="*")
    parser.add_argument("--weights", type=Path)
    arguments = parser.parse_args()
    dims = arguments.dims
    torch.set_num_threads(1)

    def keep(name: str, network: torch.nn.Module, path: Path, **told: Any) -> None:
        network.load_state_dict({key: value.float() for key, value in load_weights(path).items()})
        rows = (load("architecture") or {"rows": []})["rows"]
        rows = [row for row in rows if (row["dims"], row["name"]) != (dims, name)]
        parameters = sum(value.numel() for value in network.parameters())
        row = {"dims": dims, "name": name, **told, "parameters": parameters, **scores(dims, network)}
        save("architecture", {"rows": [*rows, row]})
        print(row, flush=True)

    if arguments.weights:
        [name] = arguments.names
        keep(name, network_of(dims, variants(dims).get(name, {})), arguments.weights)
        return
    for name, keys in variants(dims).items():
        if arguments.names and name not in arguments.names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            pretrain(dims, keys, arguments.epochs, Path(folder))
            path = Path(folder) / "models" / "model.pt"
            keep(name, network_of(dims, keys), path, steps=100 * arguments.epochs)


if __name__ == "__main__":
    main()
