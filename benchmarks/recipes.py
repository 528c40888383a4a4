# SPDX-License-Identifier: Apache-2.0
"""A way to train, run on a task: what is laid over a bundle, for how many steps; and how long such a step takes."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import ROOT
from benchmarks.tasks import Task
from monai_n2v.bundle.resources import find_config

__all__ = ["N2V_ALONE", "Recipe", "annealed", "denoise", "fit", "images_of", "run", "step_seconds"]

EPOCH_LENGTH = 10
# Overlays of this recipe, as whole paths: they are none of the package.
N2V_ALONE = {dims: str(ROOT / "benchmarks" / "overlays" / f"n2v_alone_{dims}d.json") for dims in (2, 3)}


@dataclass(frozen=True)
class Recipe:
    """What is laid over a bundle to train and to predict.

    Attributes:
        spatial_dims: of the network.
        overlays: names in ``configs/``, for training and for prediction.
        settings: values by key of ``train.json`` or ``inference.json``; each takes what it knows.
        anneal: whether the learning rate is annealed within the run (``anneal.json``, as from the command line) rather
            than halved on a plateau of the validation loss.
    """

    spatial_dims: int
    overlays: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    anneal: bool = True


def annealed(spatial_dims: int, **settings: Any) -> Recipe:
    """Noise2Void from random weights on the image alone, with other settings."""
    return Recipe(spatial_dims, (N2V_ALONE[spatial_dims],), settings)


def images_of(task: Task) -> list[Any]:
    """A task's noisy images as the bundles hold them, of one channel and voxels of side 1."""
    from monai_n2v.transforms.files import as_meta_tensor

    return [as_meta_tensor(image[None], [1.0] * task.spatial_dims) for image in task.noisy]


def denoise(recipe: Recipe, images: Sequence[Any], weights: Path, **overrides: Any) -> list[np.ndarray]:
    """Predict a recipe's images with its trained network."""
    from monai_n2v.bundle import Denoiser, resolve_model

    network = resolve_model(weights)
    known = _known(recipe, network.bundle, "inference.json")
    known.pop("amp", None)
    denoiser = Denoiser(network, overlays=recipe.overlays, **known, **overrides)
    return [denoiser(image)[0] for image in images]


def fit(
    recipe: Recipe,
    images: Sequence[Any],
    folder: Path,
    steps: int,
    seed: int,
    *,
    max_time: float | None = None,
    targets: Sequence[Any] | None = None,
) -> dict[str, Any]:
    """Train a recipe's network for so many steps, or seconds, into ``folder/models/model.pt``.

    With ``targets``, one for every image, it learns from the pairs.

    Returns:
        the record of the training.
    """
    from monai_n2v.bundle.resources import bundle_name, find_bundle
    from monai_n2v.bundle.run import train

    long = not recipe.anneal or steps >= 5000  # short epochs end close to a budget; each ends with a saved network
    n_epochs = max(1, round(steps / (100 if long else EPOCH_LENGTH)))
    length = max(1, round(steps / n_epochs)) if long else EPOCH_LENGTH
    budget: dict[str, Any] = {"max_time": max_time} if max_time else {"epochs": n_epochs}
    overlays = [*recipe.overlays, *(["anneal.json"] if recipe.anneal else [])]
    labels = [{}] * len(images) if targets is None else [{"label": target} for target in targets]
    data = [{"image": image, **label} for image, label in zip(images, labels, strict=True)]
    if recipe.anneal:
        budget["progress"] = False
    else:
        budget["validate#dataset#data"] = data
    bundle = find_bundle(bundle_name(recipe.spatial_dims))
    known = _known(recipe, bundle, "train.json")
    return train(bundle, data, folder, overlays, **known, **budget, epoch_length=length, seed=seed)


def _known(recipe: Recipe, bundle: Path, config: str) -> dict[str, Any]:
    """The settings that a config takes: its own keys, parts of them, and those of training's overlays."""
    keys = set(json.loads((bundle / "configs" / config).read_text()))
    if config == "train.json" and recipe.anneal:
        keys |= set(json.loads(find_config("anneal.json").read_text()))
    roots = {key.partition("#")[0] for key in keys}
    return {key: value for key, value in recipe.settings.items() if key.partition("#")[0] in roots}


def run(recipe: Recipe, task: Task, steps: int, seed: int, *, max_time: float | None = None) -> dict[str, Any]:
    """Train on a task's noisy images for so many steps, or seconds, and score the prediction.

    Returns:
        ``steps`` made, ``psnr``, and the wall clock's ``training_seconds`` and ``prediction_seconds``.
    """
    images = images_of(task)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        record = fit(recipe, images, Path(folder), steps, seed, max_time=max_time)
        trained = time.perf_counter()
        outputs = denoise(recipe, images, Path(folder) / "models" / "model.pt")
        done = time.perf_counter()
    return {
        "steps": record["steps"],
        "bfloat16": record["bfloat16"],
        "training_seconds": round(trained - started, 1),
        "prediction_seconds": round(done - trained, 2),
        "psnr": round(task.score(outputs), 3),
    }


def step_seconds(recipes: Mapping[str, Recipe], n_rounds: int = 8) -> dict[str, float]:
    """Median seconds of a training step of each recipe, taken in turns, so that a drifting machine slows all alike."""
    from benchmarks.speed.overhead import interleaved, steps

    functions: list[Callable[[], None]] = []
    for recipe in recipes.values():
        functions.append(steps(recipe.spatial_dims, recipe.overlays, **recipe.settings)[0])
    medians = np.median(interleaved(functions, n_rounds), axis=0)
    return dict(zip(recipes, medians.tolist(), strict=True))
