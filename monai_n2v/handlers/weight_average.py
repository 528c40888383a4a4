# SPDX-License-Identifier: Apache-2.0
"""Averages of networks: of the weights over steps, of batch norm statistics over processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ignite.distributed as idist
import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler
from torch.optim.swa_utils import get_ema_multi_avg_fn

__all__ = ["AveragedWeights", "BufferAverage"]


class _AllAtOnce(EMAHandler):
    """Ignite's, with one update of all weights together: a third of the time that one by one takes on a CPU."""

    def __init__(self, model: torch.nn.Module, *args: Any, **kwargs: Any) -> None:
        super().__init__(model, *args, **kwargs)
        pairs = [*zip(self.ema_model.parameters(), self.model.parameters())]
        pairs += zip(self.ema_model.buffers(), self.model.buffers())
        self._floating = [pair for pair in pairs if pair[0].is_floating_point()]
        self._counters = [pair for pair in pairs if not pair[0].is_floating_point()]

    def _update_ema_model(self, engine: Engine, name: str) -> None:
        """Move averaged weights and statistics towards the trained ones; counters are copied."""
        update = get_ema_multi_avg_fn(1 - getattr(engine.state, name))
        averages, trained = zip(*self._floating)
        update(list(averages), [one.detach() for one in trained], 0)
        for average, counted in self._counters:
            average.copy_(counted)


class AveragedWeights:
    """The network to validate and to save: the trained one, or the running average of its weights.

    An exponential moving average by Ignite's ``EMAHandler``, batch norm statistics included, smooths the noise of the
    last steps at a constant learning rate; annealing the rate does the same. The momentum starts at 0.1 and falls, so
    that the random weights of the start are soon forgotten. Its state belongs into the checkpoints.

    Args:
        network: the trained network.
        decay: share of the average that a step keeps, such as 0.999, which averages over about 1000 steps; 0 for none.

    Attributes:
        network: what to validate and to save.

    Raises:
        ValueError: for a decay outside ``[0, 1)``.
    """

    def __init__(self, network: torch.nn.Module, decay: float = 0.0) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema must be in [0, 1), got {decay}. Use for example 0.999, or 0 for no average.")
        self._handler: EMAHandler | None = None
        if decay:
            momentum = 1 - decay
            self._handler = _AllAtOnce(
                network,
                momentum,
                momentum_warmup=max(0.1, momentum),
                warmup_iters=round(1 / momentum),
                handle_buffers="update",
            )
        self.network = network if self._handler is None else self._handler.ema_model

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        if self._handler is not None:
            self._handler.attach(engine)

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights and the steps that the momentum has fallen for; empty without an average."""
        if self._handler is None:
            return {}
        return {"network": self.network.state_dict(), "steps": self._schedule().event_index}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of `state_dict`."""
        if (self._handler is not None) != bool(state):
            raise ValueError(
                "ema must stay on or off when a training is resumed, got the other. "
                "Resume with the ema it was started with."
            )
        if self._handler is not None:
            self.network.load_state_dict(state["network"])
            self._schedule().event_index = state["steps"]

    def _schedule(self) -> Any:
        # Ignite's own state of it holds a function, which no checkpoint read with weights_only may hold.
        if self._handler is None or self._handler.momentum_scheduler is None:
            raise RuntimeError("attach must come before the state is read or loaded. Attach to the trainer first.")
        return self._handler.momentum_scheduler


class BufferAverage:
    """Average the running statistics of batch norm over all processes after the last step of every epoch.

    Weights are the same on all processes anyway. So whatever happens between epochs (validation, checkpoints, the saved
    network) sees one network, and what process 0 writes stands for all. Attach it after what changes weights in steps,
    such as `AveragedWeights`.

    Args:
        networks: whose statistics.
    """

    def __init__(self, networks: Sequence[torch.nn.Module]) -> None:
        self.networks = list(networks)

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        # Before the epoch's own end, where handlers validate and save.
        engine.add_event_handler(Events.ITERATION_COMPLETED(event_filter=_last_of_epoch), self)

    def __call__(self, engine: Engine) -> None:  # noqa: ARG002 - Ignite hands it over
        """Average; what two networks share, once only."""
        if idist.get_world_size() == 1:
            return
        buffers = {
            id(buffer): buffer
            for network in self.networks
            for name, buffer in network.named_buffers()
            if name.endswith(("running_mean", "running_var"))
        }
        if buffers:
            mean = torch.cat([buffer.flatten() for buffer in buffers.values()])
            dist.all_reduce(mean)
            mean /= dist.get_world_size()
            for buffer, part in zip(buffers.values(), mean.split([b.numel() for b in buffers.values()])):
                buffer.copy_(part)


def _last_of_epoch(engine: Engine, event: int) -> bool:
    length = engine.state.epoch_length
    return length is not None and event % length == 0
