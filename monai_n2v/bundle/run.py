# SPDX-License-Identifier: Apache-2.0
"""The bundles as programs: running them on images in memory through MONAI's ConfigWorkflow."""

from __future__ import annotations

import contextlib
import logging
import random
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from monai.data import MetaTensor

from monai_n2v.bundle.resources import bundle_name, find_bundle, find_config
from monai_n2v.bundle.workflow import N2VWorkflow

__all__ = ["as_image", "bundle_name", "find_bundle", "find_config", "predict", "train"]


def as_image(data: np.ndarray, spacing: Sequence[float]) -> MetaTensor:
    """Wrap channel-first voxels with their spacing, as the bundles' loaders would."""
    sides = [*spacing, 1.0, 1.0, 1.0][:3]
    return MetaTensor(torch.from_numpy(data), affine=torch.diag(torch.tensor([*sides, 1.0], dtype=torch.float64)))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the global random states of the caller, and MONAI's notices to bundle authors away from users."""
    bundle_logger, ignite_logger = logging.getLogger("monai.bundle.workflows"), logging.getLogger("ignite")
    levels = bundle_logger.level, ignite_logger.level
    bundle_logger.setLevel(logging.ERROR)
    ignite_logger.setLevel(logging.CRITICAL)
    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    deterministic, benchmark = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="monai")
            warnings.filterwarnings("ignore", message=".*bundle.*", category=UserWarning)
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.random.set_rng_state(torch_state)
        if cuda_states:
            torch.cuda.set_rng_state_all(cuda_states)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = deterministic, benchmark
        bundle_logger.setLevel(levels[0])
        ignite_logger.setLevel(levels[1])


class _Items(Sequence[dict[str, MetaTensor]]):
    """The data list of images, each asked for when it is needed."""

    def __init__(self, images: Sequence[MetaTensor]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Any) -> Any:
        return {"image": self.images[index]}


def train(
    bundle: Path,
    images: Sequence[MetaTensor],
    output_dir: Path,
    overlays: Sequence[str] = (),
    targets: Sequence[MetaTensor] | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """Train a bundle's network on images in memory.

    Args:
        bundle: folder of the bundle.
        images: ``(C, *spatial)`` each, noisy; of another sequence than a list each is asked for when it is needed.
        output_dir: where the bundle writes ``models/model.pt``.
        overlays: names in ``configs/``, laid over the bundle's ``train.json`` in order.
        targets: for schemes that learn from pairs, one for every image, of its shape; they are
            standardized by the image's statistics (``in_memory_pairs.json``, laid over all else).
        overrides: config entries by id; see `check_overrides`.

    Returns:
        the record of the run: ``epochs``, ``epoch_length``, ``steps``, ``bfloat16``, and ``losses``, the mean loss of
        every epoch.
    """
    overlays = [*overlays, *(["in_memory_pairs.json"] if targets is not None else [])]
    configs = [str(bundle / "configs" / "train.json"), *(str(find_config(name)) for name in overlays)]
    data: Sequence[dict[str, MetaTensor]]
    if targets is not None:
        data = [{"image": image, "label": target} for image, target in zip(images, targets, strict=True)]
    else:
        data = [{"image": image} for image in images] if isinstance(images, list) else _Items(images)
    entries: dict[str, Any] = {"bundle_root": str(bundle), "output_dir": str(output_dir)}
    entries["train#dataset#data"] = data
    with _quiet():
        workflow = N2VWorkflow(
            config_file=configs,
            meta_file=str(bundle / "configs" / "metadata.json"),
            logging_file=False,
            workflow_type="train",
            save_config=False,  # the caller keeps its bundle's configs
            **entries,
            **overrides,
        )
        workflow.initialize()
        trainer = workflow.parser.get_parsed_content("train#trainer")
        losses: list[float] = []
        trainer.add_event_handler(
            Events.EPOCH_COMPLETED, lambda engine: losses.append(float(engine.state.metrics["train_loss"]))
        )
        workflow.run()
        workflow.finalize()
        amp = workflow.parser.get_parsed_content("train#inferer").amp
    state = trainer.state
    return {
        "epochs": state.max_epochs,
        "epoch_length": state.epoch_length,
        "steps": state.iteration,
        "bfloat16": amp,
        "losses": losses,
    }


def predict(
    bundle: Path, image: MetaTensor, ckpt_path: Path, overlays: Sequence[str] = (), **overrides: Any
) -> np.ndarray:
    """Denoise an image in memory by a bundle's inference.

    Args:
        bundle: folder of the bundle.
        image: ``(C, *spatial)``, noisy.
        ckpt_path: weights of the trained network.
        overlays: names in ``configs/``, laid over the bundle's ``inference.json`` in order.
        overrides: config entries by id.

    Returns:
        float32, of the shape and in the units of ``image``.

    Raises:
        FileNotFoundError: where the weights are missing.
    """
    configs = [str(bundle / "configs" / "inference.json"), *(str(find_config(name)) for name in overlays)]
    entries: dict[str, Any] = {"bundle_root": str(bundle), "ckpt_path": str(ckpt_path)}
    entries["dataset#data"] = [{"image": image}]
    with _quiet():
        workflow = N2VWorkflow(
            config_file=configs,
            meta_file=str(bundle / "configs" / "metadata.json"),
            logging_file=False,
            workflow_type="inference",
            **entries,
            **overrides,
        )
        workflow.initialize()
        workflow.run()
        workflow.finalize()
        evaluator = workflow.parser.get_parsed_content("evaluator")
    pred: torch.Tensor = evaluator.state.output[0]["pred"]
    return pred.cpu().numpy()
