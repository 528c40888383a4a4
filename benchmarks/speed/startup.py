# SPDX-License-Identifier: Apache-2.0
"""How long `monai-n2v` takes before it works, and which imports that time goes to.

``python -m benchmarks.speed.startup``

Median of several processes each, files already in the system's cache.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import save
from benchmarks.speed.growth import make_cube

STATEMENTS = {
    "python": "pass",
    "import monai_n2v": "import monai_n2v",
    "import torch": "import torch",
    "import monai": "import monai",
    "import monai.bundle": "import monai.bundle",
    "what denoise needs": "import monai_n2v.apps.folder, monai_n2v.bundle.run, monai_n2v.apps.train",
}


def seconds(command: list[str], n_runs: int, code: int = 0) -> float:
    """Median wall-clock seconds of a command that ends with an exit code."""
    times = []
    for _ in range(n_runs + 1):
        started = time.perf_counter()
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        if found.returncode != code:
            raise SystemExit(f"{command} ended with {found.returncode}: {found.stderr}")
        times.append(time.perf_counter() - started)
    return round(float(np.median(times[1:])), 2)


def imports(statement: str, n_largest: int = 12) -> list[dict[str, Any]]:
    """Packages by the milliseconds of their own modules, the largest first."""
    command = [sys.executable, "-X", "importtime", "-c", statement]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    total: dict[str, float] = {}
    for own, name in re.findall(r"import time:\s+(\d+) \|\s+\d+ \| +(\S+)", text):
        package = name.partition(".")[0]
        total[package] = total.get(package, 0) + int(own) / 1e3
    largest = sorted(total, key=total.__getitem__, reverse=True)[:n_largest]
    return [{"package": package, "ms": round(total[package])} for package in largest]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    arguments = parser.parse_args()
    program = [sys.executable, "-m", "monai_n2v.cli"]
    with tempfile.TemporaryDirectory() as name:
        cube, model, out = (str(Path(name) / part) for part in ("cube.nii", "model", "out.nii"))
        make_cube(Path(cube), 64, 0)
        subprocess.run([*program, "train", "-i", cube, "-o", model, "--epochs", "1", "-q"], check=True)
        commands = {
            "monai-n2v --version": ["--version"],
            "monai-n2v --help": ["--help"],
            "monai-n2v denoise of a missing file": ["denoise", "-i", "missing.nii", "-o", out],
            "monai-n2v info of an image": ["info", cube],
            "monai-n2v check of 64x64x64": ["check", cube],
            "monai-n2v denoise of 64x64x64 with a ready network": [
                "denoise", "-i", cube, "-o", out, "--model", model, "--force", "-q",
            ],
        }  # fmt: skip
        found = {
            name: seconds([*program, *options], arguments.runs, code=2 if "missing" in name else 0)
            for name, options in commands.items()
        }
    statements = {
        name: seconds([sys.executable, "-c", statement], arguments.runs) for name, statement in STATEMENTS.items()
    }
    largest = imports(STATEMENTS["what denoise needs"])
    save("startup", {"commands": found, "statements": statements, "own_ms_by_package": largest})


if __name__ == "__main__":
    main()
