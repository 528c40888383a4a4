# SPDX-License-Identifier: Apache-2.0
"""PSNR against training time on a crop of Colin27 with white Gaussian noise, sigma 12, trained on itself.

``python -m benchmarks.colin27 filters`` scores the filters; ``python -m benchmarks.colin27 train --seconds 30 120``
adds rows for the bundles' defaults, ``--network``, ``--features`` and ``--dims`` for others. Rows gather in
``results/colin27.json``; each tells its command. Two threads.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import RESULTS, colin27, load, machine, psnr, save

CROP = (slice(50, 146), slice(60, 156), slice(50, 146))
SIGMA = 12.0


def filters() -> list[dict[str, Any]]:
    """Noisy, and the best of each filter over its parameter, chosen with the clean image at hand."""
    from scipy.ndimage import gaussian_filter
    from skimage.restoration import denoise_nl_means

    clean, noisy = colin27(CROP, SIGMA)
    rows = [{"method": "noisy", "psnr": psnr(noisy, clean)}]
    scores = {s: psnr(gaussian_filter(noisy, s), clean) for s in np.arange(0.4, 1.5, 0.1).round(1).tolist()}
    best = max(scores, key=scores.__getitem__)
    rows.append({"method": "Gaussian filter, best sigma", "sigma": best, "psnr": scores[best]})
    scores, seconds = {}, {}
    for patch in (3, 5):
        for h in (0.4, 0.6, 0.8, 1.0):
            started = time.perf_counter()
            options = {"patch_size": patch, "patch_distance": 5, "h": h * SIGMA, "sigma": SIGMA, "fast_mode": True}
            scores[patch, h] = psnr(denoise_nl_means(noisy, **options), clean)
            seconds[patch, h] = time.perf_counter() - started
    best = max(scores, key=scores.__getitem__)
    rows.append(
        {
            "method": "non-local means (scikit-image), best patch and h",
            "patch_size": best[0],
            "h_over_sigma": best[1],
            "psnr": scores[best],
            "seconds": round(seconds[best], 1),
        }
    )
    try:
        from dipy.denoise.nlmeans import nlmeans
    except ImportError:
        print("dipy is absent: its non-local means is left out", file=sys.stderr)
    else:
        started = time.perf_counter()
        output = nlmeans(noisy, sigma=SIGMA, patch_radius=1, block_radius=5, rician=False, num_threads=2)
        seconds_taken = round(time.perf_counter() - started, 1)
        rows.append({"method": "non-local means (dipy)", "psnr": psnr(output, clean), "seconds": seconds_taken})
    return rows


def train_row(arguments: argparse.Namespace, seconds: float | None, epochs: int | None) -> dict[str, Any]:
    """Train on the noisy crop for a budget and score the prediction."""
    import torch

    from monai_n2v.bundles import as_image, bundle_name, find_bundle, predict, train

    torch.set_num_threads(2)
    crop = tuple(slice(s.start, s.start + arguments.side) for s in CROP) if arguments.side else CROP
    clean, noisy = colin27(crop, SIGMA)
    bundle = find_bundle(bundle_name(arguments.dims))
    image = as_image(noisy[None], [1.0, 1.0, 1.0])
    # The command line's own overlay; another network replaces its part.
    overlays = [f"self_{arguments.dims}d.json", *(["fast.json"] if arguments.fast else [])]
    network: dict[str, Any] = {"features": arguments.features} if arguments.features else {}
    if arguments.network == "BasicUNet":
        network |= {
            "divisor": 16,
            "network_def": json.loads((bundle / "configs/train.json").read_text())["network_def"],
        }
    elif arguments.features:
        network = {"features": arguments.features[0]}
    overrides = json.loads(arguments.overrides)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        budget = {"max_time": seconds} if epochs is None else {"epochs": epochs}
        record = train(
            bundle, [image], Path(folder), [*overlays, "anneal.json", "in_memory_train.json"],
            **network, **overrides, **budget, seed=arguments.seed, progress=sys.stderr.isatty(),
        )  # fmt: skip
        trained = time.perf_counter()
        output = predict(
            bundle, image, Path(folder) / "models" / "model.pt", [*overlays, "in_memory_inference.json"], **network
        )
        done = time.perf_counter()
        free = predict(
            bundle,
            image,
            Path(folder) / "models" / "model.pt",
            [*overlays, "in_memory_inference.json"],
            **network,
            **{"postprocessing#keep_mean": False},
        )
    return {
        "method": "Noise2Void",
        "dims": arguments.dims,
        "network": arguments.network,
        "features": arguments.features or "default",
        "fast": arguments.fast,
        "overrides": overrides,
        "side": arguments.side or 96,
        "budget_seconds": seconds,
        **record,
        "seed": arguments.seed,
        "training_seconds": round(trained - started, 1),
        "prediction_seconds": round(done - trained, 1),
        "psnr_noisy": round(psnr(noisy, clean), 2),
        "psnr_without_kept_mean": round(psnr(free[0], clean), 2),
        "psnr": round(psnr(output[0], clean), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("filters", "train"))
    parser.add_argument("--seconds", type=float, nargs="*", default=[])
    parser.add_argument("--epochs", type=int, nargs="*", default=[])
    parser.add_argument("--dims", type=int, default=3)
    parser.add_argument("--network", choices=("N2VUNet", "BasicUNet"), default="N2VUNet")
    parser.add_argument("--features", type=int, nargs="*")
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--side", type=int, help="a smaller cube from the crop's corner")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overrides", default="{}", help="config entries as JSON")
    arguments = parser.parse_args()
    stored = load("colin27") or {}
    rows = stored.get("rows", [])
    if arguments.what == "filters":
        rows = [row for row in rows if row["method"] == "Noise2Void"] + filters()
        save("colin27", {"sigma": SIGMA, "noise_seed": 1, "rows": rows})
        return
    for seconds, epochs in [*((s, None) for s in arguments.seconds), *((None, n) for n in arguments.epochs)]:
        row = train_row(arguments, seconds, epochs)
        row["machine"] = machine()
        print(json.dumps({k: v for k, v in row.items() if k != "machine"}), flush=True)
        rows = (load("colin27") or {}).get("rows", [])
        RESULTS.mkdir(exist_ok=True)
        save("colin27", {"sigma": SIGMA, "noise_seed": 1, "rows": [*rows, row]})


if __name__ == "__main__":
    main()
