# SPDX-License-Identifier: Apache-2.0
"""The program's defaults on the tasks: the prior alone, and adapted to the image; beside the best of the others.

``python -m benchmarks.prior`` denoises every image by ``denoise()`` as a user calls it: with ``scheme="prior"``, and
with nothing. Seconds are those of the call, loading of the program left out. ``--rows`` chooses tasks, ``--methods``
ways. Rows gather in ``results/prior.json``; the best classic filters, tuned with the clean image at hand, are those of
``paper_medical.json``, ``paper_ct.json`` and ``paper_bsd68.json``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import load, save
from benchmarks.m4raw import brain_of, m4raw
from benchmarks.paper.medical import by_repeats
from benchmarks.speed.intensity import ct, shift
from benchmarks.tasks import COLIN27_CROP, colin27_crop, data_folder, psnr, set12
from monai_n2v.bundle.resources import bundle_name, find_bundle

Score = Callable[[Sequence[np.ndarray]], dict[str, Any]]

METHODS: dict[str, dict[str, Any]] = {
    "prior": {"scheme": "prior"},
    "prior, network alone": {"scheme": "prior", "wiener": 0},
    "prior, averaged over flips": {"scheme": "prior", "tta": True},
    "adapted": {},
    "adapted, averaged over flips": {"tta": True},
    "recorrupted": {"scheme": "recorrupted"},
    "renoised": {"scheme": "renoised"},
    "n2v from the prior": {"scheme": "n2v"},
    "n2v from scratch": {"prior": False},
}
USUAL = ("prior", "adapted")


def colin(sigma: float) -> tuple[list[np.ndarray], Score, list[float]]:
    """Colin27 with white noise; PSNR of the clean maximum."""
    clean, noisy = colin27_crop(COLIN27_CROP, sigma)
    return [noisy], lambda found: {"psnr": round(psnr(found[0], clean, float(clean.max())), 2)}, [1.0, 1.0, 1.0]


def repeats(contrast: str) -> tuple[list[np.ndarray], Score, list[float]]:
    """M4Raw, scored by its repeats; voxels of 1.2 x 1.2 x 5 mm."""
    first, second, third = m4raw(contrast)
    score = by_repeats(second, third, brain_of(first))
    return [first], lambda found: dict(score(found[0])), [1.2, 1.2, 5.0]


def natural(folder: str) -> tuple[list[np.ndarray], Score, list[float]]:
    """Set12 or BSD68 with white noise of 25; PSNR of 255, neither clipped nor rounded."""
    if folder == "Set12":
        task = set12()
        return task.noisy, lambda found: {"psnr": round(task.score(found), 2)}, [1.0, 1.0]
    from PIL import Image

    rng = np.random.default_rng(0)
    files = sorted((data_folder() / "bsd68" / folder).glob("*.png"))
    clean = [np.asarray(Image.open(file), dtype=np.float32) for file in files]
    noisy = [(image + rng.normal(0, 25, image.shape)).astype(np.float32) for image in clean]
    return (
        noisy,
        lambda found: {
            "psnr": round(float(np.mean([psnr(a, b, 255.0) for a, b in zip(found, clean, strict=True)])), 2)
        },
        [1.0, 1.0],
    )


def aorta() -> tuple[list[np.ndarray], Score, list[float]]:
    """A real CT without a clean one: how much of vessels' contrast, and of the spread of calm voxels, is left."""
    noisy = ct().noisy[0]
    kept = ("vessel_gain", "calm_spread", "lung_spread")
    return [noisy], lambda found: {key: shift(noisy, found[0])[key] for key in kept}, [1.5, 1.5, 1.5]


ROWS: dict[str, Callable[[], tuple[list[np.ndarray], Score, list[float]]]] = {
    "Colin27, sigma 4": lambda: colin(4.0),
    "Colin27, sigma 8": lambda: colin(8.0),
    "Colin27, sigma 12": lambda: colin(12.0),
    "M4Raw T1": lambda: repeats("T1"),
    "M4Raw T2": lambda: repeats("T2"),
    "Set12, sigma 25": lambda: natural("Set12"),
    "BSD68, sigma 25": lambda: natural("BSD68"),
    "aorta CT": aorta,
}


def denoise_all(
    images: Sequence[np.ndarray], spacing: Sequence[float], seed: int, options: dict[str, Any]
) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Denoise images as ``monai-n2v`` does a folder: one network for all; and what the record says of it."""
    from monai_n2v.apps.inspect import NoisyImage
    from monai_n2v.apps.train import train_network
    from monai_n2v.bundle.options import PredictionOptions, TrainingOptions
    from monai_n2v.bundle.run import Denoiser
    from monai_n2v.transforms.files import as_meta_tensor

    loaded = [as_meta_tensor(image[None], list(spacing)) for image in images]
    training = {name: value for name, value in options.items() if name not in ("tta", "wiener")}
    prediction = {name: value for name, value in options.items() if name not in training}
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        noisy = [NoisyImage.of(image) for image in loaded]
        network, record = train_network(noisy, Path(folder) / "m", TrainingOptions(seed=seed, **training))
        # Repeats of a magnitude share its bias, so it is not taken off.
        denoiser = Denoiser(network, PredictionOptions(magnitude="off", **prediction))
        found = [denoiser(image)[0] for image in loaded]
    record |= {"seconds": round(time.perf_counter() - started, 1), "spatial_dims": network.spatial_dims}
    return found, record


def rate_of(spatial_dims: int) -> float:
    """The bundles' learning rate, by which rows of another default are told apart."""
    config = find_bundle(bundle_name(spatial_dims)) / "configs" / "train.json"
    return float(json.loads(config.read_text())["lr"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="+", default=list(ROWS))
    parser.add_argument("--methods", nargs="+", default=list(USUAL), choices=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--missing", action="store_true", help="only what no row is there of")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for name in arguments.rows:
        images, score, spacing = ROWS[name]()
        for method in arguments.methods:
            for seed in arguments.seeds:
                rows = (load("prior") or {"rows": []})["rows"]
                identity = {"image": name, "method": method, "seed": seed}
                if arguments.missing and any(identity == {k: row.get(k) for k in identity} for row in rows):
                    continue
                found, record = denoise_all(images, spacing, seed, METHODS[method])
                told = {key: record[key] for key in ("scheme", "steps", "spatial_dims", "seconds")}
                if record["steps"]:
                    identity["lr"] = rate_of(record["spatial_dims"])
                row = identity | score(found) | told
                rows = [other for other in rows if identity != {k: other.get(k) for k in identity}]
                save("prior", {"threads": arguments.threads, "rows": [*rows, row]})
                print(row, flush=True)


if __name__ == "__main__":
    main()
