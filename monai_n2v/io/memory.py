# SPDX-License-Identifier: Apache-2.0
"""How much memory is free, and whether an image fits into it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from monai_n2v.io.volume import Refusal, where

if TYPE_CHECKING:
    import torch

# Four volumes of float32: the image, standardized, predicted, and restored.
_BYTES_PER_VOXEL = 16


def free_bytes(device: torch.device | str = "cpu") -> int:
    """Memory that is free on a device.

    Heeds the limits of containers, batch jobs (control groups) and shells (``ulimit -v``). The processes that torchrun
    started on a node (``LOCAL_WORLD_SIZE``) share its RAM; a GPU is its process's own.

    Args:
        device: as torch names it.

    Returns:
        bytes; of a GPU with those that torch keeps for itself but does not use.
    """
    if str(device).startswith("cuda"):
        import torch

        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    import psutil

    free = min([int(psutil.virtual_memory().available), *_free_by_limits()])
    return free // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def _free_by_limits() -> list[int]:
    """What is left of the limits of a container, a batch job and a shell, where there are any."""
    left: list[int] = []
    for limit, used in _cgroup_files():
        try:
            numbers = [int(path.read_text()) for path in (limit, used)]
        except (OSError, ValueError):  # no such limit, or "max"
            continue
        # What the system keeps of files gives way.
        left.append(max(0, numbers[0] - numbers[1] + _cached_by_files(used.parent)))
    try:
        import resource

        import psutil

        limit_of_shell = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit_of_shell != resource.RLIM_INFINITY:
            left.append(max(0, limit_of_shell - int(psutil.Process().memory_info().vms)))
    except ImportError:  # not on Windows
        pass
    return left


def _cgroup_files(
    root: Path = Path("/sys/fs/cgroup"), groups: Path = Path("/proc/self/cgroup")
) -> list[tuple[Path, Path]]:
    """Files with limit and use of memory, of both versions of control groups and of all groups above this process's."""
    found: list[tuple[Path, Path]] = []
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        top = root / controllers
        place = top / name.lstrip("/")
        while place.is_relative_to(top):
            found.append((place / names[0], place / names[1]))
            place = place.parent
    return found


def _cached_by_files(group: Path) -> int:
    try:
        facts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return int(facts.get("total_inactive_file", facts.get("inactive_file", 0)))


def check_memory(shape: Sequence[int], name: object = "") -> None:
    """Refuse an image that cannot be denoised in the memory that is free, before its voxels are read.

    Args:
        shape: of all axes, as its header tells.
        name: of the file, for the message.

    Raises:
        ValueError: with the size that is needed.
    """
    needed, free = _BYTES_PER_VOXEL * math.prod(int(n) for n in shape), free_bytes()
    if needed > free:
        raise Refusal(
            f"image must fit into memory, got {' x '.join(str(int(n)) for n in shape)} voxels, which need "
            f"{needed / 2**30:.1f} GiB where {free / 2**30:.1f} GiB are free{where(name)}. "
            "Check the header, crop the image, or free memory."
        )
