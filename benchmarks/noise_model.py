# SPDX-License-Identifier: Apache-2.0
"""How exactly noise is measured by the prior: strength, strength by intensity, correlation; 20 seeds of each.

``python -m benchmarks.noise_model``. Crops and slices of Colin27 as in `benchmarks.check`, white noise of a standard
deviation between 4 and 20, noise whose strength rises with the intensity, and noise correlated with its neighbors along
one axis by 0.3. Errors are relative to the true value; that of the correlation is absolute.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
from scipy import ndimage

from benchmarks.check import anatomy
from benchmarks.common import save
from benchmarks.tasks import data_folder
from monai_n2v.apps.choose import Judge
from monai_n2v.apps.inspect import NoisyImage
from monai_n2v.noise.check import check_noise
from monai_n2v.noise.model import NoiseModel
from monai_n2v.transforms.files import as_meta_tensor

SEED = 5000


def measured(noisy: np.ndarray) -> tuple[NoiseModel, float, float]:
    """The model by the prior, mean and standard deviation of the image."""
    noisy = noisy.astype(np.float32)
    image = NoisyImage.of(as_meta_tensor(noisy[None], [1.0] * noisy.ndim))
    return Judge.of([image], noisy.ndim, "cpu").parts[0].noise, image.mean, image.std


def white(clean: np.ndarray, rng: np.random.Generator) -> dict[str, float]:
    """Relative error of the strength, ours and that of `check_noise`."""
    sigma = float(rng.uniform(4, 20))
    noisy = (clean + sigma * rng.normal(size=clean.shape)).astype(np.float32)
    model, _, std = measured(noisy)
    return {
        "strength": abs(model.sigma * std / sigma - 1),
        "strength by check": abs(check_noise(noisy[None]).noise.sigma / sigma - 1),
        "taken for white": float(model.is_white),
    }


def rising(clean: np.ndarray, rng: np.random.Generator) -> dict[str, float]:
    """Mean relative error of the strength between the 10th and the 90th percentile of the intensities."""
    base, slope = rng.uniform(2, 6), rng.uniform(0.05, 0.12)
    sigmas = base + slope * clean
    model, mean, std = measured(clean + sigmas * rng.normal(size=clean.shape))
    levels = np.linspace(*np.percentile(clean, (10, 90)), 9)
    found = std * np.interp((levels - mean) / std, model.levels, model.sigmas)
    return {"strength by intensity": float(np.mean(np.abs(found / (base + slope * levels) - 1)))}


def correlated(clean: np.ndarray, rng: np.random.Generator) -> dict[str, float]:
    """Errors of strength and of the correlation at lag 1, along the axis and, the largest, along the others."""
    axis, sigma = int(rng.integers(clean.ndim)), float(rng.uniform(4, 20))
    noise = ndimage.correlate1d(rng.normal(size=clean.shape), (1, 0.334), axis=axis, mode="wrap")
    noise *= sigma / noise.std()
    model, _, std = measured(clean + noise)
    others = np.delete(model.lags[:, 0], axis)
    return {
        "strength, correlated": abs(model.sigma * std / sigma - 1),
        "correlation": float(abs(model.lags[axis, 0] - 0.3)),
        "correlation along the others": float(np.abs(others).max()),
    }


KINDS: tuple[Callable[[np.ndarray, np.random.Generator], dict[str, float]], ...] = (white, rising, correlated)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    import nibabel

    image = nibabel.load(data_folder() / "clean_mri_3d" / "colin27_ch2_1mm.nii.gz")
    colin = np.asarray(image.dataobj, dtype=np.float64)
    rows = []
    for dims in (3, 2):
        errors: dict[str, list[float]] = {}
        for seed in range(arguments.seeds):
            for kind in KINDS:
                rng = np.random.default_rng([SEED, dims, seed])
                for name, error in kind(anatomy(colin, dims, rng), rng).items():
                    errors.setdefault(name, []).append(error)
        for name, values in errors.items():
            rows.append(
                {
                    "dims": dims,
                    "what": name,
                    "median": round(float(np.median(values)), 4),
                    "worst": round(max(values), 4),
                }
            )
            if name == "taken for white":
                rows[-1] = {"dims": dims, "what": name, "share": float(np.mean(values))}
            print(rows[-1], flush=True)
    save("noise_model", {"seeds": arguments.seeds, "rows": rows})


if __name__ == "__main__":
    main()
