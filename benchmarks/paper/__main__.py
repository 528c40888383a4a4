# SPDX-License-Identifier: Apache-2.0
"""Run an experiment of the paper, or list what is done, reduced, or waiting for a GPU.

``python -m benchmarks.paper --list``; ``python -m benchmarks.paper bsd68 --scale full --methods Noise2Void``
"""

from __future__ import annotations

import argparse
import importlib
import inspect
from pathlib import Path

import torch

from benchmarks.paper.store import rows_of, this_run
from benchmarks.tasks import data_folder

# What each experiment reproduces, and the scales it has.
EXPERIMENTS = {
    "bsd68": ("Figure 4: BSD68, sigma 25, all methods", ("reduced", "full")),
    "sweep": ("Figure 7: BSD68 over levels of noise", ("reduced", "full")),
    "simulated": ("Section 4.1: simulated epithelia, 2D and 3D", ("reduced", "full")),
    "gap": ("why Noise2Void lies below Noise2Noise there", ("reduced",)),
    "real": ("Figure 4, real microscopy; CT, cryo-ET: pictures, residuals, time", ("full",)),
    "failures": ("Figures 5 and 6: lost pixels, structured noise", ("reduced",)),
    "ct": ("aorta CT by every method: noise left, vessels kept", ("reduced",)),
    "medical": ("brain MR with simulated noise, M4Raw with repeats", ("reduced",)),
}


def listing() -> str:
    """What there is of every experiment, one line per scale."""
    lines = []
    for name, (title, scales) in EXPERIMENTS.items():
        for scale in scales:
            rows = [row for row in rows_of(name) if row["scale"] == scale]
            of_scale = {str(row.get("method", "")) for row in rows if "steps" in row}
            methods = importlib.import_module(f"benchmarks.paper.{name}").METHODS
            left = [m for m in methods if m != "filters" and not any(found.startswith(m) for found in of_scale)]
            if name in ("real", "failures"):  # rows of images, not of methods
                left = [] if rows else ["all"]
            waits = " for a GPU" if scale == "full" and "reduced" in scales else ""
            state = f"{len(rows)} rows" + (f", waiting{waits}: {'; '.join(left)}" if left else ", done")
            lines.append(f"{name:10} {scale:8} {title}: {state}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paper", description=__doc__)
    parser.add_argument("experiment", nargs="?", choices=EXPERIMENTS)
    parser.add_argument("--scale", choices=["reduced", "full"], help="default: the experiment's smallest")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--methods", nargs="+", help="trained ones by name, filters for all that learn nothing; default: all"
    )
    parser.add_argument(
        "--steps", type=int, help="of training, instead of the scale's; its rows stand beside the others"
    )
    parser.add_argument("--missing", action="store_true", help="leave out what is there already (medical)")
    parser.add_argument("--peer", type=Path, help="score what benchmarks.peers.careamics_n2v left in DIR (medical)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--list", action="store_true")
    arguments = parser.parse_args()
    if arguments.list or arguments.experiment is None:
        print(listing())
        return
    scales = EXPERIMENTS[arguments.experiment][1]
    if arguments.scale not in (None, *scales):
        parser.error(f"--scale must be {scales[0]} for {arguments.experiment}, got {arguments.scale}. Leave it out.")
    for name in ("threads", "steps"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            parser.error(f"--{name} must be at least 1, got {value}. Leave it out for the default.")
    if arguments.experiment not in ("simulated", "gap") and not data_folder().is_dir():
        parser.error(f"MONAI_N2V_DATA must name the folder of the real images, got {data_folder()}. Set it.")
    torch.set_num_threads(arguments.threads)
    this_run()
    module = importlib.import_module(f"benchmarks.paper.{arguments.experiment}")
    unknown = set(arguments.methods or ()) - set(module.METHODS)
    if unknown:
        known, given = ", ".join(module.METHODS), ", ".join(sorted(unknown))
        parser.error(f"--methods must be of {known}, got {given}. Quote names with spaces.")
    asked = {"steps": arguments.steps, "missing": arguments.missing or None, "peer": arguments.peer}
    more = {name: value for name, value in asked.items() if value is not None}
    for name, value in more.items():
        if name not in inspect.signature(module.run).parameters:
            parser.error(f"--{name} must be left out for {arguments.experiment}, got {value}.")
    module.run(arguments.scale or scales[0], arguments.seed, arguments.methods, **more)


if __name__ == "__main__":
    main()
