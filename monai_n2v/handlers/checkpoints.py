# SPDX-License-Identifier: Apache-2.0
"""What a training leaves on disk: weights, the best and the last, and checkpoints to go on from.

In a distributed training all processes read and process 0 alone writes.
"""

import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.handlers import CheckpointLoader

from monai_n2v.io.atomic import staged
from monai_n2v.io.lock import Lock


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
            "Run train.json first, or leave ckpt_path out to denoise by the prior."
        )
    state = load_weights(path)
    if network is not None:
        other, n_axes = unlike(network, state), _axes(unwrapped(network).state_dict())
        if _axes(state) != n_axes:
            raise ValueError(
                f"ckpt_path must hold weights of a {n_axes}D network, got those of a {_axes(state)}D network "
                f"for {path}. Take the {_axes(state)}D bundle."
            )
        if other:
            raise ValueError(
                f"ckpt_path must hold weights of the network its bundle configures, got weights of another "
                f"({len(other)} names or shapes differ, {other[0]} first) for {path}. "
                "Give the features, network_def and overlays of the training."
            )
    return str(path)


def unlike(network: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of the weights that only one of both has, or in another shape."""
    own = {name: tuple(value.shape) for name, value in unwrapped(network).state_dict().items()}
    given = {name: tuple(value.shape) for name, value in state.items()}
    return sorted(name for name in own.keys() | given.keys() if own.get(name) != given.get(name))


def _axes(state: Mapping[str, torch.Tensor]) -> int:
    """Spatial axes of the convolutions that weights belong to."""
    return max((value.ndim for value in state.values()), default=2) - 2


def unwrapped(value: Any) -> Any:
    """The network inside ``DistributedDataParallel``; anything else as it is."""
    return value.module if isinstance(value, torch.nn.parallel.DistributedDataParallel) else value


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
        """Attach to a trainer, or an evaluator."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Write the file."""
        if idist.get_rank() == 0:
            self.write()
            engine.logger.info("Saved the trained network: %s", self.path)

    def write(self) -> None:
        """Write the weights as they are now."""
        with staged(self.path) as place:
            torch.save(unwrapped(self.network).state_dict(), place)


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


def checkpoints_of(folder: str | Path) -> dict[int, Path]:
    """The checkpoints of a training, by the number of epochs that it had done."""
    return {int(path.stem.rpartition("=")[2]): path for path in Path(folder).glob("checkpoint_epoch=*.pt")}


class ResumableCheckpoints:
    """Save everything a run needs to go on, after every epoch, and go on from the latest.

    The trainer's own state is among it, which only a handler can reach while the trainer is being built. Attach it
    last, so that the epoch's validation and learning rate are in the checkpoint. The checkpoints of the last two epochs
    stay. A process killed at any moment leaves at least the last completed epoch. Checkpoints of an earlier run in the
    same folder are set aside (``.old``) when a new one starts, so that it never goes on from them, and removed when it
    completes.

    Args:
        folder: of the files ``checkpoint_epoch=N.pt``; each is written whole or not at all.
        objects: network, optimizer and whatever else has a state, by name.
        resume: whether to go on from the latest checkpoint.
        device: where the checkpoint is loaded to.

    Raises:
        FileNotFoundError: with ``resume``, where there is no checkpoint.
        ValueError: with ``resume``, where the latest is damaged or of another program.
        FileExistsError: when the training starts, where another process trains into the folder above.
    """

    def __init__(
        self, folder: str | Path, objects: Mapping[str, Any], resume: bool = False, device: torch.device | str = "cpu"
    ) -> None:
        self.folder = Path(folder)
        self.objects = dict(objects)
        self.device = device
        self._epoch_length: int | None = None
        self.latest = self._find_latest() if resume else None

    def _by_epoch(self) -> dict[int, Path]:
        return checkpoints_of(self.folder)

    def _find_latest(self) -> str:
        paths = self._by_epoch()
        if not paths:
            raise FileNotFoundError(
                f"resume must find a checkpoint_epoch=N.pt, got none in {self.folder}. Train without --resume first."
            )
        path = paths[max(paths)]
        try:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
            names, trainer = set(checkpoint), checkpoint["trainer"]
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
        for name, network in self.objects.items():
            if isinstance(network, torch.nn.Module) and unlike(network, checkpoint[name]):
                raise ValueError(
                    f"resume must find weights of the network that train.json configures, got others for {path}. "
                    "Resume with the features and network_def it was started with."
                )
        self._epoch_length = trainer.get("epoch_length")
        return str(path)

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        if self.latest is not None:
            done, n_epochs = max(checkpoints_of(self.folder)), engine.state.max_epochs
            if n_epochs is not None and n_epochs < done:
                raise ValueError(
                    f"epochs must be at least the {done} that the training has done, got {n_epochs}. "
                    "Ask for more, or train anew without resume."
                )
            if self._epoch_length not in (None, engine.state.epoch_length):
                raise ValueError(
                    f"epoch_length must stay {self._epoch_length} when a training is resumed, got "
                    f"{engine.state.epoch_length}. Resume with the epoch_length it was started with."
                )
            objects = {**self.objects, "trainer": engine}
            CheckpointLoader(self.latest, objects, map_location=self.device).attach(engine)
        if idist.get_rank() > 0:
            return
        engine.add_event_handler(Events.STARTED, self.lock)
        if self.latest is None:
            engine.add_event_handler(Events.STARTED, self.set_aside)
        engine.add_event_handler(Events.COMPLETED, self.remove_aside)
        engine.add_event_handler(Events.COMPLETED, self.unlock)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)

    def lock(self, engine: Engine) -> None:  # noqa: ARG002 - Ignite hands it over
        """Refuse a folder that another process trains into; it is held until the training ends."""
        self._unlock = weakref.finalize(self, Lock(self.folder.parent).release)

    def unlock(self, engine: Engine) -> None:  # noqa: ARG002 - Ignite hands it over
        """Let the folder go."""
        self._unlock()

    def set_aside(self, engine: Engine) -> None:
        """Rename the checkpoints of an earlier run, so that this one, interrupted early, never goes on from them."""
        earlier = self._by_epoch()
        for path in earlier.values():
            path.replace(path.with_name(path.name + ".old"))
        if earlier:
            engine.logger.warning(
                "%s holds a training of %d epochs, which this one replaces. To go on with it instead, stop now, rename "
                "its .old file, and pass --resume True; to keep both, pass another --output_dir.",
                self.folder, max(earlier),
            )  # fmt: skip

    def remove_aside(self, engine: Engine) -> None:  # noqa: ARG002 - Ignite hands it over
        """Remove the checkpoints of an earlier run."""
        for path in self.folder.glob("checkpoint_epoch=*.pt.old"):
            path.unlink()

    def save(self, engine: Engine) -> None:
        """Write the checkpoint of the epoch that ends; of the others that of the epoch before stays."""
        for epoch, path in self._by_epoch().items():
            if epoch != engine.state.epoch - 1:
                path.unlink()
        objects = {**self.objects, "trainer": engine}
        with staged(self.folder / f"checkpoint_epoch={engine.state.epoch}.pt") as place:
            torch.save({name: unwrapped(value).state_dict() for name, value in objects.items()}, place)
