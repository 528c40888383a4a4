# SPDX-License-Identifier: Apache-2.0
"""Noise of uneven strength, as parallel imaging leaves it: what a noise map gains.

``python -m benchmarks.uneven`` denoises the Colin27 crop of `benchmarks.paper.medical` with Gaussian and with Rician
noise, three times as strong in the middle as at the border: without a map, with the true one, and with one that is 0
outside of the head; by the prior alone, or with ``--methods renoised recorrupted`` after a short training
(``--epochs``). The seed of the noise is `SEED`, that of the training 0. Rows gather in ``results/uneven.json``.
"""

from __future__ import annotations

import argparse
import itertools
import time
from typing import Any

import numpy as np
import torch

import monai_n2v
from benchmarks.common import load, save
from benchmarks.paper.medical import RICIAN_CROP, by_clean
from benchmarks.tasks import colin27_crop, psnr

LOWEST = 4.0
SEED = 1


def strength(shape: tuple[int, ...]) -> np.ndarray:
    """1 far from the middle, 3 in it."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    grown: np.ndarray = 1 + 2 * np.exp(-sum(axis**2 for axis in axes) / 0.4)
    return grown.astype(np.float32)


def noisy_images(clean: np.ndarray, sigma: np.ndarray) -> dict[str, np.ndarray]:
    """The same image with noise of either kind."""
    real, imaginary = np.random.default_rng(SEED).normal(0, 1, (2, *clean.shape)) * sigma
    noisy = {"Gaussian": clean + real, "Rician": np.hypot(clean + real, imaginary)}
    return {kind: image.astype(np.float32) for kind, image in noisy.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--noises", nargs="+", default=["Gaussian", "Rician"])
    parser.add_argument("--methods", nargs="+", default=["prior"], choices=["prior", "renoised", "recorrupted"])
    parser.add_argument("--maps", nargs="+", default=["none", "true", "true, 0 outside of the head"])
    parser.add_argument("--epochs", type=int, default=2, help="of a training, of ten steps each")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clean = colin27_crop(RICIAN_CROP)[0]
    grown = strength(clean.shape)
    score, head = by_clean(clean), clean > 0
    parts = {"middle": head & (grown > 2), "border": head & (grown < 1.5)}
    maps = {"none": None, "true": grown, "true, 0 outside of the head": np.where(head, grown, 0)}
    images = noisy_images(clean, LOWEST * grown)
    rows = {(r["noise"], r["method"], r["map"]): r for r in (load("uneven") or {"rows": []})["rows"]}
    for kind, method, name in itertools.product(arguments.noises, arguments.methods, arguments.maps):
        options: dict[str, Any] = {} if method == "prior" else {"epochs": arguments.epochs, "spatial_dims": 3}
        started = time.perf_counter()
        output = monai_n2v.denoise(images[kind], scheme=method, noise_map=maps[name], device="cpu", **options)
        told = method if method == "prior" else f"{method}, {10 * arguments.epochs} steps"
        row = {"noise": kind, "method": told, "map": name, **score(output)}
        row |= {f"psnr_{k}": round(psnr(output[v], clean[v], float(clean.max())), 2) for k, v in parts.items()}
        rows[kind, told, name] = row | {"seconds": round(time.perf_counter() - started, 1)}
        save("uneven", {"rows": list(rows.values())})
        print(rows[kind, told, name], flush=True)


if __name__ == "__main__":
    main()
