# SPDX-License-Identifier: Apache-2.0
"""PSNR against training time on a crop of Colin27 with white Gaussian noise, sigma 12, trained on itself.

1. ``python -m benchmarks.colin27 filters`` scores the filters.
2. ``python -m benchmarks.colin27 speed`` measures the time of a training step of every candidate network, in turns, on
   two threads of an otherwise idle machine.
3. ``python -m benchmarks.colin27 train --budgets 30 120`` turns seconds into epochs by that time and trains for them,
   so that the scores do not depend on what else the machine does, nor on ``--threads``; ``--seconds`` watches the
   clock instead. Networks other than the command line's default are chosen with ``--dims``, ``--network`` and
   ``--features``.

Rows gather in ``results/colin27.json``; each tells its command.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import load, machine, save
from benchmarks.tasks import colin27_crop, psnr

# Narrow and wide, the first of each dimension being the command line's default.
CANDIDATES: list[tuple[int, str, list[int]]] = [
    (3, "N2VUNet", [16]),
    (3, "N2VUNet", [32]),
    (3, "BasicUNet", [16, 16, 32, 64, 128, 16]),
    (3, "BasicUNet", [32, 32, 64, 128, 256, 32]),
    (2, "N2VUNet", [32]),
    (2, "N2VUNet", [64]),
    (2, "BasicUNet", [16, 16, 32, 64, 128, 16]),
    (2, "BasicUNet", [32, 32, 64, 128, 256, 32]),
]
CROP = (slice(50, 146), slice(60, 156), slice(50, 146))
SIGMA = 12.0


def filters() -> list[dict[str, Any]]:
    """Noisy, and the best of each filter over its parameter, chosen with the clean image at hand."""
    from scipy.ndimage import gaussian_filter
    from skimage.restoration import denoise_nl_means

    clean, noisy = colin27_crop(CROP, SIGMA)
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


def label(dims: int, network: str, features: Sequence[int]) -> str:
    """Name of a candidate."""
    return f"{dims}D {network} {' '.join(map(str, features))}"


def overlays_of(dims: int) -> list[str]:
    """The command line's own overlay."""
    return [f"self_{dims}d.json"]


def overrides_of(dims: int, network: str, features: Sequence[int]) -> dict[str, Any]:
    """What puts a candidate in the place of the command line's network."""
    from monai_n2v.bundles import bundle_name, find_bundle

    if network == "N2VUNet":
        return {"features": features[0]}
    train_config = find_bundle(bundle_name(dims)) / "configs" / "train.json"
    return {
        "features": list(features),
        "divisor": 16,
        "network_def": json.loads(train_config.read_text())["network_def"],
    }


def speed(n_rounds: int = 16) -> dict[str, float]:
    """Median milliseconds of a training step of every candidate; the candidates take turns."""
    import torch

    from benchmarks.speed.overhead import interleaved, steps

    torch.set_num_threads(2)
    both = [steps(c[0], overlays_of(c[0]), **overrides_of(*c)) for c in CANDIDATES]
    seconds = interleaved([bundle_step for bundle_step, *_ in both], n_rounds)
    return {label(*c): round(1e3 * s, 1) for c, s in zip(CANDIDATES, np.median(seconds, axis=0).tolist())}


def train_row(arguments: argparse.Namespace, seconds: float | None, epochs: int | None) -> dict[str, Any]:
    """Train on the noisy crop for a budget and score the prediction."""
    import torch

    from monai_n2v.bundles import as_image, bundle_name, find_bundle, predict, train

    torch.set_num_threads(arguments.threads)
    crop = tuple(slice(s.start, s.start + arguments.side) for s in CROP) if arguments.side else CROP
    clean, noisy = colin27_crop(crop, SIGMA)
    bundle = find_bundle(bundle_name(arguments.dims))
    image = as_image(noisy[None], [1.0, 1.0, 1.0])
    overlays = [*overlays_of(arguments.dims), *(["fast.json"] if arguments.fast else [])]
    network = overrides_of(arguments.dims, arguments.network, arguments.features) if arguments.features else {}
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
        **{key: value for key, value in record.items() if key != "losses"},
        "seed": arguments.seed,
        "training_seconds": round(trained - started, 1),
        "prediction_seconds": round(done - trained, 1),
        "psnr_noisy": round(psnr(noisy, clean), 2),
        "psnr_without_kept_mean": round(psnr(free[0], clean), 2),
        "psnr": round(psnr(output[0], clean), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("filters", "speed", "train"))
    parser.add_argument("--seconds", type=float, nargs="*", default=[])
    parser.add_argument("--budgets", type=float, nargs="*", default=[])
    parser.add_argument("--epochs", type=int, nargs="*", default=[])
    parser.add_argument("--dims", type=int, default=3)
    parser.add_argument("--network", choices=("N2VUNet", "BasicUNet"), default="N2VUNet")
    parser.add_argument("--features", type=int, nargs="*")
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--side", type=int, help="a smaller cube from the crop's corner")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--threads", type=int, default=2, help="does not change what is learned, only how long it takes"
    )
    parser.add_argument("--overrides", default="{}", help="config entries as JSON")
    arguments = parser.parse_args()
    if arguments.what == "filters":
        results = stored()
        results["rows"] = [row for row in results["rows"] if row["method"] == "Noise2Void"] + filters()
        save("colin27", results)
        return
    if arguments.what == "speed":
        save("colin27", {**stored(), "step_ms": {"machine": machine(), **speed()}})
        return
    per_epoch = 10 * step_ms(arguments) / 1e3 if arguments.budgets else 0
    budgets = [(None, int(budget / per_epoch), budget) for budget in arguments.budgets]
    clocked = [(seconds, None, None) for seconds in arguments.seconds]
    for seconds, epochs, budget in [*clocked, *budgets, *((None, n, None) for n in arguments.epochs)]:
        row = train_row(arguments, seconds, epochs)
        if budget is not None:
            alone = round(row["steps"] * step_ms(arguments) / 1e3, 1)
            row |= {"budget_seconds": budget, "training_seconds": alone, "clock": "steps times step_ms"}
        row["machine"] = machine()
        print(json.dumps({k: v for k, v in row.items() if k != "machine"}), flush=True)
        results = stored()  # read again: another process may have added a row
        results["rows"].append(row)
        save("colin27", results)


def step_ms(arguments: argparse.Namespace) -> float:
    """Time of a step of the chosen network, as `speed` measured it."""
    features = arguments.features or next(c[2] for c in CANDIDATES if c[0] == arguments.dims)
    return float(stored()["step_ms"][label(arguments.dims, arguments.network, features)])


def stored() -> dict[str, Any]:
    """The results so far, without the machine of the last save; each row has its own."""
    empty = {"sigma": SIGMA, "noise_seed": 1, "rows": []}
    return {k: v for k, v in (load("colin27") or empty).items() if k != "machine"}


if __name__ == "__main__":
    main()
