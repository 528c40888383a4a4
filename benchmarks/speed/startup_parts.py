# SPDX-License-Identifier: Apache-2.0
"""Where the time of ``monai-n2v denoise --model`` of one 64x64x64 volume goes, part by part.

``python -m benchmarks.speed.startup_parts``

Every process does what the command does, in its order, and tells the seconds of the processor and of the clock between
the parts. Those of the processor hardly depend on what else the machine does, so shares are of them. In turn MONAI is
loaded whole and as the command line loads it (`monai_n2v.cli.lean`); medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import save
from benchmarks.speed.growth import make_cube

PROCESS = """
import sys, time
seconds, last = {}, [0.0, time.perf_counter()]

def part(name):
    now = [time.process_time(), time.perf_counter()]
    seconds[name] = [a - b for a, b in zip(now, last)]
    last[:] = now

from pathlib import Path
cube, model, out, way = sys.argv[1:]
import json
import monai_n2v.cli.main
from monai_n2v.io.images import read_volume, save_volume
part("Python, and what reads files")
volume = read_volume(Path(cube))
part("reading")
from scipy import ndimage
import nibabel
import torch
part("torch, scipy, nibabel")
if way == "lean":
    from monai_n2v.cli.lean import load_lean_monai
    load_lean_monai(Path(model), {})
import monai.bundle
part("MONAI")
import monai_n2v.apps.folder
from monai_n2v.bundle.run import Denoiser
from monai_n2v.bundle.trained import resolve_model
part("this package")
denoiser = Denoiser(resolve_model(Path(model)))
part("workflow")
denoiser.network_alone()
part("weights")
result = denoiser(volume)
part("first prediction, with the filter")
denoiser(volume)
part("a further prediction")
save_volume(result, volume, Path(out))
part("writing")
print(json.dumps(seconds))
"""


def parts(cube: Path, model: Path, out: Path, way: str) -> dict[str, list[float]]:
    """Seconds of processor and clock by part, of one process."""
    command = [sys.executable, "-c", PROCESS, *map(str, (cube, model, out, way))]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds: dict[str, list[float]] = json.loads(found.stdout)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        cube, model, out = (Path(name) / part for part in ("cube.nii", "model", "out.nii"))
        make_cube(cube, 64, 0)
        train = ["train", "-i", str(cube), "-o", str(model), "--epochs", "1", "-q"]
        subprocess.run([sys.executable, "-m", "monai_n2v.cli", *train], check=True)
        found: dict[str, list[dict[str, list[float]]]] = {"whole": [], "lean": []}
        for _ in range(arguments.runs):
            for way, runs in found.items():
                out.unlink(missing_ok=True)
                runs.append(parts(cube, model, out, way))
    rows: list[dict[str, Any]] = []
    for name in found["lean"][0]:
        row: dict[str, Any] = {"part": name}
        for way, runs in found.items():
            for index, kind in enumerate(("processor", "clock")):
                row[f"{way}_{kind}_s"] = round(statistics.median(run[name][index] for run in runs), 3)
        rows.append(row)
        print(row, flush=True)
    save("startup_parts", {"runs": arguments.runs, "rows": rows})


if __name__ == "__main__":
    main()
