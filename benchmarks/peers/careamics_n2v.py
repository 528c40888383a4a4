# SPDX-License-Identifier: Apache-2.0
"""CAREamics with its defaults on a task, stopped after so many seconds of training.

Run it with the Python of an environment that has CAREamics (README.md beside it tells how to make one), from the
repository's root: ``python -m benchmarks.peers.careamics_n2v set12 --seconds 300 --output FILE``. Writes scores as JSON
and, beside it, the prediction as ``.npz``.

Patch and batch size have no defaults there: 16 patches of 64x64, 2 of 32x32x32. Everything else is the default of
``create_n2v_config``. Its own "last" checkpoint is that of the latest epoch divisible by ten; to be fair, the weights
of the very end are predicted with.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from benchmarks.tasks import TASKS

BATCHES = {2: (16, [64, 64]), 3: (2, [32, 32, 32])}


def declare_missing_operators() -> None:
    """Let a CUDA build of torchvision be imported beside a CPU torch. CAREamics only crops with it."""
    if torch.version.cuda is None and "+cpu" not in version("torchvision"):
        for name in ("nms", "qnms"):
            schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{name}", schema)


def main() -> None:
    declare_missing_operators()
    from careamics import CAREamist
    from careamics.config.factories.n2v_factory import create_n2v_config
    from pytorch_lightning.callbacks import Timer

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--n2v2", action="store_true")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    task = TASKS[arguments.task]()
    batch_size, patch_size = BATCHES[task.spatial_dims]
    axes = "SYX" if task.spatial_dims == 2 else "ZYX"
    stack = np.stack(task.noisy) if task.spatial_dims == 2 else task.noisy[0]
    config = create_n2v_config(
        "n2v", "array", axes, patch_size, batch_size, num_epochs=10**6, use_n2v2=arguments.n2v2
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        timer = Timer(duration=timedelta(seconds=arguments.seconds), interval="step", verbose=False)
        program = CAREamist(config, work_dir=folder, callbacks=[timer], enable_progress_bar=False)
        started = time.perf_counter()
        program.train(train_data=stack)
        trained = time.perf_counter()
        program.trainer.save_checkpoint(f"{folder}/end.ckpt")
        before = time.perf_counter()
        outputs, _ = program.predict(stack, checkpoint=f"{folder}/end.ckpt")
        seconds = time.perf_counter() - before
    output = np.squeeze(np.asarray(outputs))
    images = list(output) if task.spatial_dims == 2 else [output]
    scores = {"psnr_noisy": round(task.score(task.noisy), 3), "psnr": round(task.score(images), 3)}
    if np.isnan(task.sigma):  # real noise: nothing clean to score by
        scores = {}
    result = {
        "program": f"careamics {version('careamics')}",
        "torch": torch.__version__,
        "task": task.name,
        "n2v2": arguments.n2v2,
        "batch": [batch_size, *patch_size],
        "threads": arguments.threads,
        "steps": program.trainer.global_step,
        "epochs": program.trainer.current_epoch,
        "seed": config.data_config.seed,
        "budget_seconds": arguments.seconds,
        "training_seconds": round(trained - started, 1),
        "prediction_seconds": round(seconds, 2),
        **scores,
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
    }
    np.savez_compressed(arguments.output.with_suffix(".npz"), *images)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
