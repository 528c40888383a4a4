# SPDX-License-Identifier: Apache-2.0
"""What MONAI's SupervisedTrainer and SupervisedEvaluator need beyond their own to train Noise2Void."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, DiskSaver
from monai.engines import PrepareBatch
from monai.handlers import CheckpointLoader
from tqdm import tqdm

from monai_n2v.staging import staged

__all__ = ["AnnealedBudget", "EpochSeeder", "ModelSaver", "PrepareN2VBatch", "ResumableCheckpoints", "TrainingBar"]

logger = logging.getLogger(__name__)


class PrepareN2VBatch(PrepareBatch):
    """Pack label and mask into one target, since MONAI's trainer hands the loss two arguments only.

    Without a mask every voxel counts, as in traditional and Noise2Noise training.
    """

    def __call__(
        self,
        batchdata: dict[str, torch.Tensor],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return ``image`` and ``cat([label, mask], dim=1)``, or None in place of the latter without a label."""
        to = {"device": device, "non_blocking": non_blocking, **kwargs}
        image = batchdata["image"].to(**to)
        label = batchdata.get("label")
        if not isinstance(label, torch.Tensor):
            return image, None
        mask = batchdata.get("mask")
        mask = torch.ones_like(label) if mask is None else mask
        return image, torch.cat([label.to(**to), mask.to(**to)], dim=1)


class EpochSeeder:
    """Seed patches and network noise from (seed, rank, epoch) when an epoch starts, so that a resumed run repeats.

    Args:
        loader: the trainer's data loader; told the epoch where it has ``set_epoch``.
        seed: with rank and epoch, the source of torch's random state (dropout, DataLoader workers).
        rank: of this process.
    """

    def __init__(self, loader: Any, seed: int = 0, rank: int = 0) -> None:
        self.loader = loader
        self.seed = seed
        self.rank = rank

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Seed the epoch that starts."""
        if hasattr(self.loader, "set_epoch"):
            self.loader.set_epoch(engine.state.epoch)
        torch.manual_seed(hash((self.seed, self.rank, engine.state.epoch)) % 2**63)


class AnnealedBudget:
    """Anneal the learning rate to zero within a budget of epochs or of seconds.

    The rate warms up linearly, stays, and falls linearly over the last part of the run. Up to that last part it does
    not depend on the run's length. So a budget in seconds need not be turned into steps before the decay begins, when
    the speed is well known; from there the number of epochs is fixed. A run of that many epochs repeats it exactly.

    Args:
        optimizer: whose learning rates are annealed from what they are now.
        max_time: budget in seconds of training, or None to keep the trainer's ``max_epochs``. At least two epochs run.
        n_warmup: steps of linear warm-up.
        decay_fraction: last part of the run over which the rate falls, in ``(0, 1)``.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        max_time: float | None = None,
        n_warmup: int = 10,
        decay_fraction: float = 0.5,
    ) -> None:
        if max_time is not None and max_time <= 0:
            raise ValueError(f"max_time must be above 0 seconds, got {max_time}. Use for example 120.")
        self.optimizer = optimizer
        self.max_time = max_time
        self.n_warmup = n_warmup
        self.decay_fraction = decay_fraction
        self.rates = [group["lr"] for group in optimizer.param_groups]
        self._planned = max_time is None
        self._started = 0.0

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_STARTED, self)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.plan)

    def start(self, engine: Engine) -> None:
        """Start the clock; with a budget in seconds the number of epochs is open."""
        self._started = time.perf_counter()
        if not self._planned:
            engine.state.max_epochs = 10**9

    def __call__(self, engine: Engine) -> None:
        """Set the learning rate of the step that starts."""
        done = engine.state.iteration - 1
        factor = min(1.0, (done + 1) / self.n_warmup)
        if self._planned:
            total = engine.state.max_epochs * engine.state.epoch_length
            factor *= min(1.0, (total - done) / (total - self.decay_start(total)))
        for group, rate in zip(self.optimizer.param_groups, self.rates):
            group["lr"] = rate * factor

    def decay_start(self, n_steps: int) -> int:
        """Steps before the decay in a run of ``n_steps``."""
        return min(n_steps - 1, math.ceil(n_steps * (1 - self.decay_fraction)))

    def plan(self, engine: Engine) -> None:
        """Fix the number of epochs once the decay would begin within the next one."""
        if self._planned:
            return
        epoch, length = engine.state.epoch, engine.state.epoch_length
        per_epoch = (time.perf_counter() - self._started) / epoch
        n_epochs = max(epoch + 1, int((self.max_time or 0) / per_epoch))
        if self.decay_start(n_epochs * length) >= (epoch + 1) * length:
            return
        while self.decay_start(n_epochs * length) < epoch * length:
            n_epochs += 1
        engine.state.max_epochs = n_epochs
        self._planned = True
        logger.info("Training takes %d epochs of %d steps within %g s.", n_epochs, length, self.max_time)


class ModelSaver:
    """Write the trained weights, a flat state dict, when training completes; never after a failure.

    The file appears whole or not at all.

    Args:
        network: whose weights to save.
        path: of the file; its folder is made.
    """

    def __init__(self, network: torch.nn.Module, path: str | Path) -> None:
        self.network = network
        self.path = Path(path)

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Write the file."""
        with staged(self.path) as place:
            torch.save(self.network.state_dict(), place)
        engine.logger.info("Saved the trained network: %s", self.path)


class ResumableCheckpoints:
    """Save everything a run needs to go on, after every epoch, and go on from the latest.

    The trainer's own state is among it, which only a handler can reach while the trainer is being built. Attach it
    last, so that the epoch's validation and learning rate are in the checkpoint. The checkpoints of the last two epochs
    stay; those of an earlier run in the same folder go when this run saves its first.

    Args:
        folder: of the files ``checkpoint_epoch=N.pt``; each is written whole or not at all.
        objects: network, optimizer and whatever else has a state, by name.
        resume: whether to go on from the latest checkpoint.
        device: where the checkpoint is loaded to.

    Raises:
        FileNotFoundError: with ``resume``, where there is no checkpoint.
    """

    def __init__(
        self, folder: str | Path, objects: Mapping[str, Any], resume: bool = False, device: torch.device | str = "cpu"
    ) -> None:
        self.folder = Path(folder)
        self.objects = dict(objects)
        self.device = device
        self.latest = self._find_latest() if resume else None

    def _by_epoch(self) -> dict[int, Path]:
        return {int(path.stem.rpartition("=")[2]): path for path in self.folder.glob("checkpoint_epoch=*.pt")}

    def _find_latest(self) -> str:
        paths = self._by_epoch()
        if not paths:
            raise FileNotFoundError(
                f"resume must find a checkpoint_epoch=N.pt, got none in {self.folder}. Train without --resume first."
            )
        return str(paths[max(paths)])

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        objects = {**self.objects, "trainer": engine}
        if self.latest is not None:
            CheckpointLoader(self.latest, objects, map_location=self.device).attach(engine)
        saver = DiskSaver(str(self.folder), atomic=True, create_dir=True, require_empty=False)
        save = Checkpoint(objects, saver, score_function=lambda e: e.state.epoch, score_name="epoch", n_saved=None)
        engine.add_event_handler(Events.EPOCH_COMPLETED, save)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.prune)

    def prune(self, engine: Engine) -> None:
        """Remove all checkpoints but this epoch's and the one before."""
        for epoch, path in self._by_epoch().items():
            if epoch not in (engine.state.epoch, engine.state.epoch - 1):
                path.unlink()


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
        if isinstance(output, Mapping):
            self._bar.set_postfix_str(f"loss {output['loss'].item():.4f}", refresh=False)
        self._bar.update(min(1.0, done) - self._bar.n)

    def close(self, engine: Engine, error: BaseException | None = None) -> None:  # noqa: ARG002
        """Close the bar."""
        self._bar.close()
        if error is not None:
            raise error
