# SPDX-License-Identifier: Apache-2.0
"""Series of volumes: what denoising them together gains, beside dipy's Patch2Self and MP-PCA where dipy is installed.

``python -m benchmarks.series`` denoises the simulated series of `benchmarks.series_data` and scores them in tissue;
``--methods`` and ``--cases`` choose. Rows gather in ``results/series.json``.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import monai_n2v
from benchmarks.common import load, save
from benchmarks.series_data import Series, diffusion, functional, score
from monai_n2v.io.images import read_volume

CASES: dict[str, Callable[[], Series]] = {
    "diffusion, SNR 8": lambda: diffusion(8),
    "diffusion, SNR 20": lambda: diffusion(20),
    "diffusion, SNR 30": lambda: diffusion(30),
    "functional, tSNR 40": lambda: functional(40),
}
# Options of `monai_n2v.denoise`; None for those of dipy.
METHODS: dict[str, dict[str, Any] | None] = {
    "noisy": None,
    "apart, prior": {"scheme": "prior", "volumes": "apart"},
    "together": {},
    "Patch2Self": None,
    "MP-PCA": None,
}


def by_file(series: Series, options: dict[str, Any]) -> np.ndarray:
    """Denoise a NIfTI file, b-values and b-vectors beside it."""
    import nibabel

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "series.nii.gz"
        nibabel.save(nibabel.Nifti1Image(series.noisy, np.diag([2.0, 2.0, 2.0, 1.0])), source)
        if len(series.b_values):
            np.savetxt(source.with_name("series.bval"), series.b_values[None], fmt="%g")
            np.savetxt(source.with_name("series.bvec"), series.b_vectors.T, fmt="%.6f")
        how = {"magnitude": "off", "spatial_dims": 3, "device": "cpu", **options}
        target = monai_n2v.denoise(source, output=Path(folder) / "denoised.nii.gz", **how)
        return np.moveaxis(read_volume(target).data, 0, -1)


def by_dipy(series: Series, name: str) -> np.ndarray:
    """Denoise by dipy, as its examples do; values below zero are kept, which Gaussian noise has."""
    from dipy.denoise.localpca import mppca
    from dipy.denoise.patch2self import patch2self

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name == "MP-PCA":
            return np.asarray(mppca(series.noisy, patch_radius=2))
        # A series without diffusion is one shell.
        b_values = series.b_values if len(series.b_values) else np.full(series.noisy.shape[-1], 1000.0)
        options = {"shift_intensity": False, "clip_negative_vals": False, "verbose": False}
        return np.asarray(patch2self(series.noisy, b_values, model="ols", **options))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    has_dipy = importlib.util.find_spec("dipy") is not None
    rows = {(r["case"], r["method"]): r for r in (load("series") or {"rows": []})["rows"]}
    for case in arguments.cases:
        series = CASES[case]()
        for method in arguments.methods:
            options, started = METHODS[method], time.perf_counter()
            if method in ("Patch2Self", "MP-PCA") and not has_dipy:
                print(f"{method}: dipy is not installed")
                continue
            if method == "noisy":
                output = series.noisy
            else:
                output = by_dipy(series, method) if options is None else by_file(series, options)
            seconds = round(time.perf_counter() - started, 1)
            rows[case, method] = {"case": case, "method": method, **score(series, output), "seconds": seconds}
            save("series", {"rows": [rows[key] for key in _order(rows)]})
            print(rows[case, method], flush=True)


def _order(rows: dict[tuple[str, str], Any]) -> list[tuple[str, str]]:
    cases, methods = list(CASES), list(METHODS)
    return sorted(rows, key=lambda key: (cases.index(key[0]), methods.index(key[1])))


if __name__ == "__main__":
    main()
