# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import subprocess
import sys

import psutil
import pytest

from monai_n2v.io.lock import LOCK, Lock, locked

HOLD = (
    "import sys, pathlib; from monai_n2v.io.lock import Lock; Lock(pathlib.Path(sys.argv[1])); print(1, flush=True); "
)


def held_by_another(folder) -> subprocess.Popen:
    code = HOLD + "sys.stdin.read()"
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdin=pipe, stdout=pipe)
    process.stdout.readline()
    return process


def test_folder_of_another_process_is_refused_until_it_is_killed(tmp_path):
    process = held_by_another(tmp_path)
    try:
        with pytest.raises(
            FileExistsError, match=f"output must be free of other trainings, got process {process.pid} "
        ):
            Lock(tmp_path)
    finally:
        process.kill()
        process.communicate()
    assert (tmp_path / LOCK).exists(), "it was killed"
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("left", ["number given again", "damaged", "another machine"])
def test_left_locks(left, tmp_path):
    started = psutil.Process().create_time()
    text = {
        "number given again": json.dumps({"pid": os.getppid(), "started": 5.0, "machine": os.uname().nodename}),
        "damaged": "{",
        "another machine": json.dumps({"pid": 7, "started": started, "machine": "elsewhere"}),
    }[left]
    (tmp_path / LOCK).write_text(text)
    if left == "another machine":
        with pytest.raises(FileExistsError, match="got process 7 at work"):
            Lock(tmp_path)
    else:
        Lock(tmp_path).release()


def test_lock_is_taken_again_within_a_process_and_leaves_nothing(tmp_path):
    folder = tmp_path / "new"
    with locked(folder):
        with locked(folder):
            pass
        assert (folder / LOCK).exists(), "the first one holds it"
    assert not folder.exists()
