# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from samples import mount_groups

from monai_n2v.data.rolling_window import default_budget
from monai_n2v.inferers.tiled import _tile_budget
from monai_n2v.io import memory

MIB = 2**20
NONE = "9223372036854771712"  # version 1's way to say so
V2, V1 = "0::/job/task\n", "5:pids:/\n4:memory:/job/task\n0::/\n"


def used(folder: str, limit: str, now: int, version: int = 2, **more: str) -> dict[str, str]:
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if version == 1 else ("memory.max", "memory.current")
    files = dict(zip(names, (limit, str(now)))) | {name.replace("_", "."): text for name, text in more.items()}
    return {f"{folder}{name}": text for name, text in files.items()}


# Every tree leaves 7 MiB, or no limit.
TREES = {
    "container, version 2": (used("", str(10 * MIB), 3 * MIB), "0::/\n"),
    "container, version 1, folders of no name": (used("memory/", str(10 * MIB), 3 * MIB, 1), V1),
    "group above": ({**used("job/task/", "max", 5), **used("job/", str(10 * MIB), 3 * MIB)}, V2),
    "group above, version 1": (
        {**used("memory/job/task/", NONE, 5, 1), **used("memory/job/", str(10 * MIB), 3 * MIB, 1)}, V1,
    ),
    "what is kept of files gives way": (
        used("job/", str(10 * MIB), 4 * MIB, memory_stat=f"anon 5\ninactive_file {MIB}\n"), V2,
    ),
    "version 1 counts the groups below": (
        used("memory/", str(10 * MIB), 4 * MIB, 1, memory_stat=f"inactive_file 0\ntotal_inactive_file {MIB}\n"), V1,
    ),
    "slowed down above": (used("job/", "max", 3 * MIB, memory_high=str(10 * MIB)), V2),
    "several controllers in one": ({**used("cpu,memory/", str(10 * MIB), 3 * MIB, 1)}, "4:cpu,memory:/\n"),
}  # fmt: skip


@pytest.mark.parametrize("tree", TREES)
def test_limit_of_a_container_counts(tree, tmp_path, monkeypatch):
    mount_groups(tmp_path, monkeypatch, *TREES[tree])
    assert memory.free_bytes() == 7 * MIB
    with pytest.raises(ValueError, match="must fit into memory"):
        memory.check_memory((100, 100, 100))


NO_LIMITS = {
    "max": (used("", "max", 5), "0::/\n"),
    "version 1": (used("memory/", NONE, 5, 1), V1),
    "use is not told": ({"memory.max": str(10 * MIB)}, "0::/\n"),
    "nothing": ({}, "0::/\n"),
}


@pytest.mark.parametrize("tree", NO_LIMITS)
def test_machine_without_limits_has_what_is_free(tree, tmp_path, monkeypatch):
    free = psutil.virtual_memory()._replace(available=3 * 2**30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    mount_groups(tmp_path, monkeypatch, *NO_LIMITS[tree])
    assert memory.free_bytes() == 3 * 2**30


def test_limit_of_a_container_is_heeded_by_tiles_and_windows(tmp_path, monkeypatch):
    mount_groups(tmp_path, monkeypatch, *TREES["container, version 2"])
    assert _tile_budget(torch.device("cpu"), 2**40) == (7 * MIB // 4, 7 * MIB // 4)
    assert 0 < default_budget(torch.device("cpu")) < 7 * MIB


def test_free_memory_is_asked_for_in_one_place():
    package = Path(memory.__file__).parent.parent
    asking = re.compile(r"virtual_memory|sysconf|mem_get_info|getrlimit")
    found = {path.name for path in package.rglob("*.py") if asking.search(path.read_text())}
    assert found == {"memory.py"}


def test_limit_of_a_shell_counts():
    text = (
        "import resource; limit = 2 << 30; resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "from monai_n2v.io.memory import free_bytes; assert 0 < free_bytes() < limit, free_bytes()"
    )
    subprocess.run([sys.executable, "-c", text], check=True)
