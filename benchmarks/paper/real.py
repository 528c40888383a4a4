# SPDX-License-Identifier: Apache-2.0
"""Real microscopy, cryo-ET and CT, through the command line: pictures, what was removed, and time against BM3D.

There is no clean image. What was removed must be white where the noise is, and must not follow the edges.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from benchmarks.paper.classic import collaborative, optional
from benchmarks.paper.pictures import panels
from benchmarks.paper.store import record
from benchmarks.tasks import data_folder

__all__ = ["METHODS", "SCANS", "run"]

# File, which part of it is shown, axes in the order x, y, z for volumes, and intensities that are black and white. The
# terms of the Cell Tracking Challenge do not let its images be shown here.
SCANS: dict[str, dict[str, Any]] = {
    "CTC GOWT1": {"file": "gowt1/t01.tif"},
    "cryo-ET": {"file": "cryoet/13pf_MT.tif", "show": (slice(0, 94), slice(0, 206), 18), "window": (40, 215)},
    "aorta CT": {
        "file": "ct_3d/totalseg_aorta_ct_1p5mm_noisy.nii.gz",
        "show": (slice(0, 120), slice(0, 126), 82),
        "window": (-300, 700),
    },
}
METHODS = tuple(SCANS)


def run(scale: str, seed: int = 0, methods: Collection[str] | None = None) -> None:
    """Denoise every scan; see `benchmarks.paper`."""
    for name, scan in SCANS.items():
        if methods is not None and name not in methods:
            continue
        source = data_folder() / scan["file"]
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / f"denoised{''.join(source.suffixes)}"
            program = [sys.executable, "-m", "monai_n2v.cli", "denoise", "-i", str(source), "-o", str(output)]
            options = ["--seed", str(seed), "--json", "--device", "cpu"]
            threads = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
            done = subprocess.run([*program, *options], capture_output=True, text=True, check=True, env=threads)
            told = json.loads(done.stdout.splitlines()[-1])
            noisy, denoised = read(source), read(output)
        removed = noisy - denoised
        row = {
            "scan": name,
            "shape": list(noisy.shape),
            "seed": seed,
            "steps": told["steps"],
            "total_seconds": told["total_seconds"],
            "warnings": len(told["warnings"]),
            "prediction_seconds": told["prediction_seconds"],
            "removed_std": round(float(removed.std()), 2),
            "neighbors_correlate": neighbors(removed),
            "with_edges": round(edges(removed, denoised), 3),
        }
        if noisy.ndim == 2:
            row |= collaborative_seconds(noisy, removed)
        record("real", scale=scale, **row)
        if "show" not in scan:
            continue
        part = scan["show"]
        shown = {"noisy": noisy[part], "denoised": denoised[part], "removed": removed[part]}
        if name == "aorta CT":
            shown = {title: np.rot90(image) for title, image in shown.items()}
        panels(f"real_{name.split()[-1].lower()}", shown, scan["window"], 3 * float(removed.std()))


def read(path: Path) -> np.ndarray:
    """Voxels as the package reads them."""
    from monai_n2v.io.images import read_volume

    return np.asarray(read_volume(path).data, dtype=np.float32).squeeze()


def neighbors(removed: np.ndarray) -> list[float]:
    """Correlation of what was removed between neighbors, per axis: 0 for white noise."""
    centered = removed - removed.mean()
    power = float((centered**2).mean())
    found = []
    for axis, size in enumerate(removed.shape):
        before, after = (np.take(centered, range(first, first + size - 1), axis) for first in (0, 1))
        found.append(round(float((before * after).mean()) / power, 3))
    return found


def edges(removed: np.ndarray, denoised: np.ndarray) -> float:
    """Correlation of what was removed with the Laplacian of the result: blurred edges would be in it."""
    curvature = ndimage.gaussian_laplace(denoised, 1.0)
    return float(np.corrcoef(removed.ravel(), curvature.ravel())[0, 1])


def collaborative_seconds(noisy: np.ndarray, removed: np.ndarray) -> dict[str, Any]:
    """How long BM3D takes for the image, where it is installed."""
    with optional("bm3d"):
        denoise = collaborative(float(removed.std()), 2)
        started = time.perf_counter()
        denoise(noisy)
        return {"bm3d_seconds": round(time.perf_counter() - started, 1)}
    return {}
