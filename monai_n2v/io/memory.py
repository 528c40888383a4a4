# SPDX-License-Identifier: Apache-2.0
"""How much memory is free, and whether an image fits into it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from monai_n2v.io.volume import Refusal, where

if TYPE_CHECKING:
    import torch

# Four volumes of float32: the image, standardized, predicted, and restored.
_BYTES_PER_VOXEL = 16


def free_bytes(device: torch.device | str = "cpu") -> int:
    """Memory that is free on a device.

    The processes that torchrun started on a node (``LOCAL_WORLD_SIZE``) share its RAM; a GPU is its process's own.

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

    return int(psutil.virtual_memory().available) // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


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
