# SPDX-License-Identifier: Apache-2.0
"""Simulated microscopy, Sec. 4.1: membranes of epithelia in 2D and 3D, Poisson then Gaussian noise."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import replace

import numpy as np

from benchmarks.paper.bsd68 import Scale
from benchmarks.paper.classic import classic_rows, scored
from benchmarks.paper.images import epithelia
from benchmarks.paper.schemes import SCHEMES, trained
from benchmarks.paper.store import record
from benchmarks.tasks import Task

__all__ = ["METHODS", "SCALES", "run"]

METHODS = ("filters", "traditional", "Noise2Noise", "Noise2Void", "Noise2Void, 5 % hidden")
PRESET = ("paper/epithelia.json",)
SCALES = {
    "reduced": {
        2: Scale(500, 1, True, {"batch_size": 8, "lr": 0.001}),
        3: Scale(300, 1, True, {"features": 8, "batch_size": 2, "patch_size": [32, 32, 32], "lr": 0.001}),
    },
    "full": {2: Scale(10_000, anneal=True), 3: Scale(10_000, anneal=True)},
}
# Shape of an image, how many to train on, how many to test.
IMAGES = {2: ((256, 256), 32, 8), 3: ((64, 96, 96), 4, 1)}


def run(scale: str, seed: int = 0, methods: Collection[str] | None = None, steps: int | None = None) -> None:
    """Train and score in 2D and 3D; see `benchmarks.paper`."""
    for dims, plan in SCALES[scale].items():
        plan = replace(plan, steps=steps or plan.steps)
        shape, n_train, n_test = IMAGES[dims]
        learned, unseen = epithelia(n_train, shape, seed=0), epithelia(n_test, shape, seed=1)
        peak = float(max(image.max() for image in unseen.clean))
        task = Task("epithelia", unseen.first, unseen.clean, 0.0, peak)
        sigma = float(np.std(np.stack(unseen.first) - np.stack(unseen.clean)))  # BM3D knows of Gaussian noise alone
        common = {"scale": scale, "axes": f"{dims}D"}
        if methods is None or "filters" in methods:
            for row in classic_rows(task, sigma):
                record("simulated", **common, **row)
        for name in METHODS[1:]:
            if methods is not None and name not in methods:
                continue
            targets = learned.targets(SCHEMES[name].targets)
            started = time.perf_counter()
            with trained(
                SCHEMES[name], PRESET, learned.first, targets, plan.steps, seed, anneal=plan.anneal, **plan.settings
            ) as found:
                seconds = round(time.perf_counter() - started, 1)
                started = time.perf_counter()
                outputs = found.predict(task.noisy)
                row = scored(task, name, outputs, time.perf_counter() - started)
                training = {"seed": seed, "steps": found.record["steps"], "training_seconds": seconds}
                record("simulated", **common, **row, **training)
