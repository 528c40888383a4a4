# SPDX-License-Identifier: Apache-2.0
"""What MONAI's SupervisedTrainer and SupervisedEvaluator need beyond their own to train Noise2Void."""

import bisect
import logging
import math
import time
from collections.abc import Sequence
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


# Into how many equal steps the decay by the clock is cut, so that a list of so many numbers repeats it.
_N_LEVELS = 32


class AnnealedBudget:
    """Anneal the learning rate to zero within a budget of epochs or of seconds.

    The rate warms up linearly, stays, and falls linearly over the last part of the run. With a budget in seconds that
    part is a part of the time, whatever the speed, and the training ends when no further step fits. A step that takes
    longer than any before ends late; no other begins. What the clock decided is in ``engine.state.schedule`` then: with
    this ``schedule`` and as many epochs, another run repeats it exactly.

    Args:
        optimizer: whose learning rates are annealed from what they are now.
        max_time: budget in seconds of training, or None to keep the trainer's ``max_epochs``. At least one step runs.
        n_warmup: steps of linear warm-up.
        decay_fraction: last part of the run over which the rate falls, above 0 and at most 1.
        schedule: of a run with ``max_time``, to repeat it: after how many steps the rate fell, each time by the same
            amount, and at last how many steps there were.

    Raises:
        ValueError: for a value out of range, or epochs that do not fit the schedule.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        max_time: float | None = None,
        n_warmup: int = 10,
        decay_fraction: float = 0.5,
        schedule: Sequence[int] | None = None,
    ) -> None:
        if max_time is not None and max_time <= 0:
            raise ValueError(f"max_time must be above 0 seconds, got {max_time}. Use for example 120.")
        if not 0 < decay_fraction <= 1:
            raise ValueError(
                f"decay_fraction must be above 0 and at most 1, got {decay_fraction}. Use for example 0.5."
            )
        if schedule is not None and max_time is not None:
            raise ValueError(f"schedule must stand alone, got max_time {max_time:g} too. Drop one of them.")
        if schedule is not None and not _is_schedule(schedule):
            raise ValueError(f"schedule must be rising numbers of steps, got {schedule}. Copy it from a run's record.")
        self.optimizer = optimizer
        self.max_time = max_time
        self.n_warmup = n_warmup
        self.decay_fraction = decay_fraction
        self.schedule = None if schedule is None else list(schedule)
        self.rates = [group["lr"] for group in optimizer.param_groups]
        self._started, self._passed, self._fastest = 0.0, 0.0, math.inf
        self._falls: list[int] = []

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_STARTED, self)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.end)

    def start(self, engine: Engine) -> None:
        """Start the clock; with a budget in seconds the number of epochs is open."""
        self._started, self._passed, self._fastest, self._falls = time.perf_counter(), 0.0, math.inf, []
        if self.max_time is not None:
            engine.state.max_epochs = 10**9
        if self.schedule is not None:
            n_epochs = -(-self.schedule[-1] // engine.state.epoch_length)
            if engine.state.max_epochs != n_epochs:
                raise ValueError(
                    f"epochs must be {n_epochs} for a schedule of {self.schedule[-1]} steps, "
                    f"got {engine.state.max_epochs}. Give both as the record of the run has them."
                )
            self._falls = self.schedule[:-1]

    def __call__(self, engine: Engine) -> None:
        """Set the learning rate of the step that starts."""
        done = engine.state.iteration - 1
        factor = min(1.0, (done + 1) / self.n_warmup)
        if self.max_time is None and self.schedule is None:
            total = engine.state.max_epochs * engine.state.epoch_length
            decay_start = min(total - 1, math.ceil(total * (1 - self.decay_fraction)))
            factor *= min(1.0, (total - done) / (total - decay_start))
        else:
            if self.max_time is not None:
                share = (self._passed / self.max_time - (1 - self.decay_fraction)) / self.decay_fraction
                level = min(_N_LEVELS, math.floor(share * _N_LEVELS) + 1)
                self._falls += [done] * (level - len(self._falls))
            level = bisect.bisect_right(self._falls, done)
            factor *= 1 - (level - 0.5) / _N_LEVELS if level else 1
        for group, rate in zip(self.optimizer.param_groups, self.rates):
            group["lr"] = rate * factor

    def end(self, engine: Engine) -> None:
        """End the training behind the step that ends where no further one fits, or the schedule has none."""
        n_steps = engine.state.iteration
        if self.max_time is not None:
            before = self._passed
            # All processes of a distributed training must come to the same number.
            self._passed = float(idist.all_reduce(time.perf_counter() - self._started, "MAX"))
            if before:  # the first step sets things up, which takes longer
                self._fastest = min(self._fastest, self._passed - before)
            fits = self._passed + (self._fastest if before else 0) <= self.max_time
        else:
            fits = self.schedule is None or n_steps < self.schedule[-1]
        if fits:
            return
        engine.state.max_epochs = engine.state.epoch
        engine.terminate_epoch()
        if self.max_time is not None:
            engine.state.schedule = [*self._falls, n_steps]
            logger.info(
                "Training took %d steps within %g s. It repeats with %d epochs and the schedule %s.",
                n_steps, self.max_time, engine.state.epoch, engine.state.schedule,
            )  # fmt: skip


def _is_schedule(value: Any) -> bool:
    """Whether a value can be the ``schedule`` of `AnnealedBudget`."""
    rising = isinstance(value, Sequence) and len(value) > 0 and all(type(step) is int and step >= 0 for step in value)
    return rising and value[-1] > 0 and list(value) == sorted(value)
