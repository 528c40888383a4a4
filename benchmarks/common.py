# SPDX-License-Identifier: Apache-2.0
"""What all benchmarks share: the data, the score, and results that tell where they come from."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def data_folder() -> Path:
    """Folder of the real images."""
    return Path(os.environ.get("MONAI_N2V_DATA", ROOT.parent / "shared" / "data"))


def colin27(crop: tuple[slice, ...], sigma: float = 12.0, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Crop of the Colin27 T1 volume, and the same with white Gaussian noise; float32, unclipped."""
    import nibabel

    image = nibabel.load(data_folder() / "clean_mri_3d" / "colin27_ch2_1mm.nii.gz")
    clean = np.asarray(image.dataobj, dtype=np.float32)[crop]
    noise = np.random.default_rng(seed).normal(0, sigma, clean.shape)
    return clean, (clean + noise).astype(np.float32)


def psnr(output: np.ndarray, clean: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB; the range is the clean image's maximum."""
    error = np.mean((output.astype(np.float64) - clean) ** 2)
    return float(10 * np.log10(float(clean.max()) ** 2 / error))


def machine() -> dict[str, Any]:
    """Kind of machine, versions, commit and command."""
    import torch

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    kind = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        kind = names[0] if names else kind
    return {
        "command": "python -m " + " ".join([Path(sys.argv[0]).stem.join(["benchmarks.", ""]), *sys.argv[1:]]),
        "commit": git("rev-parse", "--short", "HEAD")
        + ("+" if git("status", "--porcelain", "monai_n2v", "bundles", "configs") else ""),
        "cpu": kind,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": {name: version(name) for name in ("torch", "monai", "numpy")},
    }


def save(name: str, results: dict[str, Any]) -> None:
    """Write ``results/<name>.json``."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **results}, indent=2) + "\n")
    print(path)


def load(name: str) -> dict[str, Any] | None:
    """Read ``results/<name>.json`` where there is one."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None
