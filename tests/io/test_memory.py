# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from monai_n2v.io import memory


@pytest.mark.parametrize("version", [1, 2])
def test_limit_of_a_container_counts(version, tmp_path, monkeypatch):
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if version == 1 else ("memory.max", "memory.current")
    top = tmp_path / "sys" / ("memory" if version == 1 else "")
    group = top / "job" / "task"
    group.mkdir(parents=True)
    (tmp_path / "cgroup").write_text("5:pids:/\n" + ("4:memory:/job/task\n" if version == 1 else "0::/job/task\n"))
    (group / names[0]).write_text("max" if version == 2 else "9223372036854771712")
    (group / names[1]).write_text("5")
    (top / "job" / names[0]).write_text(str(10 * 2**20))
    (top / "job" / names[1]).write_text(str(4 * 2**20))
    (top / "job" / "memory.stat").write_text(f"anon 5\ninactive_file {2**20}\n")
    files = memory._cgroup_files(tmp_path / "sys", tmp_path / "cgroup")
    assert (top / "job" / names[0], top / "job" / names[1]) in files
    monkeypatch.setattr(memory, "_cgroup_files", lambda: files)
    assert memory.free_bytes() == 7 * 2**20
    with pytest.raises(ValueError, match="must fit into memory"):
        memory.check_memory((100, 100, 100))


def test_machine_without_limits_has_what_is_free(monkeypatch):
    monkeypatch.setattr(memory, "_cgroup_files", list)
    assert memory.free_bytes() == pytest.approx(psutil.virtual_memory().available, rel=0.2)


def test_limit_of_a_shell_counts():
    text = (
        "import resource; limit = 2 << 30; resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "from monai_n2v.io.memory import free_bytes; assert 0 < free_bytes() < limit, free_bytes()"
    )
    subprocess.run([sys.executable, "-c", text], check=True)
