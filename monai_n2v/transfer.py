# SPDX-License-Identifier: Apache-2.0
"""Arrays on their way to the device they are used on."""

from __future__ import annotations

import numpy as np
import torch

__all__ = ["on_device"]


def on_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """Bring an array to a device without making the host wait for what a GPU has still to do.

    From common memory a copy to a GPU waits for all kernels before it; from pinned memory it is one more of them.

    Args:
        array: of any shape and a type that torch knows; not to be changed afterwards.
        device: where to.

    Returns:
        a tensor of the array's shape and type; on a CPU it shares the array's memory.
    """
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
