# SPDX-License-Identifier: Apache-2.0
"""The bundles as programs: trained and run on files and on loaded images, through MONAI's ConfigWorkflow."""

import contextlib
import logging
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import monai.utils.misc
import numpy as np
import torch
from ignite.engine import Engine, Events

from monai_n2v.bundle.options import PredictionOptions
from monai_n2v.bundle.resources import find_config
from monai_n2v.bundle.trained import TrainedNetwork
from monai_n2v.bundle.workflow import N2VWorkflow, unwrapped
from monai_n2v.handlers.checkpoints import load_weights
from monai_n2v.inferers.noise_by_network import predict_with
from monai_n2v.io.volume import Volume

# Of inference.json, what `Denoiser` works with.
_NEEDED = ("ckpt_path", "check", "preprocessing", "dataset", "inferer", "network", "evaluator")

# Told of every image: its item of the data list, and what became of it.
Tell = Callable[[Mapping[str, Any], Mapping[str, Any] | Exception], None]


@contextlib.contextmanager
def untouched_process() -> Iterator[None]:
    """Leave random states, cudnn's flags, warnings and loggers of the caller's process as they were.

    Inside, MONAI's notices to the authors of bundles and Ignite's reports of errors are not shown.
    """
    loggers = [logging.getLogger("monai.bundle.workflows"), logging.getLogger("ignite")]
    levels = [logger.level for logger in loggers]
    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    cudnn = torch.backends.cudnn
    flags = cudnn.deterministic, cudnn.benchmark
    # What a Compose made later draws from.
    monai_seed = monai.utils.misc._seed
    try:
        for logger, level in zip(loggers, (logging.ERROR, logging.CRITICAL)):
            logger.setLevel(level)
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
        cudnn.deterministic, cudnn.benchmark = flags
        monai.utils.misc._seed = monai_seed
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


def train(
    bundle: Path, data: Sequence[Mapping[str, Any]], output_dir: Path, overlays: Sequence[str] = (), **overrides: Any
) -> dict[str, Any]:
    """Train a bundle's network.

    Args:
        bundle: folder of the bundle.
        data: the data list, ``[{"image": image}, ...]``; an image is whatever `LoadNoisyd` takes. Schemes that learn
            from pairs (``supervised.json``, ``noise2noise.json``) have a ``label`` beside each image.
        output_dir: where the bundle writes ``models/model.pt``.
        overlays: names in ``configs/``, laid over the bundle's ``train.json`` in order.
        overrides: config entries by id; see `check_overrides`.

    Returns:
        the record of the run: ``epochs``, ``epoch_length``, ``steps``, ``bfloat16``, and ``losses``, the mean loss of
        every epoch; with ``max_time`` the ``schedule`` that repeats it.
    """
    # No record of the config: the caller keeps its bundle's.
    entries = {"save_config": False, **overrides, "output_dir": str(output_dir), "train#dataset#data": data}
    with untouched_process():
        workflow = _initialized("train", bundle, overlays, entries)
        trainer = workflow.get("train#trainer")
        losses: list[float] = []
        trainer.add_event_handler(
            Events.EPOCH_COMPLETED, lambda engine: losses.append(float(engine.state.metrics["train_loss"]))
        )
        workflow.run()
        workflow.finalize()
        amp = workflow.get("train#inferer").amp
    state = trainer.state
    return {
        "epochs": state.max_epochs,
        "epoch_length": state.epoch_length,
        "steps": state.iteration,
        "bfloat16": amp,
        "losses": losses,
        **({"schedule": state.schedule} if hasattr(state, "schedule") else {}),
    }


def _initialized(kind: str, bundle: Path, overlays: Sequence[str], entries: dict[str, Any]) -> N2VWorkflow:
    """A bundle's ``train.json`` or ``inference.json`` with overlays and entries laid over it, ready to run."""
    configs = [bundle / "configs" / f"{kind}.json", *(find_config(name) for name in overlays)]
    workflow = N2VWorkflow(
        config_file=[str(path) for path in configs],
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type=kind,
        **{"bundle_root": str(bundle), **entries},
    )
    workflow.initialize()
    return workflow


def _of_another_version(network: TrainedNetwork, reason: str) -> str:
    return (
        f"model must be a bundle of this version, got one of another for {network.bundle}. Train again, or copy its "
        f"models/model.pt out of the bundle and pass the copy. ({' '.join(reason.split())})"
    )


class Denoiser:
    """A bundle's inference, made ready once for any number of images: one workflow, one loaded network.

    Args:
        network: the trained network.
        options: how it denoises.
        check: called with every volume before it is denoised; raises a ValueError for one that is to be refused.
        overlays: names in ``configs/``, laid over the bundle's ``inference.json`` in order.
        overrides: further config entries by id.

    Attributes:
        options: by name, as they are in force: ``tta``, ``keep_padding``, ``coils``.

    Raises:
        ValueError: for an option that the bundle does not have, a bundle of another version, or weights of another
            network.
    """

    def __init__(
        self,
        network: TrainedNetwork,
        options: PredictionOptions | None = None,
        check: Callable[[Volume], None] | None = None,
        overlays: Sequence[str] = (),
        **overrides: Any,
    ) -> None:
        keys = (options or PredictionOptions()).keys()
        unknown = next((key for key in keys if key not in network.keys), None)
        if unknown is not None:
            raise ValueError(
                f"{unknown} must come with a bundle whose inference.json has it, got {network.bundle}. "
                f"Train again, or leave {unknown} out."
            )
        entries = {**overrides, **keys, "ckpt_path": str(network.weights), "dataset#data": [], "check": check}
        missing = next((key for key in _NEEDED if key not in network.keys), None)
        if missing is not None:
            raise ValueError(_of_another_version(network, f"Its inference.json has no {missing}."))
        self._weights = network.weights
        with untouched_process(), _called_model():
            try:
                self._workflow = _initialized("inference", network.bundle, overlays, entries)
                self._dataset, self._evaluator = self._workflow.get("dataset"), self._workflow.get("evaluator")
            except (ModuleNotFoundError, TypeError) as error:  # a class that has left since, or takes other arguments
                if isinstance(error, TypeError) and "unexpected keyword argument" not in str(error):
                    raise
                raise ValueError(_of_another_version(network, f"{error}.")) from error
            # After a failure Ignite would otherwise go on with the run that failed.
            self._evaluator.interrupt_resume_enabled = False
        known = [name for name in ("tta", "keep_padding", "coils") if name in network.keys]
        self.options: dict[str, Any] = {name: self._workflow.get(name) for name in known}

    def __call__(self, image: Any, target: Path | None = None) -> np.ndarray:
        """Denoise one image.

        Args:
            image: whatever `LoadNoisyd` takes.
            target: where the result of an image that came from a file is written, too.

        Returns:
            float32 ``(C, *spatial)``, in the units of the image.

        Raises:
            ValueError: for an image that cannot be denoised.
            OSError: where it cannot be read, or the result cannot be written.
        """
        found: list[Mapping[str, Any] | Exception] = []
        self.run([{"image": image, "target": str(target or "")}], lambda _, outcome: found.append(outcome))
        if isinstance(found[0], Exception):
            raise found[0]
        return found[0]["pred"].numpy()

    def standardized(self, image: Any, series: str | None = None) -> torch.Tensor:
        """An image as the network is given it, ``(C, *spatial)``: read, its shortest axis last, standardized.

        Args:
            image: whatever `LoadNoisyd` takes.
            series: of a folder with several.
        """
        with untouched_process(), unwrapped():
            standardized: torch.Tensor = self._workflow.get("preprocessing")({"image": image, "series": series})[
                "image"
            ]
        return standardized

    def network_alone(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """The network as a function of standardized images, one channel each; see `predict_with`."""
        with untouched_process():
            inferer, network = self._workflow.get("inferer#inferer"), self._workflow.get("network")
        network.load_state_dict(load_weights(self._weights))  # the evaluator would do so when it runs
        return predict_with(network, inferer)

    def run(self, items: Sequence[Mapping[str, Any]], tell: Tell) -> None:
        """Denoise images one after the other; one that fails does not stop the others.

        Args:
            items: the data list: ``image`` is whatever `LoadNoisyd` takes; ``target`` is where a file's result goes,
                empty for nowhere.
            tell: called after every image with its item and the outcome: ``{"pred": tensor (C, *spatial), ...}``, or
                the exception. It may let go of the image: nothing here keeps it.
        """
        left = list(items)
        while left:
            told = _Told(left, tell)
            self._dataset.data, self._evaluator.state.epoch_length = left, len(left)
            with untouched_process(), self._evaluator.add_event_handler(Events.ITERATION_COMPLETED, told):
                try:
                    with _called_model():
                        self._workflow.run()
                except Exception as error:  # noqa: BLE001 - whatever a file may hold, the others are done
                    told.fail(error)
                else:
                    if told.n < len(left):
                        told.fail(ValueError("evaluator must reach every image, got an early end. Check its handlers."))
                finally:
                    self._dataset.data, self._evaluator.state.batch, self._evaluator.state.output = [], None, None
            left = left[told.n :]


class _Told:
    """Tell of every image what became of it; ``n`` counts those that were told of."""

    def __init__(self, items: Sequence[Mapping[str, Any]], tell: Tell) -> None:
        self.items, self.tell, self.n = items, tell, 0

    def __call__(self, engine: Engine) -> None:
        """After an image: hand it on and let go of it."""
        output = engine.state.output[0]
        engine.state.batch = engine.state.output = None
        self.tell(self.items[self.n], output)
        self.n += 1

    def fail(self, error: Exception) -> None:
        """After a failure: the image is done with; behind the last one it is the caller's."""
        if self.n == len(self.items):
            raise error
        self.n += 1
        self.tell(self.items[self.n - 1], error)


@contextlib.contextmanager
def _called_model() -> Iterator[None]:
    """Call the weights what users of this package call them."""
    try:
        yield
    except ValueError as error:
        raise ValueError(str(error).replace("ckpt_path must", "model must", 1)) from error
