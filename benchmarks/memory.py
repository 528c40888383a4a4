# SPDX-License-Identifier: Apache-2.0
"""Peak memory of ``monai-n2v denoise`` with a ready network on a CT of 512x512x400 voxels, int16.

``python -m benchmarks.memory`` makes the volume (shapes with noise, seeded), trains the command line's network for a
moment on a corner of it, and denoises all of it in a process of its own, whose peak it reports.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.common import save


def make_volume(path: Path, shape: tuple[int, ...]) -> None:
    """A body of soft tissue in air, in HU, with white noise of 30 HU."""
    import nibabel

    rng = np.random.default_rng(0)
    x, y = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape[:2])
    body = np.where(x[:, None] ** 2 + (1.4 * y) ** 2 < 0.7, 40.0, -1000.0)
    data = np.empty(shape, dtype=np.int16)
    for k in range(shape[2]):
        data[:, :, k] = np.rint(body + rng.normal(0, 30, shape[:2]))
    image = nibabel.Nifti1Image(data, np.diag([0.8, 0.8, 1.0, 1.0]))
    nibabel.save(image, path)


def main() -> None:
    import nibabel

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", type=int, nargs=3, default=[512, 512, 400])
    arguments = parser.parse_args()
    command = [sys.executable, "-m", "monai_n2v.cli"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_volume(folder / "ct.nii", tuple(arguments.shape))
        corner = nibabel.load(folder / "ct.nii").slicer[200:264, 200:264, :64]
        nibabel.save(corner, folder / "corner.nii")
        options = ["-i", folder / "corner.nii", "-o", folder / "model", "--epochs", "2", "-q"]
        subprocess.run([*command, "train", *map(str, options)], check=True)
        trained = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        started = time.perf_counter()
        options = ["-i", folder / "ct.nii", "-o", folder / "out.nii", "--model", folder / "model", "-q"]
        subprocess.run([*command, "denoise", *map(str, options)], check=True)
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    volume = 4 * int(np.prod(arguments.shape))
    save(
        "memory",
        {
            "shape": arguments.shape,
            "float32_volume_gib": round(volume / 2**30, 3),
            "peak_gib": round(peak / 2**30, 3),
            "peak_of_training_a_corner_gib": round(trained / 2**30, 3),
            "limit_gib": round(4 * volume / 2**30 + 1, 3),
            "seconds": round(seconds, 1),
        },
    )


if __name__ == "__main__":
    main()
