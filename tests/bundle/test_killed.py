# SPDX-License-Identifier: Apache-2.0
"""A training killed without warning, again and again, ends as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import laws
import nibabel
import numpy as np
import pytest
import torch
from conftest import phantom

# Tells when an epoch is done, checkpoint included; flushed, so that a killed process has told all.
WORKER = """
import logging
import sys
import torch
from ignite.engine import Events
from tiny import workflow

logging.disable(logging.CRITICAL)
torch.set_num_threads(1)
images, out, resume = sys.argv[1:]
flow = workflow("train", 2, epochs=20, ema=0.9, dataset_dir=images, output_dir=out, resume=resume == "1")
flow.initialize()
trainer = flow.parser.get_parsed_content("train#trainer")
trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda e: print("epoch", e.state.epoch, flush=True))
print("epoch 0", flush=True)
flow.run()
flow.finalize()
"""


def start(images: Path, out: Path, resume: bool) -> subprocess.Popen:
    tests = Path(__file__).resolve().parents[1]
    paths = os.pathsep.join([str(tests), str(tests.parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", WORKER, str(images), str(out), str(int(resume))],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )


def saved_epochs(out: Path) -> list[int]:
    return [int(path.stem.rpartition("=")[2]) for path in (out / "checkpoints").glob("checkpoint_epoch=*.pt")]


@pytest.mark.slow
def test_killed_training_loses_at_most_its_epoch_and_ends_alike(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    nibabel.save(nibabel.Nifti1Image(phantom((20, 24, 18))[1], np.eye(4)), images / "volume.nii.gz")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    with start(images, whole, resume=False) as process:
        process.communicate(timeout=120)
    assert process.returncode == 0

    draw = random.Random(0)
    reached = 0
    for _ in range(4):
        with start(images, parts, resume=reached > 0) as process:
            assert process.stdout.readline() == "epoch 0\n"
            started = time.perf_counter()
            epochs = [int(process.stdout.readline().split()[1]) for _ in range(draw.randint(0, 4))]
            an_epoch = (time.perf_counter() - started) / len(epochs) if epochs else 0.1
            time.sleep(draw.uniform(0.0, an_epoch))
            process.send_signal(signal.SIGKILL)
            epochs += [int(line.split()[1]) for line in process.stdout]
        assert process.returncode == -signal.SIGKILL, "the training was over before it could be killed"
        assert not epochs or epochs[0] == reached + 1, "a resumed training began elsewhere than where it was killed"
        saved = max(saved_epochs(parts), default=0)
        assert saved >= max(epochs, default=reached), "a completed epoch was lost"
        reached = saved
    with start(images, parts, resume=True) as process:
        process.communicate(timeout=120)
    assert process.returncode == 0
    assert sorted(saved_epochs(parts)) == [19, 20]
    assert len(list((parts / "checkpoints").iterdir())) == 2, "a killed write left something behind"
    for name in ("model.pt", "model_best.pt"):
        first, second = (torch.load(folder / "models" / name, weights_only=True) for folder in (whole, parts))
        laws.states_are_equal(first, second)
