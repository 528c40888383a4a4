# SPDX-License-Identifier: Apache-2.0
"""A training step in the bundle over the bare step of the same network on a ready batch; masking; one default epoch.

The two kinds of step take turns, so that a drifting machine slows both; medians.
``python -m benchmarks.speed.overhead``
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.common import save
from benchmarks.recipes import N2V_ALONE
from monai_n2v.inferers.precision import has_fast_bfloat16

# The paper's batch and a large one in 3D; those that bundles and command line take.
BATCHES: dict[int, tuple[int, tuple[int, ...]]] = {2: (128, (64, 64)), 3: (4, (64, 64, 64))}
OWN_BATCHES: dict[int, tuple[int, tuple[int, ...]]] = {2: (16, (64, 64)), 3: (4, (32, 32, 32))}


def steps(
    spatial_dims: int,
    overlays: Sequence[str] = (),
    prepare: Callable[[torch.nn.Module], None] | None = None,
    **overrides: Any,
) -> tuple[Callable[[], None], Callable[[], None], Any]:
    """A step through the bundle's own trainer, and a bare one of the same network in the same precision.

    Args:
        spatial_dims: which bundle.
        overlays: what is laid over its ``train.json``.
        prepare: done to the network first.
        overrides: entries of the config.

    Returns:
        both steps, and the trainer.
    """
    from monai.bundle import ConfigWorkflow
    from monai.data import MetaTensor

    from monai_n2v.bundle.resources import bundle_name, find_bundle, find_config
    from monai_n2v.inferers.precision import autocast_bfloat16
    from monai_n2v.losses import N2VLoss

    bundle = find_bundle(bundle_name(spatial_dims))
    volume = torch.randn(1, *(160,) * spatial_dims, generator=torch.Generator().manual_seed(0))
    overlays = [*overlays, "anneal.json"]
    flow = ConfigWorkflow(
        config_file=[str(bundle / "configs" / "train.json"), *map(str, map(find_config, overlays))],
        workflow_type="train",
        logging_file=False,
        meta_file=str(bundle / "configs" / "metadata.json"),
        **{
            "output_dir": tempfile.mkdtemp(),
            "train#dataset#data": [{"image": MetaTensor(volume)}],
            "progress": False,
            "epochs": 10**6,
            "epoch_length": 10**6,
            **overrides,
        },
    )  # fmt: skip
    flow.initialize()
    if prepare is not None:
        prepare(flow.parser.get_parsed_content("network"))
    trainer = flow.parser.get_parsed_content("train#trainer")
    loader = iter(flow.parser.get_parsed_content("train#dataloader"))
    # One iteration as Ignite runs it: events, data, update. The engine's generator stops after each iteration.
    from ignite.engine import Events

    trainer.state.epoch, trainer.state.epoch_length, trainer.state.max_epochs = 1, 10**6, 10**6
    trainer.state.iteration = 0

    def bundle_step() -> None:
        trainer.state.batch = next(loader)
        trainer.state.iteration += 1
        trainer.fire_event(Events.ITERATION_STARTED)
        trainer.state.output = trainer._process_function(trainer, trainer.state.batch)
        trainer.fire_event(Events.ITERATION_COMPLETED)

    network, loss = flow.parser.get_parsed_content("network"), N2VLoss()
    kind = flow.parser.get_parsed_content("optimizer").defaults
    optimizer = torch.optim.Adam(network.parameters(), lr=4e-4, fused=kind.get("fused"))
    ready = {key: tensor.clone() for key, tensor in next(loader).items()}
    forward = autocast_bfloat16(network) if flow.parser.get_parsed_content("amp") else network
    max_norm = flow.parser.get_parsed_content("grad_clip")

    def bare_step() -> None:
        network.train()
        optimizer.zero_grad()
        loss(forward(ready["image"]), ready["label"], ready["mask"]).backward()
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_(network.parameters(), max_norm)
        optimizer.step()

    return bundle_step, bare_step, trainer


def interleaved(functions: Sequence[Callable[[], None]], n_rounds: int) -> np.ndarray:
    """Seconds of functions that take turns, ``(n_rounds, n_functions)``, after a round to warm up."""
    seconds = np.empty((n_rounds + 1, len(functions)))
    for row, column in itertools.product(range(n_rounds + 1), range(len(functions))):
        started = time.perf_counter()
        functions[column]()
        seconds[row, column] = time.perf_counter() - started
    return seconds[1:]


def overhead(
    spatial_dims: int, n_rounds: int, batch: tuple[int, tuple[int, ...]], overlays: Sequence[str] = ()
) -> dict[str, Any]:
    """Medians of both steps, taken in turns, and of the ratios of neighbors."""
    batch_size, patch_size = batch
    both = steps(spatial_dims, overlays, batch_size=batch_size, patch_size=list(patch_size))[:2]
    seconds = interleaved(both, n_rounds)
    return {
        "batch": [batch_size, *patch_size],
        "bfloat16": has_fast_bfloat16("cpu"),
        "bundle_step_ms": round(1e3 * float(np.median(seconds[:, 0])), 1),
        "bare_step_ms": round(1e3 * float(np.median(seconds[:, 1])), 1),
        "ratio": round(float(np.median(seconds[:, 0] / seconds[:, 1])), 3),
        "n_rounds": n_rounds,
    }


def masking(n_rounds: int = 200) -> dict[str, Any]:
    """Masking a ready batch of 128 images of 64x64 with 64 blind spots each, on one thread."""
    from monai_n2v.transforms.pairing import RandN2VMaskd

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    transform = RandN2VMaskd("image", batched=True).set_random_state(0)
    batch = {"image": torch.randn(128, 1, 64, 64)}
    seconds = []
    for _ in range(n_rounds):
        started = time.perf_counter()
        transform(batch)
        seconds.append(time.perf_counter() - started)
    torch.set_num_threads(threads)
    return {
        "batch": [128, 64, 64],
        "sites_per_image": 64,
        "threads": 1,
        "median_ms": round(1e3 * float(np.median(seconds)), 2),
    }


def epoch(spatial_dims: int) -> dict[str, Any]:
    """One epoch of the bundle with its defaults, validation, logs and checkpoint, on one volume; start-up left out."""
    import nibabel
    from monai.bundle import ConfigWorkflow

    from monai_n2v.bundle.resources import bundle_name, find_bundle

    bundle = find_bundle(bundle_name(spatial_dims))
    with tempfile.TemporaryDirectory() as folder:
        data = np.random.default_rng(0).normal(size=(96, 96, 96)).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), f"{folder}/volume.nii")
        flow = ConfigWorkflow(
            config_file=str(bundle / "configs" / "train.json"),
            workflow_type="train",
            bundle_root=str(bundle),
            dataset_dir=folder,
            output_dir=f"{folder}/out",
            epochs=1,
        )
        flow.initialize()
        trainer = flow.parser.get_parsed_content("train#trainer")
        started = time.perf_counter()
        flow.run()
        seconds = time.perf_counter() - started
        flow.finalize()
    return {"seconds": round(seconds, 1), "steps": trainer.state.iteration}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    results: dict[str, Any] = {"masking": masking()}
    for spatial_dims in (2, 3):
        results[f"{spatial_dims}d"] = overhead(spatial_dims, arguments.rounds, BATCHES[spatial_dims])
        own = OWN_BATCHES[spatial_dims]
        results[f"{spatial_dims}d bundle"] = overhead(spatial_dims, 4 * arguments.rounds, own)
        results[f"{spatial_dims}d command line"] = overhead(
            spatial_dims, 4 * arguments.rounds, own, [N2V_ALONE[spatial_dims]]
        )
        print(results, flush=True)
    results["masking"]["share_of_2d_step"] = round(results["masking"]["median_ms"] / results["2d"]["bare_step_ms"], 4)
    results["epoch"] = {f"{n}D": epoch(n) for n in (2, 3)}
    save("overhead", results)


if __name__ == "__main__":
    main()
