# SPDX-License-Identifier: Apache-2.0
"""What a trained network does with a voxel's own value, which it never saw in training, by the fill used there.

``python -m benchmarks.speed.centers`` trains the command line's recipe on Set12 with several fills, and predicts
plainly, as everybody does, and truly blind, every pixel once behind the same fill. In between lie mixtures of the blind
prediction with the noisy image, ``a y + (1 - a) f``, whose best ``a`` is found with the clean image at hand; and what
`keep_detail` makes of either prediction, one ``a`` per pixel and no clean image.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import save
from benchmarks.recipes import annealed, fit, images_of
from benchmarks.tasks import Task, set12
from monai_n2v.inferers.detail import keep_detail

PHASES = 4


def filled(image: np.ndarray, fill: str, radius: int, rng: np.random.Generator) -> np.ndarray:
    """Every pixel's fill from its window without itself; the image is continued by reflection."""
    padded = np.pad(image, radius, mode="reflect")
    offsets = [offset for offset in itertools.product(range(2 * radius + 1), repeat=2) if offset != (radius, radius)]
    window = np.stack([padded[i : i + image.shape[0], j : j + image.shape[1]] for i, j in offsets])
    if fill == "uniform":
        chosen = rng.integers(0, len(window), image.shape)
        return np.take_along_axis(window, chosen[None], 0)[0]
    return np.median(window, axis=0).astype(np.float32)


def blind(network: torch.nn.Module, image: np.ndarray, fill: str, radius: int) -> np.ndarray:
    """Predict every pixel while it is hidden, a grid of pixels at a time."""
    values = filled(image, fill, radius, np.random.default_rng(0))
    output = np.empty_like(image)
    for phase in itertools.product(range(PHASES), repeat=2):
        grid = tuple(slice(start, None, PHASES) for start in phase)
        hidden = image.copy()
        hidden[grid] = values[grid]
        output[grid] = predict(network, hidden)[grid]
    return output


def predict(network: torch.nn.Module, image: np.ndarray) -> np.ndarray:
    """Predict one standardized image."""
    with torch.inference_mode():
        output: np.ndarray = network(torch.from_numpy(image)[None, None])[0, 0].numpy()
    return output


def measure(task: Task, fill: str, radius: int, epochs: int, seed: int) -> dict[str, Any]:
    """Train with a fill and compare the ways to predict."""
    from monai_n2v.networks import N2VUNet

    recipe = annealed(2, fill=fill, radius=radius)
    with tempfile.TemporaryDirectory() as folder:
        fit(recipe, images_of(task), Path(folder), 10 * epochs, seed)
        network = N2VUNet(2, features=32, norm=None)
        network.load_state_dict(torch.load(Path(folder) / "models" / "model.pt"))
    network.eval()
    plain, hidden = [], []
    for image in task.noisy:
        mean, std = image.mean(), image.std()
        standard = (image - mean) / std
        plain.append(predict(network, standard) * std + mean)
        hidden.append(blind(network, standard, fill, radius) * std + mean)
    scores = {
        a: task.score([a * noisy + (1 - a) * f for noisy, f in zip(task.noisy, hidden)])
        for a in np.arange(0, 0.4, 0.02).round(2).tolist()
    }
    best = max(scores, key=scores.__getitem__)
    return {
        "fill": fill,
        "radius": radius,
        "seed": seed,
        "blind": round(scores[0.0], 3),
        "best_mixture": round(scores[best], 3),
        "share_of_the_noisy_image": best,
        "blind_and_detail": round(task.score([kept(x, f) for x, f in zip(task.noisy, hidden)]), 3),
        "plain": round(task.score(plain), 3),
        "plain_and_detail": round(task.score([kept(x, f) for x, f in zip(task.noisy, plain)]), 3),
    }


def kept(noisy: np.ndarray, estimate: np.ndarray) -> np.ndarray:
    """`keep_detail` for an array."""
    tensors = (torch.from_numpy(image)[None, None] for image in (noisy, estimate))
    output: np.ndarray = keep_detail(*tensors)[0, 0].numpy()
    return output


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=42)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    task = set12()
    rows = []
    for seed in arguments.seeds:
        for fill, radius in (("uniform", 5), ("uniform", 1), ("median", 2), ("median", 1)):
            rows.append(measure(task, fill, radius, arguments.epochs, seed))
            print(json.dumps(rows[-1]), flush=True)
    save("centers", {"task": task.name, "steps": 10 * arguments.epochs, "rows": rows})


if __name__ == "__main__":
    main()
