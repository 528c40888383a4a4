# SPDX-License-Identifier: Apache-2.0
"""How a training shows itself: progress, pictures for TensorBoard, and a record that repeats it."""

import inspect
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite
import ignite.distributed as idist
import monai
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from tqdm import tqdm

import monai_n2v
from monai_n2v.io.atomic import staged


class RunRecord:
    """Write what repeats a training as ``config.json`` when it starts: its whole config, overlays and overrides merged.

    At its end the time of a training is replaced by what the clock decided (see `AnnealedBudget`).

    MONAI runs that file like any config. Its metadata, ``_meta_#run``, hold the command and the folder it ran in,
    versions, device and number of processes. Built in Python, without a config, it writes these alone. Values that JSON
    does not know are written as text.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / "config.json"
        # MONAI tells a handler nothing of the config it stands in, but the parser that builds it is among the callers.
        callers = (caller.frame.f_locals.get("self") for caller in inspect.stack(0))
        self.config: dict[str, Any] = next((caller.get() for caller in callers if isinstance(caller, ConfigParser)), {})

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.STARTED, self)
        engine.add_event_handler(Events.COMPLETED, self.complete)

    def __call__(self, engine: Engine) -> None:
        """Write the file."""
        run = {
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "command": sys.argv,
            "folder": Path.cwd(),
            "versions": {package.__name__: package.__version__ for package in (monai_n2v, monai, ignite, torch, np)},
            "device": getattr(engine.state, "device", None),
            "n_processes": idist.get_world_size(),
        }
        self.config = {**self.config, "_meta_": {**self.config.get("_meta_", {}), "run": run}}
        self._write()

    def complete(self, engine: Engine) -> None:
        """Write it anew where the clock decided how long the training was."""
        schedule = getattr(engine.state, "schedule", None)
        if schedule is not None:
            self.config |= {"max_time": None, "epochs": engine.state.epoch, "schedule": schedule}
            self._write()

    def _write(self) -> None:
        with staged(self.path) as place:
            place.write_text(json.dumps(self.config, indent=4, default=str) + "\n")


class ImagePanel:
    """Show validation patches in TensorBoard: noisy, denoised and what was removed, side by side.

    Of volumes the middle slice along the last axis is shown. Gray levels run from the 1st to the 99th percentile of the
    noisy patch; those of what was removed over three of its standard deviations to either side of zero.

    Args:
        writer: TensorBoard's ``SummaryWriter``.
        n_patches: how many patches of the first batch to show, below one another.
        tag: of the image.
    """

    def __init__(self, writer: Any, n_patches: int = 4, tag: str = "noisy, denoised, removed") -> None:
        self.writer = writer
        self.n_patches = n_patches
        self.tag = tag

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator."""
        engine.add_event_handler(Events.ITERATION_COMPLETED(event_filter=_first_of_epoch), self)

    def __call__(self, engine: Engine) -> None:
        """Write the panel of the first batch."""
        batch, denoised = engine.state.batch, engine.state.output["pred"]
        # Blind spots hide a part of the image; without any, in other schemes, the label is another image.
        noisy = batch["label"] if "mask" in batch else batch["image"]
        rows = [_row(a[0], b[0]) for a, b in zip(noisy[: self.n_patches].cpu().float(), denoised.cpu().float())]
        width = max(row.shape[1] for row in rows)
        panel = torch.cat([torch.nn.functional.pad(row, (0, width - row.shape[1])) for row in rows])
        self.writer.add_image(self.tag, panel, engine.state.epoch, dataformats="HW")


def _first_of_epoch(engine: Engine, event: int) -> bool:
    length = engine.state.epoch_length
    return length is None or (event - 1) % length == 0


def _row(noisy: torch.Tensor, denoised: torch.Tensor) -> torch.Tensor:
    """One patch as gray levels in [0, 1]: noisy, denoised, removed."""
    if noisy.ndim == 3:
        noisy, denoised = noisy[..., noisy.shape[-1] // 2], denoised[..., denoised.shape[-1] // 2]
    low, high = torch.quantile(noisy.flatten(), torch.tensor([0.01, 0.99])).tolist()
    removed = noisy - denoised
    spread = 6 * removed.std(correction=0).item() or 1.0
    shown = [(image - low) / ((high - low) or 1.0) for image in (noisy, denoised)]
    return torch.cat([*shown, removed / spread + 0.5], dim=1).clamp(0, 1)


class ListedOutput:
    """Put the output of every iteration into a list of one, as MONAI's engines do when they decollate.

    Experiment tracking (``--tracking mlflow``) reads the loss from such a list; the bundles decollate nothing, since
    that costs time at every step. Handlers listed before this one still see the dictionary.
    """

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Wrap the output."""
        engine.state.output = [engine.state.output]


class TrainingBar:
    """One tqdm bar over the whole run, in percent of its epochs or of its seconds, on standard error.

    Args:
        max_time: budget in seconds, or None for a budget of epochs.
        description: shown before the bar.
    """

    def __init__(self, max_time: float | None = None, description: str = "training") -> None:
        self.max_time = max_time
        self.description = description
        self._bar: Any = None
        self._started = 0.0

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        for event in (Events.COMPLETED, Events.EXCEPTION_RAISED):
            engine.add_event_handler(event, self.close)

    def start(self, engine: Engine) -> None:  # noqa: ARG002 - Ignite hands it over
        """Open the bar."""
        self._started = time.perf_counter()
        form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}{postfix}"
        self._bar = tqdm(total=1.0, desc=self.description, bar_format=form, leave=False)

    def __call__(self, engine: Engine) -> None:
        """Move the bar."""
        if self.max_time is None:
            done = engine.state.iteration / (engine.state.max_epochs * engine.state.epoch_length)
        else:
            done = (time.perf_counter() - self._started) / self.max_time
        output = engine.state.output
        # Reading the loss makes a GPU wait, so not of every step.
        if isinstance(output, Mapping) and engine.state.iteration % 10 == 1:
            self._bar.set_postfix_str(f"loss {output['loss'].item():.4f}", refresh=False)
        self._bar.update(min(1.0, done) - self._bar.n)

    def close(self, engine: Engine, error: BaseException | None = None) -> None:  # noqa: ARG002
        """Close the bar, which is not open yet where another handler failed at the start."""
        if self._bar is not None:
            self._bar.close()
        if error is not None:
            raise error
