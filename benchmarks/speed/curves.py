# SPDX-License-Identifier: Apache-2.0
"""The curves that defaults are chosen by: PSNR after a fixed time, one setting changed at a time.

1. ``python -m benchmarks.speed.curves time`` measures a training step of every variant, in turns, on two threads of an
   otherwise idle machine.
2. ``python -m benchmarks.speed.curves run --budget 30 --seeds 0 1 2`` trains every variant for as many steps as fit
   into 30 s by that time. So the scores depend neither on what else the machine does nor on ``--threads``; several
   processes may share the work (``--share 0/2``).

2D: the twelve images of Set12, sigma 25. 3D: a crop of Colin27, sigma 12. Rows gather in ``results/curves.json``.
"""

from __future__ import annotations

import argparse
import fcntl
import functools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, load, machine, save
from benchmarks.recipes import N2V_ALONE, Recipe, annealed, run, step_seconds
from benchmarks.tasks import TASKS

TASK_OF = {2: "set12", 3: "colin27"}


def network(spatial_dims: int, **options: Any) -> dict[str, Any]:
    """N2VUNet with other options, as a config has it."""
    definition = {
        "_target_": "monai_n2v.networks.N2VUNet",
        "spatial_dims": spatial_dims,
        "in_channels": "@in_channels",
        "out_channels": "@in_channels",
        "features": "@features",
        "norm": None,
    }
    return {"network_def": {**definition, **options}}


def bundle(spatial_dims: int, anneal: bool = True, **settings: Any) -> Recipe:
    """The bundle's own recipe with its BasicUNet; annealed where not told otherwise."""
    return Recipe(spatial_dims, (), settings, anneal)


def variants(dims: int) -> dict[str, dict[str, Recipe]]:
    """Recipes by group and name; each differs from the command line's in what the name says."""
    base = functools.partial(annealed, dims)
    groups: dict[str, dict[str, Recipe]] = {"default": {"default": base()}}
    groups["fill"] = {
        f"{fill}, radius {radius}": base(fill=fill, radius=radius)
        for fill, radius in (("uniform", 2), ("uniform", 5), ("mean", 1), ("median", 1))
    }
    groups["mask_fraction"] = {str(q): base(mask_fraction=q) for q in (0.008, 0.02, 0.1, 0.2)}
    groups["lr"] = {str(lr): base(lr=lr) for lr in (0.001, 0.002, 0.005)}
    batches = {2: ((8, 64), (32, 64), (4, 128), (28, 48)), 3: ((2, 32), (8, 32), (1, 48), (10, 24))}
    groups["batch"] = {
        "x".join(map(str, (n, *[side] * dims))): base(batch_size=n, patch_size=[side] * dims)
        for n, side in batches[dims]
    }
    groups["schedule"] = {
        **{f"decay over {part:g}": base(decay_fraction=part) for part in (0.25, 0.75, 0.99)},
        "constant, ema 0.99": base(decay_fraction=0.01, ema=0.99),
    }
    width = {2: 32, 3: 16}[dims]
    groups["network"] = {
        f"features {width // 2}": base(features=width // 2),
        f"features {width * 2}": base(features=width * 2),
        "depth 1": base(**network(dims, depth=1)),
        "depth 3": base(divisor=8, **network(dims, depth=3)),
        "batch norm": base(**network(dims, norm="batch")),
    }
    groups["grad_clip"] = {str(norm): base(grad_clip=norm) for norm in (0.03, 0.3)}
    groups["grad_clip"]["none, lr 0.001"] = base(grad_clip=None, lr=0.001)
    old = {"lr": 0.0004, "mask_fraction": 0.015625, "radius": 5}
    groups["bundle"] = {
        "default": bundle(dims, False),
        "annealed": bundle(dims, ema=0),
        "annealed, settings of the paper": bundle(dims, ema=0, **old),
    }
    return groups


def defaults(dims: int) -> dict[str, Any]:
    """The command line's settings that are numbers."""
    entries = json.loads(Path(N2V_ALONE[dims]).read_text())
    return {key: entries[key] for key in ("mask_fraction", "lr")}


def name_of(dims: int, group: str, name: str) -> str:
    """Key of a variant among the step times."""
    return f"{dims}D | {group} | {name}"


@contextmanager
def stored() -> Iterator[dict[str, Any]]:
    """The results, locked while they are changed, since several processes may share the work."""
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / ".curves.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        results = {k: v for k, v in (load("curves") or {"step_ms": {}, "rows": []}).items() if k != "machine"}
        yield results
        save("curves", results)


def measure_steps(dims: list[int], groups: list[str]) -> None:
    """Time a step of all variants of one number of axes at a time."""
    import torch

    torch.set_num_threads(2)
    for n in dims:
        recipes = {
            name_of(n, group, name): recipe
            for group, members in variants(n).items()
            if group in groups
            for name, recipe in members.items()
        }
        seconds = step_seconds(recipes)
        with stored() as results:
            results["step_ms"] |= {name: round(1e3 * value, 2) for name, value in seconds.items()}
            results["step_machine"] = machine()
            results["defaults"] = results.get("defaults", {}) | {f"{n}D": defaults(n)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("time", "run"))
    parser.add_argument("--dims", type=int, nargs="*", default=[3, 2])
    parser.add_argument("--groups", nargs="*", default=list(variants(3)))
    parser.add_argument("--names", nargs="*", help="only these variants")
    parser.add_argument("--task", choices=TASKS, help="another task of the same number of axes")
    parser.add_argument("--budget", type=float, default=30)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--share", default="0/1", help="part of the work, such as 0/2 and 1/2 for two processes")
    arguments = parser.parse_args()
    if arguments.what == "time":
        measure_steps(arguments.dims, arguments.groups)
        return
    import torch

    torch.set_num_threads(arguments.threads)
    step_ms = (load("curves") or {})["step_ms"]
    jobs = [
        (seed, dims, group, name, recipe)
        for seed in arguments.seeds
        for dims in arguments.dims
        for group, members in variants(dims).items()
        if group in arguments.groups
        for name, recipe in members.items()
        if not arguments.names or name in arguments.names
    ]
    part, n_parts = map(int, arguments.share.split("/"))
    tasks = {dims: TASKS[arguments.task or TASK_OF[dims]]() for dims in arguments.dims}
    for seed, dims, group, name, recipe in jobs[part::n_parts]:
        steps = round(1e3 * arguments.budget / step_ms[name_of(dims, group, name)])
        try:
            row = run(recipe, tasks[dims], steps, seed)
        except FloatingPointError as error:
            row = {"steps": steps, "psnr": None, "diverged": str(error)}
        # The wall clock of a shared machine says nothing; a step's time is measured apart.
        row = {k: v for k, v in row.items() if not k.endswith("_seconds")}
        key = {"task": tasks[dims].name, "dims": dims, "group": group, "name": name, "budget": arguments.budget}
        row = {**key, "seed": seed, **row}
        print(json.dumps(row), flush=True)
        with stored() as results:
            key |= {"seed": seed}
            results["rows"] = [r for r in results["rows"] if any(r[k] != v for k, v in key.items())]
            results["rows"].append({**row, "commit": machine()["commit"]})


if __name__ == "__main__":
    main()
