# SPDX-License-Identifier: Apache-2.0
"""How much memory is free, and whether an image fits into it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from monai_n2v.io.control_groups import groups_of, number_in
from monai_n2v.io.volume import Refusal, where

if TYPE_CHECKING:
    import torch

# Five volumes of float32: the image, standardized, predicted, filtered, and restored.
_BYTES_PER_VOXEL = 20
# By version of control groups: limits, above which a process is ended or slowed down, and what is used.
_MEMORY_FILES = {
    1: (("memory.limit_in_bytes",), "memory.usage_in_bytes"),
    2: (("memory.max", "memory.high"), "memory.current"),
}


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
    for version, group in groups_of("memory"):
        names, use = _MEMORY_FILES[version]
        limits = [limit for limit in (number_in(group / name) for name in names) if limit is not None]
        used = number_in(group / use)
        if limits and used is not None:
            # What the system keeps of files gives way.
            left.append(max(0, min(limits) - used + _cached_by_files(group)))
    try:
        import resource

        import psutil

        limit_of_shell = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit_of_shell != resource.RLIM_INFINITY:
            left.append(max(0, limit_of_shell - int(psutil.Process().memory_info().vms)))
    except ImportError:  # not on Windows
        pass
    return left


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
