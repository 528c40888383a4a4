# SPDX-License-Identifier: Apache-2.0
"""What a training tells while it runs, and when its network takes the place of the one in use."""

import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import nn

from monai_n2v.data.patch_loader import PatchLoader
from monai_n2v.handlers.checkpoints import load_weights, unlike, unwrapped
from monai_n2v.io.atomic import staged

logger = logging.getLogger(__name__)

_STATS = "train_stats.json"  # beside the folders of a bundle


class NetworkInUse:
    """Write the network of every epoch to where inference takes it from, unless a better one is there.

    A network that was there when the training began stays until validation of an epoch is better than its own, on the
    same blind spots; then it is kept beside as ``model_before.pt``. Attach it after the epoch's validation.

    Args:
        network: to validate and to use.
        path: of the network in use.
        scorer: evaluator of ``network`` without handlers, to score the network that was there.
        evaluator: of the epochs.
        begun: of a training that is resumed, what `state` said of it.

    Attributes:
        replaced_loss: validation loss of the network that was there; None without one, or for one of another shape.
        took_over: whether the network in use is of this training.
    """

    def __init__(
        self,
        network: nn.Module,
        path: str | Path,
        scorer: Engine,
        evaluator: Engine,
        begun: Mapping[str, Any] | None = None,
    ) -> None:
        self.network, self.path, self.scorer, self.evaluator = network, Path(path), scorer, evaluator
        self.replaced_loss: float | None = None
        self.took_over = False
        self._knows_before = begun is not None and "took_over" in begun
        if begun is not None and self._knows_before:
            self.replaced_loss, self.took_over = begun.get("replaced_loss"), bool(begun["took_over"])

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.STARTED, self.score_replaced)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def score_replaced(self, engine: Engine) -> None:  # noqa: ARG002 - Ignite hands it over
        """Validate the network that is there, by its weights in the place of the trained ones."""
        if self._knows_before or not self.path.is_file():
            return
        state, network = load_weights(self.path), unwrapped(self.network)
        if unlike(network, state):
            logger.warning("The network in use is of another shape: this training's replaces it after its first epoch.")
            return
        trained = {name: value.clone() for name, value in network.state_dict().items()}
        network.load_state_dict(state)
        try:
            self.scorer.run()
        finally:
            network.load_state_dict(trained)
        self.replaced_loss = float(self.scorer.state.metrics["val_loss"])
        logger.info(
            "The network in use has a validation loss of %.5f and stays until one is better.", self.replaced_loss
        )

    def __call__(self, engine: Engine) -> None:
        """Decide on the epoch that ends."""
        loss = self.evaluator.state.metrics.get("val_loss", math.inf)
        if self.replaced_loss is not None and not loss < self.replaced_loss:
            return
        if not self.took_over and self.path.is_file() and idist.get_rank() == 0:
            before = self.path.with_name("model_before.pt")
            with staged(before) as place:
                shutil.copyfile(self.path, place)
            logger.info("Epoch %d: better than the network in use, which is kept as %s.", engine.state.epoch, before)
        self.took_over = True
        if idist.get_rank() == 0:
            with staged(self.path) as place:
                torch.save(unwrapped(self.network).state_dict(), place)

    def state(self) -> dict[str, Any]:
        """What a training that goes on is to know."""
        return {"replaced_loss": self.replaced_loss, "took_over": self.took_over}


class TrainingProgress:
    """Write after every epoch how far a training is, as MONAI Label's clients read it, and say so in the log.

    Args:
        bundle: folder of the bundle.
        in_use: decides on the network of each epoch.
        best_loss: tells the lowest validation loss so far.
        loader: of the training; knows what is wrong with images that are left out.
    """

    def __init__(
        self, bundle: str | Path, in_use: NetworkInUse, best_loss: Callable[[], float], loader: PatchLoader
    ) -> None:
        self.path, self.in_use, self.best_loss = Path(bundle) / _STATS, in_use, best_loss
        self.loader = loader
        self._started, self._first = time.time(), 0

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.complete)

    def start(self, engine: Engine) -> None:
        """Start the clock; a training that is resumed has epochs before."""
        self._started, self._first = time.time(), engine.state.epoch
        self._write(engine)

    def __call__(self, engine: Engine) -> None:
        """Tell of the epoch that ends."""
        stats = self._write(engine)
        logger.info(
            "Epoch %d of %d, about %s left.", stats["epoch"], stats["total_epochs"],
            timedelta(seconds=stats["remaining_seconds"]),
        )  # fmt: skip

    def complete(self, engine: Engine) -> None:
        """Tell how long it took, and once more what was left out: MONAI Label keeps the last lines alone."""
        self._write(engine, total_time=str(timedelta(seconds=round(time.time() - self._started))))
        for fault in self.loader.left_out:
            logger.warning("Left out: %s", fault)
        if not self.in_use.took_over:
            logger.warning("The network in use stays: by validation none of this training was better.")

    def _write(self, engine: Engine, **more: Any) -> dict[str, Any]:
        epoch, total = engine.state.epoch, engine.state.max_epochs or 0
        passed, done = time.time() - self._started, epoch - self._first
        loss = self.best_loss()
        stats = {
            "start_ts": int(self._started),
            "epoch": epoch,
            "total_epochs": total,
            "remaining_seconds": round(passed / done * (total - epoch)) if done else None,
            "best_metric": best_metric(loss),
            "best_loss": loss if math.isfinite(loss) else None,
            "left_out": self.loader.left_out,
            **self.in_use.state(),
            **more,
        }
        if idist.get_rank() == 0:
            with staged(self.path) as place:
                place.write_text(json.dumps(stats, indent=4) + "\n")
        return stats


def best_metric(loss: float) -> float:
    """How much of the images' variance the network foresees at blind spots, 0 to 1, as clients show it.

    Args:
        loss: of the validation, a mean square in units of the images' standard deviations.

    Returns:
        1 for a noiseless image that is foreseen; with noise less, whatever the network.
    """
    return round(max(0.0, 1 - loss), 4) if math.isfinite(loss) else 0.0


def read_stats(bundle: str | Path) -> dict[str, Any]:
    """What the last training of a bundle wrote; nothing before, or where somebody else wrote there."""
    try:
        stats = json.loads((Path(bundle) / _STATS).read_text())
    except (OSError, ValueError):
        return {}
    return stats if isinstance(stats, dict) else {}
