# SPDX-License-Identifier: Apache-2.0
"""Time to quality: PSNR of the command line's recipe within seconds of training, against CAREamics' in 300 s.

1. In CAREamics' own environment (``benchmarks/peers/README.md``), on an otherwise idle machine:
   ``python -m benchmarks.peers.careamics_n2v set12 --seconds 300 --output FILE``, and the same for ``colin27``.
2. ``python -m benchmarks.speed.quality --peers FILE FILE`` trains ours for budgets of wall-clock seconds, each a run of
   its own, since the learning rate is annealed within it, and tells the smallest that reaches the peer's score.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.common import load, machine, save
from benchmarks.recipes import annealed, run
from benchmarks.tasks import TASKS


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="*", default=["set12", "colin27"], choices=TASKS)
    parser.add_argument("--budgets", type=float, nargs="*", default=[5, 10, 20, 30, 60, 100])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--peers", type=Path, nargs="*", default=[], help="results of benchmarks.peers.careamics_n2v")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    results = {k: v for k, v in (load("quality") or {"peers": [], "rows": []}).items() if k != "machine"}
    for path in arguments.peers:
        peer: dict[str, Any] = json.loads(path.read_text())
        same = ("task", "n2v2")
        results["peers"] = [row for row in results["peers"] if any(row[key] != peer[key] for key in same)] + [peer]
    for name in arguments.tasks:
        task = TASKS[name]()
        for budget in arguments.budgets:
            for seed in arguments.seeds:
                row = run(annealed(task.spatial_dims), task, 0, seed, max_time=budget)
                key = {"task": task.name, "budget_seconds": budget, "seed": seed}
                row = {**key, "psnr_noisy": round(task.score(task.noisy), 3), **row, "commit": machine()["commit"]}
                print(json.dumps(row), flush=True)
                results["rows"] = [r for r in results["rows"] if any(r[k] != v for k, v in key.items())] + [row]
                save("quality", results)
    save("quality", results)


if __name__ == "__main__":
    main()
