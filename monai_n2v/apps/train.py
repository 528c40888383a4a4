# SPDX-License-Identifier: Apache-2.0
"""Training a network on noisy images in memory, into a bundle of its own."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from monai.bundle import ConfigParser
from monai.data import MetaTensor

from monai_n2v.bundle.resources import bundle_name, find_bundle, find_config
from monai_n2v.bundle.run import train
from monai_n2v.bundle.settings import check_settings
from monai_n2v.bundle.trained import TrainedNetwork, resolve_model
from monai_n2v.io.volume import where
from monai_n2v.transforms.axes import MIN_DEPTH, LazyStack, Stack, choose_dims, last_axis, to_image
from monai_n2v.transforms.footprints import smallest_radius

__all__ = ["TrainingPlan", "train_network"]

logger = logging.getLogger(__name__)

_FEW_STEPS = 200


@dataclass(frozen=True)
class TrainingPlan:
    """How long and with what to train.

    Attributes:
        epochs: length of the training; the overlays' default where neither this nor ``max_time`` is given.
        max_time: length of the training in seconds instead, at least two epochs.
        fast: a short training with a small network.
        spatial_dims: 2 to denoise volumes slice by slice, across their shortest axis; 3 for volumes; chosen by
            `choose_dims` where it is None.
        footprint: structN2V, a 0/1 array with one odd-sided axis per spatial axis of the images, or None.
        seed: source of all randomness.
        device: as torch names it.
        progress: whether to show a bar on standard error.
        checkpoints: whether to save the state after every epoch, so that the training can be resumed.
        resume: whether to go on from the checkpoint in the folder.
        settings: further values by key of the bundle's ``train.json`` or ``inference.json``, such as ``{"lr": 0.001}``.
    """

    epochs: int | None = None
    max_time: float | None = None
    fast: bool = False
    spatial_dims: int | None = None
    seed: int = 0
    device: str = "cpu"
    progress: bool = False
    footprint: np.ndarray | None = None
    checkpoints: bool = False
    resume: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse contradictions."""
        if self.epochs is not None and self.max_time is not None:
            raise ValueError(f"epochs must stand alone, got max_time {self.max_time:g} too. Drop one of them.")
        if self.epochs is not None and self.epochs < 1:
            raise ValueError(f"epochs must be at least 1, got {self.epochs}. Use for example 100.")
        if self.max_time is not None and self.max_time <= 0:
            raise ValueError(f"max_time must be above 0 seconds, got {self.max_time:g}. Use for example 120.")
        if self.spatial_dims not in (None, 2, 3):
            raise ValueError(f"spatial_dims must be 2 or 3, got {self.spatial_dims}. Use 3 for volumes.")
        if self.resume and self.max_time is not None:
            raise ValueError("resume must come with epochs, got max_time. A time says nothing about what is left.")


class _Images(Sequence[MetaTensor]):
    """The images of stacks, each made when it is asked for."""

    def __init__(self, stacks: Sequence[Stack | LazyStack], spatial_dims: int) -> None:
        self.stacks, self.spatial_dims = stacks, spatial_dims

    def __len__(self) -> int:
        return len(self.stacks)

    def __getitem__(self, index: Any) -> Any:
        return to_image(self.stacks[index], self.spatial_dims)[0]


def train_network(
    stacks: Sequence[Stack | LazyStack], folder: Path, plan: TrainingPlan
) -> tuple[TrainedNetwork, dict[str, Any]]:
    """Train one network on all volumes and leave it in a bundle that stands on its own.

    Args:
        stacks: what to learn from, and later to denoise.
        folder: becomes the bundle: configs with the settings of this training, metadata with a summary of the data,
            ``models/model.pt``.
        plan: length and kind of the training.

    Returns:
        the network, and a record of the run.

    Raises:
        ValueError: where a 3D network is asked for images, or a setting has an unknown key.
        FileNotFoundError: where there is nothing to resume.
    """
    check_settings(plan.settings, parts=True)
    spatial_dims = choose_dims([stack.shape[1:] for stack in stacks], plan.spatial_dims)
    patch_size = plan.settings.get("patch_size")
    if isinstance(patch_size, list) and len(patch_size) != spatial_dims:
        raise ValueError(
            f"patch_size must have {spatial_dims} sides for a {spatial_dims}D network, got {patch_size}. "
            "Give it one side per axis."
        )
    if plan.spatial_dims is None and spatial_dims == 2:
        _tell_of_slices(stacks)
    bundle = find_bundle(bundle_name(spatial_dims))
    overlays = [f"self_{spatial_dims}d.json", *(["fast.json"] if plan.fast else [])]
    footprint = None if plan.footprint is None else _turn_footprint(plan.footprint, stacks, spatial_dims)
    images: Sequence[MetaTensor] = _Images(stacks, spatial_dims)
    if all(isinstance(stack, Stack) for stack in stacks):
        images = list(images)
    budget: dict[str, Any] = {"epochs": plan.epochs} if plan.epochs is not None else {}
    started = time.perf_counter()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as work:
        made = Path(work)
        _write_bundle(bundle, overlays, made, stacks, footprint, plan.settings)
        record = _train(made, folder, images, plan, budget)
        configs = [made / "configs" / name for name in ("train.json", "inference.json")]
        record["config_sha256"] = hashlib.sha256(b"".join(path.read_bytes() for path in configs)).hexdigest()
        # A network that was in the folder stays whole until the new one is.
        for part in sorted(path for path in made.rglob("*") if path.is_file()):
            (folder / part.relative_to(made)).parent.mkdir(parents=True, exist_ok=True)
            os.replace(part, folder / part.relative_to(made))
    record |= {"training_seconds": round(time.perf_counter() - started, 1), "seed": plan.seed, "fast": plan.fast}
    if plan.max_time is not None and record["steps"] < _FEW_STEPS:
        logger.warning(
            "Only %d steps of training fitted into %g s, which is too few: the result is blurred or false. "
            "Give it more time; on a busy machine fewer threads (OMP_NUM_THREADS=1) may be faster.",
            record["steps"], plan.max_time,
        )  # fmt: skip
    if plan.settings:
        record["settings"] = dict(plan.settings)
    return resolve_model(folder), record


def _tell_of_slices(stacks: Sequence[Stack | LazyStack]) -> None:
    """Say why volumes that a 3D network suits get a 2D one."""
    flat = [stack for stack in stacks if len(stack.shape) == 3 or min(stack.shape[1:]) < MIN_DEPTH]
    if len(flat) < len(stacks):
        logger.warning(
            "All volumes are denoised slice by slice, since one network is to serve them and %s. "
            "Choose with --pattern, or use --per-image.",
            flat[0].name or "an image",
        )


def _train(
    bundle: Path, folder: Path, images: Sequence[MetaTensor], plan: TrainingPlan, budget: dict[str, Any]
) -> dict[str, Any]:
    """Train the network of ``bundle``; its weights go there, checkpoints into ``folder``."""
    # Those of train.json stand there already; what remains of the settings is for the overlay.
    anneal = json.loads(find_config("anneal.json").read_text())
    more = {key: value for key, value in plan.settings.items() if key in anneal}
    return train(
        bundle,
        images,
        folder,
        ["anneal.json", "in_memory_train.json"],
        ckpt_path=str(bundle / "models" / "model.pt"),
        device=f"$torch.device('{plan.device}')",
        seed=plan.seed,
        max_time=plan.max_time,
        progress=plan.progress,
        checkpoints=plan.checkpoints,
        resume=plan.resume,
        **budget,
        **more,
    )


def _turn_footprint(footprint: np.ndarray, stacks: Sequence[Stack | LazyStack], spatial_dims: int) -> list[Any]:
    """Turn a footprint as `to_image` turns the volumes; a 2D network sees its middle slice."""
    seen: list[list[Any]] = []
    for stack in stacks:
        n_axes = len(stack.shape) - 1
        if footprint.ndim != n_axes:
            raise ValueError(
                f"footprint must have {n_axes} axes like the image, got {footprint.ndim}{where(stack.name)}. "
                "Give it one side per axis."
            )
        turned = np.moveaxis(footprint, last_axis(stack.shape, spatial_dims) - 1, -1)
        turned = turned if spatial_dims == n_axes else turned[..., turned.shape[-1] // 2]
        if turned.size == 1 and footprint.size > 1:
            raise ValueError(
                f"footprint must lie in the slices of a 2D network, got one across them{where(stack.name)}. "
                "Slices are denoised one by one: leave it out."
            )
        seen.append(turned.astype(int).tolist())
    if any(rows != seen[0] for rows in seen):
        raise ValueError(
            "footprint must lie alike in all images, got images sliced across different axes. Separate them."
        )
    return seen[0]


def _write_bundle(
    bundle: Path,
    overlays: Sequence[str],
    folder: Path,
    stacks: Sequence[Stack | LazyStack],
    footprint: list[Any] | None,
    settings: Mapping[str, Any],
) -> None:
    """Copy a bundle with overlays and settings in its configs; only entries that a config has are replaced in it."""
    (folder / "configs").mkdir(parents=True, exist_ok=True)
    entries: dict[str, Any] = {}
    for name in overlays:
        entries |= json.loads(find_config(name).read_text())
    entries.pop("_desc_", None)
    entries |= {"footprint": footprint, **settings}
    if footprint is not None and "radius" not in settings:
        # The direct neighbors may all be hidden with a blind spot: then look further.
        entries["radius"] = smallest_radius(np.asarray(footprint, dtype=bool), entries["radius"])
    for path in sorted((bundle / "configs").glob("*.json")):
        if path.name == "metadata.json":
            continue
        parser = ConfigParser(json.loads(path.read_text()))
        config = parser.get()
        # Training in bfloat16 is no reason to predict in it.
        left_out = set() if path.name == "train.json" else {"amp"}
        for key, value in entries.items():
            if key.partition("#")[0] in config and key not in left_out:
                parser[key] = value
        (folder / "configs" / path.name).write_text(json.dumps(config, indent=4) + "\n")
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    metadata["data_source"] = "the user's own noisy images"
    metadata["training_data"] = [
        {
            "shape": list(stack.shape[1:]),
            "n_volumes": stack.shape[0],
            "spacing_mm": [round(float(side), 6) for side in stack.spacing],
            "mean": stack.statistics[0],
            "std": stack.statistics[1],
        }
        for stack in stacks
    ]
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata, indent=4) + "\n")
    shutil.copyfile(bundle / "configs" / "logging.conf", folder / "configs" / "logging.conf")
    shutil.copyfile(bundle / "LICENSE", folder / "LICENSE")
    (folder / "docs").mkdir(exist_ok=True)
    shutil.copyfile(bundle / "docs" / "README.md", folder / "docs" / "README.md")
