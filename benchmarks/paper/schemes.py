# SPDX-License-Identifier: Apache-2.0
"""The training schemes of the paper's Figure 1: one program with the pairing swapped."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.recipes import Recipe, denoise, fit
from monai_n2v.transforms.files import as_meta_tensor
from monai_n2v.transforms.pairing import RandN2VMaskd

__all__ = ["SCHEMES", "RevealFewd", "Scheme", "Trained", "as_images", "trained"]


@dataclass(frozen=True)
class Scheme:
    """Where the pair of input and target comes from.

    Attributes:
        pairing: names in ``configs/``, laid over ``train.json``.
        network: names in ``configs/``, laid over ``train.json`` and ``inference.json``, in the preset's place where
            ``own_preset`` says so, after it otherwise.
        targets: ``"clean"``, ``"second"`` for a second noisy image, or None for the noisy image itself.
        own_preset: whether the preset of an experiment is left out.
        settings: that this scheme wants whatever the experiment says.
    """

    pairing: tuple[str, ...] = ()
    network: tuple[str, ...] = ()
    targets: str | None = None
    own_preset: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)


class RevealFewd(RandN2VMaskd):
    """Blind spots of which one in so many keeps its own value, as where fills are drawn from the whole window.

    Args:
        one_in: voxels of the window, 25 for 5x5.
        kwargs: of `RandN2VMaskd`.
    """

    def __init__(self, one_in: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.one_in = one_in

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Hide voxels of ``data["image"]``; returns a new dictionary."""
        d = super().__call__(data)
        shown = torch.from_numpy(self.R.random_sample(d["mask"].shape) < 1 / self.one_in).to(d["mask"].device)
        d["image"] = torch.where(shown & d["mask"].bool(), d["label"], d["image"])
        return d


_OWN = {
    "_target_": "benchmarks.paper.schemes.RevealFewd",
    "one_in": 25,
    "keys": "image",
    "mask_fraction": "@mask_fraction",
    "batched": True,
}
SCHEMES = {
    "traditional": Scheme(pairing=("supervised.json",), targets="clean"),
    "Noise2Noise": Scheme(pairing=("supervised.json", "noise2noise.json"), targets="second"),
    "Noise2Void": Scheme(),
    "Noise2Void, 5 % hidden": Scheme(settings={"mask_fraction": 0.05}),
    "N2V2": Scheme(network=("n2v2.json",)),
    "Noise2Void, BasicUNet as in the bundle": Scheme(own_preset=True),
    # Does the fill of the authors' notebook score higher than that of the paper?
    "Noise2Void, radius 2": Scheme(settings={"radius": 2}),
    "Noise2Void, radius 2, own value in 1 of 25": Scheme(settings={"train#pairing": {**_OWN, "radius": 2}}),
}


def as_images(arrays: Sequence[np.ndarray]) -> list[Any]:
    """Arrays as the bundles hold them, of one channel and voxels of side 1."""
    return [as_meta_tensor(np.ascontiguousarray(x[None], dtype=np.float32), [1.0] * x.ndim) for x in arrays]


@dataclass(frozen=True)
class Trained:
    """A trained network; `predict` and the record of its training."""

    recipe: Recipe
    weights: Path
    record: Mapping[str, Any]

    def predict(self, arrays: Sequence[np.ndarray], **overrides: Any) -> list[np.ndarray]:
        """Denoise arrays."""
        return denoise(self.recipe, as_images(arrays), self.weights, **overrides)


@contextlib.contextmanager
def trained(
    scheme: Scheme,
    preset: Sequence[str],
    noisy: Sequence[np.ndarray],
    targets: Sequence[np.ndarray] | None,
    steps: int,
    seed: int,
    *,
    anneal: bool,
    **settings: Any,
) -> Iterator[Trained]:
    """Train a scheme.

    Args:
        scheme: one of `SCHEMES`.
        preset: names in ``configs/`` that say network and patches for the experiment.
        noisy: images to learn from.
        targets: clean images or second noisy ones for schemes that want them.
        steps: of training.
        seed: of the training.
        anneal: whether the learning rate is annealed within the steps, or halved on a plateau as in the paper.
        settings: keys of ``train.json`` and ``inference.json``.

    Yields:
        the network, until the block ends.
    """
    network = scheme.network if scheme.own_preset else (*preset, *scheme.network)
    settings = {} if scheme.own_preset else settings
    spatial_dims = noisy[0].ndim
    of_inference = Recipe(spatial_dims, network, {**settings, **scheme.settings}, anneal)
    of_training = replace(of_inference, overlays=(*network, *scheme.pairing))
    pairs = None if scheme.targets is None else as_images(targets or ())
    with tempfile.TemporaryDirectory() as folder:
        record = fit(of_training, as_images(noisy), Path(folder), steps, seed, targets=pairs)
        yield Trained(of_inference, Path(folder) / "models" / "model.pt", record)
