# SPDX-License-Identifier: Apache-2.0
"""Pretrain a prior on a GPU, in pieces of a few minutes that resume: ``python -m benchmarks.gpu.pretrain 3``.

It runs the bundle's own command (`docs/explanation/prior.md`) with a larger batch, and stops it when the time is up.
Checkpoints gather in ``--folder``; take it along to the next piece. When all epochs are done, the bundle's
``models/prior.pt`` is written. Further options are keys of the bundle, such as ``--features [16,32,64,64,64,16]``.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from pathlib import Path

from benchmarks.common import ROOT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dims", type=int, choices=(2, 3))
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--epochs", type=int, default=600)
    parser.add_argument("--folder", type=Path, default=ROOT / "prior_out")
    arguments, keys = parser.parse_known_args()
    bundle = f"bundles/n2v_denoise_{arguments.dims}d"
    configs = [f"{bundle}/configs/train.json", "configs/anneal.json", "configs/pretrain.json"]
    patches = {2: ["[96,96]", "32"], 3: ["[48,48,48]", "16"]}[arguments.dims]
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(configs), "--bundle_root", bundle]
    command += ["--output_dir", str(arguments.folder / f"{arguments.dims}d"), "--epochs", str(arguments.epochs)]
    command += ["--patch_size", patches[0], "--batch_size", patches[1], "--progress", "False", *keys]
    running = subprocess.Popen(command, cwd=ROOT)
    try:
        running.wait(60 * arguments.minutes)
    except subprocess.TimeoutExpired:
        running.send_signal(signal.SIGINT)
        running.wait()
    found = sorted((arguments.folder / f"{arguments.dims}d" / "checkpoints").glob("*.pt"))
    print("checkpoints:", [path.name for path in found])


if __name__ == "__main__":
    main()
