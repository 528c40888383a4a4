# SPDX-License-Identifier: Apache-2.0
"""Why Noise2Void lies below Noise2Noise on simulated epithelia: blindness, few voxels learned from, or the fill?

Each variant differs in one thing. Plain: the image as it is. Blind: every pixel predicted while it is hidden behind its
fill, as in training.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Collection, Hashable, Mapping
from typing import Any

import numpy as np
import torch

from benchmarks.paper.images import epithelia
from benchmarks.paper.schemes import SCHEMES, Scheme, trained
from benchmarks.paper.simulated import PRESET, SCALES
from benchmarks.paper.store import record
from benchmarks.recipes import N2V_ALONE
from benchmarks.tasks import Task
from monai_n2v.transforms.pairing import RandN2VMaskd

__all__ = ["METHODS", "CountFewd", "run"]


class CountFewd(RandN2VMaskd):
    """Leave the image as it is and let the loss count the voxels that would have been hidden."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the mask; returns a new dictionary."""
        return {**data, "mask": super().__call__({"image": data["image"]})["mask"]}


_FEW = {"train#pairing": {"_target_": "benchmarks.paper.gap.CountFewd", "keys": "image", "batched": True}}
VARIANTS: dict[str, Scheme] = {
    "Noise2Noise": SCHEMES["Noise2Noise"],
    "Noise2Noise, 1.6 % counted": Scheme(SCHEMES["Noise2Noise"].pairing, targets="second", settings=_FEW),
    "Noise2Void": Scheme(),
    "Noise2Void, 5 %, radius 1": Scheme(settings={"mask_fraction": 0.05, "radius": 1}),
    "Noise2Void, 5 %, radius 1, own recipe": Scheme(network=(N2V_ALONE[2],), own_preset=True, settings={"halo": 24}),
}
METHODS = tuple(VARIANTS)
_PHASES = 4


def filled(image: np.ndarray, fill: str, radius: int, rng: np.random.Generator) -> np.ndarray:
    """Every pixel's fill from its window without itself; the image is continued by reflection."""
    padded = np.pad(image, radius, mode="reflect")
    offsets = [offset for offset in itertools.product(range(2 * radius + 1), repeat=2) if offset != (radius, radius)]
    window = np.stack([padded[i : i + image.shape[0], j : j + image.shape[1]] for i, j in offsets])
    if fill == "uniform":
        chosen = rng.integers(0, len(window), image.shape)
        return np.take_along_axis(window, chosen[None], 0)[0]
    return np.median(window, axis=0).astype(np.float32)


def blind(network: torch.nn.Module, image: np.ndarray, fill: str, radius: int) -> np.ndarray:
    """Predict every pixel while it is hidden, a grid of pixels at a time."""
    values = filled(image, fill, radius, np.random.default_rng(0))
    output = np.empty_like(image)
    for phase in itertools.product(range(_PHASES), repeat=2):
        grid = tuple(slice(start, None, _PHASES) for start in phase)
        hidden = image.copy()
        hidden[grid] = values[grid]
        output[grid] = predict(network, hidden)[grid]
    return output


def predict(network: torch.nn.Module, image: np.ndarray) -> np.ndarray:
    """Predict one standardized image."""
    with torch.inference_mode():
        output: np.ndarray = network(torch.from_numpy(image)[None, None])[0, 0].numpy()
    return output


def run(scale: str, seed: int = 0, methods: Collection[str] | None = None, steps: int | None = None) -> None:
    """Train and score every variant; see `benchmarks.paper`."""
    from monai_n2v.networks import N2VUNet

    plan = SCALES[scale][2]
    learned, unseen = epithelia(32, (256, 256), seed=0), epithelia(8, (256, 256), seed=1)
    peak = float(max(image.max() for image in unseen.clean))
    task = Task("epithelia", unseen.first, unseen.clean, 0.0, peak)
    for name, scheme in VARIANTS.items():
        if methods is not None and name not in methods:
            continue
        started = time.perf_counter()
        targets = learned.targets(scheme.targets)
        n_steps = steps or plan.steps
        with trained(
            scheme, PRESET, learned.first, targets, n_steps, seed, anneal=plan.anneal, **plan.settings
        ) as found:
            seconds = time.perf_counter() - started
            row = {"psnr": round(task.score(found.predict(task.noisy)), 3), "training_seconds": round(seconds, 1)}
            if scheme.targets is None and not scheme.own_preset:
                network = N2VUNet(2, features=plan.settings.get("features", 32), kernel_size=5).eval()
                network.load_state_dict(torch.load(found.weights))
                fill, radius = (scheme.settings.get(*pair) for pair in (("fill", "uniform"), ("radius", 5)))
                hidden = []
                for image in task.noisy:
                    mean, std = image.mean(), image.std()
                    standard = ((image - mean) / std).astype(np.float32)
                    hidden.append(blind(network, standard, fill, radius) * std + mean)
                row["psnr_blind"] = round(task.score(hidden), 3)
            record("gap", scale=scale, method=name, seed=seed, steps=found.record["steps"], **row)
