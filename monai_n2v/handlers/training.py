# SPDX-License-Identifier: Apache-2.0
"""What MONAI's SupervisedTrainer and SupervisedEvaluator need beyond their own to train Noise2Void."""

import logging
import math
import time
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.engines import IterationEvents, PrepareBatch

logger = logging.getLogger(__name__)


def shared_handler(handler: Any) -> Any:
    """Return a handler that is an entry of its own in a config, since others refer to it too.

    MONAI wants every entry of ``train#handlers`` to have a ``_target_``, so a bare reference cannot stand there.

    Args:
        handler: any handler.

    Returns:
        the same object.
    """
    return handler


class PrepareN2VBatch(PrepareBatch):
    """Pack label and mask into one target, since MONAI's trainer hands the loss two arguments only.

    Without a mask every voxel counts, as in traditional and Noise2Noise training. The ``context`` of a batch follows
    the image as further channels, as it is.
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
        if "context" in batchdata:
            image = torch.cat([image, batchdata["context"].to(**to)], dim=1)
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


class LossGuard:
    """Stop a training whose loss is no longer a number, before anything of that epoch is saved.

    It looks at the epoch's mean, which is not finite as soon as one step's loss was not, so that no step has to wait
    for the device. Attach it before handlers that save or validate.

    Args:
        metric: the epoch's mean loss among the trainer's metrics.

    Raises:
        FloatingPointError: at the end of an epoch with a loss that is NaN or infinite.
    """

    def __init__(self, metric: str = "train_loss") -> None:
        self.metric = metric

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Look at the epoch that ends."""
        loss = float(engine.state.metrics[self.metric])
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"loss must be finite, got {loss} in epoch {engine.state.epoch}: the training diverged. "
                "Train with a lower lr, or with gradients clipped (grad_clip 0.1)."
            )


class GradientClipper:
    """Scale the gradient of every step down to a largest norm.

    Args:
        network: whose gradient.
        max_norm: largest Euclidean norm of the whole gradient; None leaves it as it is.

    Raises:
        ValueError: for a norm that is not above 0.
    """

    def __init__(self, network: torch.nn.Module, max_norm: float | None = None) -> None:
        if max_norm is not None and max_norm <= 0:
            raise ValueError(f"grad_clip must be above 0, got {max_norm}. Use 0.1, or null to leave gradients alone.")
        self.network = network
        self.max_norm = max_norm

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer of MONAI."""
        if self.max_norm is not None:
            engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:  # noqa: ARG002 - Ignite hands it over
        """Scale the gradient of the step."""
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm or math.inf)


class AnnealedBudget:
    """Anneal the learning rate to zero within a budget of epochs or of seconds.

    The rate warms up linearly, stays, and falls linearly over the last part of the run. Up to that last part it does
    not depend on the run's length. So a budget in seconds need not be turned into steps before the decay begins, when
    the speed is well known; from there the number of epochs is fixed. A run of that many epochs repeats it exactly.

    Args:
        optimizer: whose learning rates are annealed from what they are now.
        max_time: budget in seconds of training, or None to keep the trainer's ``max_epochs``. At least two epochs run.
        n_warmup: steps of linear warm-up.
        decay_fraction: last part of the run over which the rate falls, above 0 and at most 1.

    Raises:
        ValueError: for a value out of range.
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
        if not 0 < decay_fraction <= 1:
            raise ValueError(
                f"decay_fraction must be above 0 and at most 1, got {decay_fraction}. Use for example 0.5."
            )
        self.optimizer = optimizer
        self.max_time = max_time
        self.n_warmup = n_warmup
        self.decay_fraction = decay_fraction
        self.rates = [group["lr"] for group in optimizer.param_groups]
        self._planned = max_time is None
        self._started, self._n_epochs = 0.0, 0

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_STARTED, self)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.plan)

    def start(self, engine: Engine) -> None:
        """Start the clock; with a budget in seconds the number of epochs is open."""
        self._started, self._n_epochs = time.perf_counter(), 0
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
        self._n_epochs += 1  # of this run: one that was resumed has others before
        # All processes of a distributed training must come to the same number.
        per_epoch = float(idist.all_reduce((time.perf_counter() - self._started) / self._n_epochs, "MAX"))
        n_epochs = max(epoch + 1, epoch - self._n_epochs + int((self.max_time or 0) / per_epoch))
        if self.decay_start(n_epochs * length) >= (epoch + 1) * length:
            return
        while self.decay_start(n_epochs * length) < epoch * length:
            n_epochs += 1
        engine.state.max_epochs = n_epochs
        self._planned = True
        logger.info("Training takes %d epochs of %d steps within %g s.", n_epochs, length, self.max_time)
