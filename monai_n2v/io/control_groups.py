# SPDX-License-Identifier: Apache-2.0
"""Control groups of Linux, both versions: by their files containers and batch systems limit memory and processors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

# Where they are mounted, and the file that names those of this process.
ROOT, OF_PROCESS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def groups_of(controller: str) -> Iterator[tuple[int, Path]]:
    """Groups that limit this process, its own first and then those above it.

    A container may show its own group as the root while the process still has the name that the host gave it. Then
    folders of that name do not exist, and the root holds the limits.

    Args:
        controller: such as ``memory`` or ``cpu``.

    Yields:
        version 1 or 2 of its files, and the folder of a group.
    """
    try:
        lines = OF_PROCESS.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        version, tops = (1, (controllers, controller)) if controllers else (2, ("unified", "."))
        top = next((ROOT / folder for folder in tops if (ROOT / folder).is_dir()), ROOT)
        place = top / name.lstrip("/")
        while place.is_relative_to(top):
            if place.is_dir():
                yield version, place
            place = place.parent


def number_in(path: Path, index: int = 0) -> int | None:
    """One of the numbers in a file of a group; None without one, such as for ``max``."""
    try:
        return int(path.read_text().split()[index])
    except (OSError, ValueError, IndexError):
        return None
