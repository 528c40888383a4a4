# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import subprocess
import sys

import pytest
from samples import mount_groups

from monai_n2v.cli import threads
from monai_n2v.cli.main import main

NAMES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


@pytest.fixture
def unset(monkeypatch):
    """An environment without a word about threads, on a machine of 8 processors."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


@pytest.mark.parametrize(
    ("files", "lines", "limit"),
    [
        pytest.param({"cpu.max": "200000 100000\n"}, "0::/\n", 2, id="container"),
        pytest.param({"cpu.max": "150000 100000\n"}, "0::/\n", 2, id="one and a half"),
        pytest.param({"cpu.max": "50000 100000\n"}, "0::/\n", 1, id="half"),
        pytest.param({"cpu.max": "max 100000\n"}, "0::/\n", None, id="no limit"),
        pytest.param({"cpu.max": "1600000 100000\n"}, "0::/\n", None, id="more than there are"),
        pytest.param({"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 1"}, "0::/a/b\n", 3, id="group above"),
        pytest.param({"unified/a/cpu.max": "100000 50000"}, "0::/a\n", 2, id="both versions mounted"),
        pytest.param(
            {"cpu,cpuacct/job/cpu.cfs_quota_us": "250000", "cpu,cpuacct/job/cpu.cfs_period_us": "100000"},
            "5:pids:/\n4:cpu,cpuacct:/job/task\n0::/\n", 3, id="version 1, folders of no name",
        ),
        pytest.param(
            {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "4:cpu:/\n", None, id="version 1, none"
        ),
        pytest.param({"cpu.max": "nonsense"}, "0::/\n", None, id="nonsense"),
        pytest.param({}, "0::/a\n", None, id="nothing mounted"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("unset")
def test_limit_of_processors_is_found(files, lines, limit, tmp_path, monkeypatch):
    mount_groups(tmp_path, monkeypatch, files, lines)
    assert threads.limited_cpus() == limit


@pytest.mark.usefixtures("unset")
def test_machine_without_control_groups_has_no_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("monai_n2v.io.control_groups.OF_PROCESS", tmp_path / "missing")
    assert threads.limited_cpus() is None


@pytest.mark.usefixtures("unset")
def test_limit_above_what_the_process_may_run_on_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    mount_groups(tmp_path, monkeypatch, {"cpu.max": "200000 100000"}, "0::/\n")
    assert threads.limited_cpus() is None


@pytest.mark.usefixtures("unset")
def test_environment_is_as_before_behind_a_command(monkeypatch, capsys):
    seen = {}
    monkeypatch.setattr(threads, "limited_cpus", lambda: 2)
    monkeypatch.setattr("monai_n2v.cli.main._info", lambda args: seen.update(os.environ) or 0)
    before = dict(os.environ)
    assert main(["info", "image.nii"]) == 0
    assert {name: seen[name] for name in NAMES} == {
        "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000",
    }  # fmt: skip
    assert dict(os.environ) == before


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("unset")
def test_what_the_user_said_holds(name, monkeypatch):
    monkeypatch.setattr(threads, "limited_cpus", lambda: 2)
    monkeypatch.setenv(name, "5")
    with threads.considerate_threads():
        assert os.environ[name] == "5"
        if name != "OMP_NUM_THREADS":
            assert len(set(NAMES) & os.environ.keys()) == 2, "one word about waiting is enough"
    assert os.environ[name] == "5"


def test_torch_takes_the_limit():
    text = (
        "import os, sys; from monai_n2v.cli import threads; threads.limited_cpus = lambda: 1\n"
        "with threads.considerate_threads():\n"
        "    assert 'torch' not in sys.modules; import torch\n"
        "    print(torch.get_num_threads())"
    )
    environment = {name: value for name, value in os.environ.items() if name not in NAMES}
    command = [sys.executable, "-c", text]
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert found.stdout.strip() == "1"


# Beside busy processes, steps by two threads take turns with steps by one.
_STEPS = """
import time, torch
network = torch.nn.Sequential(*(torch.nn.Conv3d(8, 8, 3, padding=1) for _ in range(6)))
image, seconds = torch.rand(1, 8, 20, 20, 20), {1: 0.0, 2: 0.0}
for number in range(9):
    for n in seconds:
        torch.set_num_threads(n)
        started = time.perf_counter()
        network(image).square().mean().backward()
        seconds[n] += (time.perf_counter() - started) * (number > 0)
print(seconds[2] / seconds[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP")
def test_two_threads_are_hardly_slower_than_one_beside_busy_programs():
    environment = {name: value for name, value in os.environ.items() if name not in NAMES}
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        setup = "from monai_n2v.cli.threads import considerate_threads\nwith considerate_threads():\n    import torch\n"
        command = [sys.executable, "-c", setup + _STEPS]
        ratios = [
            float(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)
            for _ in range(2)
        ]
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert min(ratios) < 1.1, ratios
