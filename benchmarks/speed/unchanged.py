# SPDX-License-Identifier: Apache-2.0
"""Whether what makes a step faster leaves what is learned unchanged: PSNR after as many steps, with and without.

``python -m benchmarks.speed.unchanged`` trains the command line's recipe on both tasks for a few hundred steps, as it
is and with one speed-up taken away. Seeds tell what difference means nothing.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch

from benchmarks.common import save
from benchmarks.recipes import Recipe, annealed, run
from benchmarks.tasks import TASKS


def variants(dims: int) -> dict[str, Recipe]:
    """The command line's recipe, and without one speed-up each."""
    return {
        "as it is": annealed(dims),
        "Adam not fused": annealed(dims, **{"optimizer#fused": False}),
        "float32": annealed(dims, amp=False),
        "contiguous, not channels_last": annealed(dims, network="$@network_def.to(@device)"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results: dict[str, Any] = {"steps": arguments.steps, "seeds": arguments.seeds, "psnr": {}}
    for name in ("set12", "colin27"):
        task = TASKS[name]()
        found = results["psnr"][name] = {
            variant: [run(recipe, task, arguments.steps, seed)["psnr"] for seed in arguments.seeds]
            for variant, recipe in variants(task.spatial_dims).items()
        }
        print(json.dumps({name: found}), flush=True)
    save("unchanged", results)


if __name__ == "__main__":
    main()
