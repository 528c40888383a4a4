# SPDX-License-Identifier: Apache-2.0
"""How many threads compute, and how they wait for each other; said in the environment, before torch reads it."""

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

from monai_n2v.io.control_groups import groups_of, number_in

# Threads wait for each other in a loop, which is the fastest where each has a processor of its own. Where another
# program has it, the loop holds up the thread that it waits for: two threads then take several times as long as one.
# After this many turns a thread sleeps instead. GNU's OpenMP takes the number itself where it has more threads than
# processors, but it does not know of other programs.
_WAITING = {"GOMP_SPINCOUNT": "1000", "OMP_WAIT_POLICY": "PASSIVE"}


@contextlib.contextmanager
def considerate_threads() -> Iterator[None]:
    """Tell OpenMP, which torch loads inside, to take no more threads than a limit of processors allows.

    Whatever the user said of threads holds. The number depends on limits alone, never on how busy the machine is, so
    that a run repeats: sums in another order differ in the last digits.
    """
    wanted = {} if _WAITING.keys() & os.environ.keys() else dict(_WAITING)
    limit = limited_cpus()
    if limit is not None and "OMP_NUM_THREADS" not in os.environ:
        wanted["OMP_NUM_THREADS"] = str(limit)
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name in wanted:
            os.environ.pop(name, None)


def limited_cpus() -> int | None:
    """Processors that a container or a batch job may use in all, rounded up; None where no limit is below their number.

    OpenMP itself heeds which processors a process may run on (``taskset``), but not for what share of the time.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    n_cpus = len(affinity(0)) if affinity else os.cpu_count() or 1
    shares = [share for version, group in groups_of("cpu") if (share := _share(version, group))]
    limit = math.ceil(min(shares, default=n_cpus))
    return limit if limit < n_cpus else None


def _share(version: int, group: Path) -> float | None:
    """Processors that a group may use; None for no limit."""
    if version == 1:
        quota, period = number_in(group / "cpu.cfs_quota_us"), number_in(group / "cpu.cfs_period_us")
    else:
        quota, period = number_in(group / "cpu.max"), number_in(group / "cpu.max", 1)
    return quota / period if quota and period and quota > 0 else None
