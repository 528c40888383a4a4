# SPDX-License-Identifier: Apache-2.0
"""Figure 7: BSD68 over levels of noise, Noise2Void trained anew for each, against filters with their best parameter."""

from __future__ import annotations

from collections.abc import Collection

from benchmarks.paper.bsd68 import PRESET, Scale
from benchmarks.paper.classic import classic_rows, scored
from benchmarks.paper.images import bsd68, train400
from benchmarks.paper.schemes import SCHEMES, trained
from benchmarks.paper.store import record, rows_of

__all__ = ["METHODS", "SCALES", "SIGMAS", "run"]

METHODS = ("filters", "Noise2Void")
SIGMAS = (5, 10, 15, 25, 35, 50, 75)
SCALES = {
    "reduced": Scale(200, 8, True, {"features": 32, "batch_size": 16, "lr": 0.001}),
    "full": Scale(10_000, anneal=True),
}


def run(scale: str, seed: int = 0, methods: Collection[str] | None = None) -> None:
    """Train and score for every sigma; see `benchmarks.paper`.

    A network whose row is there already is not trained again: at full scale all of them take an hour.
    """
    plan = SCALES[scale]
    done = {(row["sigma"], row.get("steps"), row.get("seed")) for row in rows_of("sweep") if row["scale"] == scale}
    for sigma in SIGMAS:
        task = bsd68(sigma, plan.every)
        common = {"scale": scale, "sigma": sigma, "n_images": len(task.clean)}
        if methods is None or "filters" in methods:
            for row in classic_rows(task, sigma, h=(0.4, 0.7, 1.0)):
                record("sweep", **common, **row)
        for name in METHODS[1:]:
            if methods is not None and name not in methods:
                continue
            if scale == "full" and (sigma, plan.steps, seed) in done:
                continue
            noisy = train400(sigma).first
            with trained(
                SCHEMES[name], PRESET, noisy, None, plan.steps, seed, anneal=plan.anneal, **plan.settings
            ) as found:
                row = scored(task, name, found.predict(task.noisy), 0.0)
                row.pop("seconds_per_image")
                record("sweep", **common, **row, seed=seed, steps=found.record["steps"])
