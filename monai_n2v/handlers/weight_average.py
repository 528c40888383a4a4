# SPDX-License-Identifier: Apache-2.0
"""Averages of networks: of the weights over steps, of batch norm statistics over processes."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import ignite.distributed as idist
import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from torch.optim.swa_utils import get_ema_multi_avg_fn

from monai_n2v.handlers.checkpoints import unwrapped


class AveragedWeights:
    """The network to validate and to save: the trained one, or the running average of its weights.

    An exponential moving average, batch norm statistics included, smooths the noise of the last steps at a constant
    learning rate; annealing the rate does the same. At the start a step weighs 0.1, then less and less, so that the
    random weights of the start are soon forgotten. Its state belongs into the checkpoints.

    Args:
        network: the trained network.
        decay: share of the average that a step keeps, such as 0.999, which averages over about 1000 steps; 0 for none.

    Attributes:
        network: what to validate and to save.
        n_steps: steps averaged so far.

    Raises:
        ValueError: for a decay outside ``[0, 1)``.
    """

    def __init__(self, network: torch.nn.Module, decay: float = 0.0) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema must be in [0, 1), got {decay}. Use for example 0.999, or 0 for no average.")
        trained = unwrapped(network)
        self.network = copy.deepcopy(trained).requires_grad_(False) if decay else network
        self.decay, self.n_steps = decay, 0
        pairs = [*zip(self.network.parameters(), trained.parameters()), *zip(self.network.buffers(), trained.buffers())]
        self._floating = [pair for pair in pairs if pair[0].is_floating_point()]
        self._counters = [pair for pair in pairs if not pair[0].is_floating_point()]

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        if self.decay:
            engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:  # noqa: ARG002 - Ignite hands it over
        """Move averaged weights and statistics towards the trained ones; counters are copied."""
        last = 1 - self.decay
        first = max(0.1, last)
        weight = max(last, first + (last - first) * self.n_steps / max(1, round(1 / last) - 1))
        self.n_steps += 1
        # All at once: torch's AveragedModel sorts them at every step, and makes a GPU wait for its counter.
        averages, trained = zip(*self._floating)
        get_ema_multi_avg_fn(1 - weight)(averages, trained, 0)
        for average, counted in self._counters:
            average.copy_(counted)

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights and the number of steps; empty without an average."""
        return {"network": self.network.state_dict(), "steps": self.n_steps} if self.decay else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of `state_dict`."""
        if bool(self.decay) != bool(state):
            raise ValueError(
                "ema must stay on or off when a training is resumed, got the other. "
                "Resume with the ema it was started with."
            )
        if state:
            self.network.load_state_dict(state["network"])
            self.n_steps = state["steps"]


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
