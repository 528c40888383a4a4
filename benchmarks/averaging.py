# SPDX-License-Identifier: Apache-2.0
"""What averaging is worth: over symmetries of the image (``tta``), over the weights of the last steps (``ema``).

A crop of Colin27, 64 voxels to each side, with white Gaussian noise, sigma 12, the command line's network trained on it
for as many steps with an annealed and with a constant learning rate. One training gives the last and the averaged
weights; both denoise with and without averaging over symmetries. PSNR in dB, one entry per seed.

``python -m benchmarks.averaging``
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import save
from benchmarks.recipes import N2V_ALONE
from benchmarks.tasks import COLIN27_CROP, colin27_crop, psnr

SIDE = 64
SIGMA = 12.0
DECAY = 0.98
OVERLAYS = [N2V_ALONE[3]]


def scores(seed: int, epochs: int, decay_fraction: float) -> dict[str, float]:
    """PSNR of last and averaged weights, without and with averaging over symmetries."""
    from monai_n2v.bundle import Denoiser, find_bundle, resolve_model, train
    from monai_n2v.transforms.files import as_meta_tensor

    clean, noisy = colin27_crop(tuple(slice(s.start, s.start + SIDE) for s in COLIN27_CROP), SIGMA)
    bundle, image = find_bundle("n2v_denoise_3d"), as_meta_tensor(noisy[None], [1.0, 1.0, 1.0])
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        overlays = [*OVERLAYS, "anneal.json"]
        options = {"epochs": epochs, "seed": seed, "progress": False, "checkpoints": True, "ema": DECAY}
        train(bundle, [{"image": image}], folder, overlays, decay_fraction=decay_fraction, **options)
        last = torch.load(folder / "checkpoints" / f"checkpoint_epoch={epochs}.pt", weights_only=True)["model"]
        torch.save(last, folder / "last.pt")
        for weights, path in {"last": folder / "last.pt", "ema": folder / "models" / "model.pt"}.items():
            for tta in (False, True):
                output = Denoiser(resolve_model(path), overlays=OVERLAYS, tta=tta)(image)
                found[f"{weights}{' + tta' if tta else ''}"] = round(psnr(output[0], clean), 3)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1, help="does not change what is learned")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rates: dict[str, Any] = {}
    for rate, decay_fraction in {"annealed": 0.5, "constant": 1e-6}.items():
        rows = [scores(seed, arguments.epochs, decay_fraction) for seed in range(arguments.seeds)]
        rates[rate] = {name: [row[name] for row in rows] for name in rows[0]}
        for name, values in rates[rate].items():
            gain = np.array(values) - np.array(rates[rate]["last"])
            print(f"{rate:9} {name:11} {np.mean(values):.2f} dB, gain {gain.min():+.2f} to {gain.max():+.2f}")
    settings = {"side": SIDE, "sigma": SIGMA, "decay": DECAY, "epochs": arguments.epochs, "steps_per_epoch": 10}
    save("averaging", {**settings, "seeds": arguments.seeds, "psnr": rates})


if __name__ == "__main__":
    main()
