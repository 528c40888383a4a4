# SPDX-License-Identifier: Apache-2.0
"""What a training leaves on disk: weights, the best and the last, and checkpoints to go on from.

In a distributed training all processes read and process 0 alone writes.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, EMAHandler
from monai.handlers import CheckpointLoader

from monai_n2v.staging import staged

__all__ = [
    "AveragedWeights",
    "BestModelSaver",
    "ModelSaver",
    "ResumableCheckpoints",
    "load_weights",
    "require_checkpoint",
]


def load_weights(path: str | Path, name: str = "ckpt_path") -> dict[str, torch.Tensor]:
    """Read a file of network weights, without running code from it.

    Args:
        path: a flat state dict, as `ModelSaver` writes it.
        name: of the argument, for messages.

    Returns:
        the tensors by name, on the CPU.

    Raises:
        ValueError: for a file that is damaged or holds anything else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch raises a dozen kinds for a file that is none of its own
        raise ValueError(
            f"{name} must be a file of network weights, got another or a damaged one for {path}. "
            "Pass the models/model.pt of a training."
        ) from error
    if not isinstance(state, dict) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ValueError(
            f"{name} must be a file of network weights alone, got more or something else for {path}. "
            "Pass the models/model.pt of a training, not one of its checkpoints."
        )
    return state


def require_checkpoint(path: str | Path, network: torch.nn.Module | None = None) -> str:
    """Return the path of a trained network's weights, or say what is wrong with it.

    Args:
        path: of the weights.
        network: that is to take them.

    Returns:
        the same path.

    Raises:
        FileNotFoundError: where there is no file.
        ValueError: where it is damaged, or holds weights of another network.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"ckpt_path must be a file of trained weights, got none at {path}. "
            "Noise2Void learns from your own images: run train.json first, or pass --ckpt_path FILE."
        )
    state = load_weights(path)
    if network is not None:
        own = {name: tuple(value.shape) for name, value in _unwrap(network).state_dict().items()}
        given = {name: tuple(value.shape) for name, value in state.items()}
        other = sorted(name for name in own.keys() | given.keys() if own.get(name) != given.get(name))
        if other:
            raise ValueError(
                f"ckpt_path must hold weights of the network its bundle configures, got {len(other)} others, "
                f"{other[0]} first, for {path}. Set features and network_def in inference.json as in training."
            )
    return str(path)


def _unwrap(network: torch.nn.Module) -> torch.nn.Module:
    parallel = isinstance(network, torch.nn.parallel.DistributedDataParallel)
    return cast(torch.nn.Module, network.module) if parallel else network


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
            self._handler = EMAHandler(
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
        if self._handler is not None and state:
            self.network.load_state_dict(state["network"])
            self._schedule().event_index = state["steps"]

    def _schedule(self) -> Any:
        # Ignite's own state of it holds a function, which no checkpoint read with weights_only may hold.
        if self._handler is None or self._handler.momentum_scheduler is None:
            raise RuntimeError("attach must come before the state is read or loaded. Attach to the trainer first.")
        return self._handler.momentum_scheduler


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
        if idist.get_rank() == 0:
            self.write()
            engine.logger.info("Saved the trained network: %s", self.path)

    def write(self) -> None:
        """Write the weights as they are now."""
        with staged(self.path) as place:
            torch.save(_unwrap(self.network).state_dict(), place)


class BestModelSaver(ModelSaver):
    """Write the weights whenever validation is better than ever before. Its state belongs into the checkpoints.

    Args:
        network: whose weights to save.
        path: of the file; its folder is made.
        metric: of the evaluator, lower is better.
    """

    def __init__(self, network: torch.nn.Module, path: str | Path, metric: str = "val_loss") -> None:
        super().__init__(network, path)
        self.metric = metric
        self.best = float("inf")

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Compare the validation that ends."""
        value = float(engine.state.metrics[self.metric])
        if value < self.best:
            self.best = value
            if idist.get_rank() == 0:
                self.write()

    def state_dict(self) -> dict[str, float]:
        """The best value so far."""
        return {"best": self.best}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from a state of `state_dict`."""
        self.best = float(state["best"])


class ResumableCheckpoints:
    """Save everything a run needs to go on, after every epoch, and go on from the latest.

    The trainer's own state is among it, which only a handler can reach while the trainer is being built. Attach it
    last, so that the epoch's validation and learning rate are in the checkpoint. The checkpoints of the last two epochs
    stay; those of an earlier run in the same folder go when this run saves its first. A process killed at any moment
    leaves at least the last completed epoch.

    Args:
        folder: of the files ``checkpoint_epoch=N.pt``; each is written whole or not at all.
        objects: network, optimizer and whatever else has a state, by name.
        resume: whether to go on from the latest checkpoint.
        device: where the checkpoint is loaded to.

    Raises:
        FileNotFoundError: with ``resume``, where there is no checkpoint.
        ValueError: with ``resume``, where the latest is damaged or of another program.
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
        path = paths[max(paths)]
        try:
            names = set(torch.load(path, map_location="cpu", weights_only=True))
        except Exception as error:  # torch raises a dozen kinds for a file that is none of its own
            raise ValueError(
                f"resume must find a whole checkpoint, got a damaged or foreign file for {path}. "
                "Remove it to go on from the epoch before."
            ) from error
        if names != {*self.objects, "trainer"}:
            raise ValueError(
                f"resume must find a checkpoint of this training, got one of {', '.join(sorted(map(str, names)))} "
                f"for {path}. Resume with the configs it was started with."
            )
        return str(path)

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        objects = {**self.objects, "trainer": engine}
        if self.latest is not None:
            CheckpointLoader(self.latest, objects, map_location=self.device).attach(engine)
        if idist.get_rank() > 0:
            return
        save = Checkpoint(
            objects, self._write, score_function=lambda e: e.state.epoch, score_name="epoch", n_saved=None
        )
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.prune)
        engine.add_event_handler(Events.EPOCH_COMPLETED, save)

    def _write(self, state: Mapping[str, Any], name: str, _: Mapping[str, Any] | None = None) -> None:
        with staged(self.folder / name) as place:
            torch.save(state, place)

    def prune(self, engine: Engine) -> None:
        """Remove all checkpoints but that of the epoch before, which stays until this epoch's is whole."""
        for epoch, path in self._by_epoch().items():
            if epoch != engine.state.epoch - 1:
                path.unlink()
        for stage in self.folder.glob(".checkpoint_epoch=*"):  # of a process killed while it wrote
            shutil.rmtree(stage, ignore_errors=True)
