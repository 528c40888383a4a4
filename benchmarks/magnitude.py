# SPDX-License-Identifier: Apache-2.0
"""Magnitude images: what taking off the bias gains, and what is left of it.

``python -m benchmarks.magnitude`` denoises the Colin27 crop of `benchmarks.paper.medical` with Rician noise, and with
that of four coils (told by ``coils=4``), by the prior alone (``--methods adapted`` trains, too), with and without
``magnitude="off"``. Biases are mean errors in standard deviations of the noise: in air, 4 voxels and more from the
head, and in tissue brighter than 60. ``--m4raw`` measures the bias in the brain of real images instead, against the
mean of the two other repeats, of which the bias is taken off. ``--detection`` counts which images
are taken for a magnitude, into ``results/magnitude_detection.json``. Rows gather in ``results/magnitude.json``.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from scipy import ndimage

import monai_n2v
from benchmarks.common import load, save
from benchmarks.m4raw import brain_of, m4raw
from benchmarks.paper.medical import RICIAN_CROP, by_clean
from benchmarks.prior import METHODS
from benchmarks.tasks import colin27_crop, data_folder
from monai_n2v.io.images import read_volume
from monai_n2v.noise import find_magnitude_noise
from monai_n2v.noise.magnitude import remove_magnitude_bias

CASES = ((4.0, 1), (8.0, 1), (12.0, 1), (8.0, 4))


def magnitude(clean: np.ndarray, sigma: float, n_coils: int, seed: int = 1) -> np.ndarray:
    """The root of the sum of squares over the coils, the signal in one of them."""
    parts = np.random.default_rng(seed).normal(0, sigma, (2 * n_coils, *clean.shape))
    parts[0] += clean
    return np.sqrt((parts**2).sum(0)).astype(np.float32)


def taken_for_magnitudes() -> list[dict[str, Any]]:
    """How many images `find_magnitude_noise` takes for a magnitude, by kind: all of M4Raw are, none of the others."""
    from PIL import Image

    folder, rng = data_folder(), np.random.default_rng(0)
    kinds: dict[str, list[np.ndarray]] = {"M4Raw, volumes and slices": []}
    for scan in sorted((folder / "m4raw").glob("*_rep*")):
        volume = np.stack([np.asarray(Image.open(path), dtype=np.float32) for path in sorted(scan.glob("*.png"))], -1)
        kinds["M4Raw, volumes and slices"] += [volume, volume[..., 9]]
    frames = [read_volume(path).data[0] for path in sorted((folder / "gowt1").glob("*.tif"))]
    starts = range(0, 769, 256)
    crops = [frame[y : y + 256, x : x + 256] for frame in frames for y in starts for x in starts]
    for offset in (0, 1, 5, 20, 100):
        kinds[f"GOWT1, frames and crops, plus {offset}"] = [image + offset for image in (*frames, *crops)]
    files = [*sorted((folder / "bsd68/BSD68").glob("*.png")), *sorted((folder / "bsd68/Train400").glob("*.png"))[::5]]
    photographs = [np.asarray(Image.open(path).convert("L"), dtype=np.float32) for path in files]
    kinds["photographs"] = photographs
    for gain, offset in ((4, 0), (4, 10), (20, 0)):
        name = f"photographs, photon counts, 1 per {gain}, plus {offset}"
        kinds[name] = [rng.poisson(image / gain + offset) for image in photographs]
    kinds["photographs, noise of 15, clipped"] = [
        np.clip(image + rng.normal(0, 15, image.shape), 0, 255) for image in photographs
    ]
    return [
        {
            "kind": kind,
            "images": len(images),
            "found": sum(find_magnitude_noise(image[None].astype(np.float32)) is not None for image in images),
        }
        for kind, images in kinds.items()
    ]


def of_repeats(contrast: str) -> dict[str, Any]:
    """Bias in the brain of M4Raw before and after, in standard deviations of the noise."""
    first, second, third = m4raw(contrast)
    brain = ndimage.binary_erosion(brain_of(first), iterations=3)
    noise = find_magnitude_noise(first[None].astype(np.float32))
    assert noise is not None
    mean = ((second + third) / 2).astype(np.float32)
    true = remove_magnitude_bias(mean, noise)
    found: dict[str, Any] = {"contrast": contrast, "signal": round(float(true[brain].mean()) / noise.sigma, 2)}
    for name, kept in (("before", "off"), ("after", "auto")):
        output = monai_n2v.denoise(first.astype(np.float32), scheme="prior", magnitude=kept, device="cpu")
        found[name] = round(float((output - true)[brain].mean()) / noise.sigma, 4)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", default=["prior"])
    parser.add_argument("--detection", action="store_true", help="which images are taken for a magnitude, nothing else")
    parser.add_argument("--m4raw", action="store_true", help="the bias in real images, nothing else")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.detection:
        save("magnitude_detection", {"rows": taken_for_magnitudes()})
        return
    stored = load("magnitude") or {"rows": []}
    if arguments.m4raw:
        save("magnitude", {**stored, "m4raw": [of_repeats(contrast) for contrast in ("T1", "T2")]})
        return
    clean = colin27_crop(RICIAN_CROP)[0]
    score, air = by_clean(clean), ~ndimage.binary_dilation(clean > 0, iterations=4)
    rows = {(r["sigma"], r["coils"], r["method"]): r for r in stored["rows"]}
    for sigma, n_coils in CASES:
        noisy = magnitude(clean, sigma, n_coils)
        for name in arguments.methods:
            for suffix, kept in ((", bias kept", "off"), ("", "auto")):
                started = time.perf_counter()
                coils = n_coils if n_coils > 1 and kept == "auto" else None
                how = {"magnitude": kept, "coils": coils, "device": "cpu"}
                output = monai_n2v.denoise(noisy, **how, **METHODS[name])
                error = (output - clean) / sigma
                row = {
                    "sigma": sigma,
                    "coils": n_coils,
                    "method": name + suffix,
                    **score(output),
                    "air_bias": round(float(error[air].mean()), 3),
                    "tissue_bias": round(float(error[clean > 60].mean()), 3),
                    "seconds": round(time.perf_counter() - started, 1),
                }
                rows[sigma, n_coils, name + suffix] = row
                save("magnitude", {**stored, "rows": list(rows.values())})
                print(row, flush=True)


if __name__ == "__main__":
    main()
