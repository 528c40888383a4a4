# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import phantom

from monai_n2v.cli.signals import Ended, ended_by_signals

# The command, which tells when it has begun to write and then waits.
SCRIPT = """
import signal, sys, time
import numpy as np
from monai_n2v.cli.main import main

signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it

def save(*args):
    print("ready", flush=True)
    try:
        time.sleep(60)
    finally:
        time.sleep(0.5)  # long enough for a second signal

np.save = save
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("number", "code"),
    [
        ("SIGTERM", 143),
        pytest.param("SIGHUP", 129, marks=pytest.mark.slow),
        pytest.param("SIGINT", 130, marks=pytest.mark.slow),
    ],
)
def test_signal_ends_the_command_and_leaves_nothing(number, code, tmp_path):
    np.save(tmp_path / "x.npy", phantom((40, 36))[1])
    (tmp_path / "tmp").mkdir()
    command = ["denoise", "-i", "x.npy", "-o", "out/y.npy", "--scheme", "prior", "--device", "cpu"]
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp"), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *command], cwd=tmp_path, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout.readline() == "ready\n"
        for _ in range(3):  # an impatient user
            process.send_signal(getattr(signal, number))
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code, err
    assert err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in err
    assert out == ""
    left = [path for path in tmp_path.rglob("*") if path.is_file() or path.name.startswith((".", "monai"))]
    assert left == [tmp_path / "x.npy"]


def test_handlers_are_put_back_and_ignored_signals_stay_ignored():
    def mine(*_):
        pass

    before = {number: signal.signal(number, mine) for number in (signal.SIGINT, signal.SIGTERM)}
    before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as below nohup
    try:
        with ended_by_signals():
            os.kill(os.getpid(), signal.SIGHUP)
        caught = []
        try:
            with ended_by_signals():
                os.kill(os.getpid(), signal.SIGTERM)
        except Ended as end:
            caught.append(end.number)
        assert caught == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is signal.getsignal(signal.SIGINT) is mine
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
