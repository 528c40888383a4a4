# SPDX-License-Identifier: Apache-2.0
"""Automatic mixed precision in bfloat16, on GPUs and on CPUs that have units for it.

MONAI's engines know CUDA's autocast alone and scale gradients, which bfloat16 does not need; so the inferers, which
every forward pass of training, validation and prediction goes through, switch the precision instead.
"""

from collections.abc import Callable
from typing import Any

import torch


def has_fast_bfloat16(device: torch.device | str) -> bool:
    """Tell whether a device convolves faster in bfloat16 than in float32.

    Among CPUs only those with matrix tiles (AMX) do; with AVX-512 alone bfloat16 is slower than float32 in most of the
    networks here, and much slower where it is emulated.

    Args:
        device: as torch names it.

    Returns:
        True for GPUs of NVIDIA's Ampere generation or later and for CPUs with AMX.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    # Not in all the releases of torch that this package works with.
    has_tiles = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return kind == "cpu" and has_tiles is not None and bool(has_tiles())


def autocast_bfloat16(network: Callable[..., Any]) -> Callable[..., torch.Tensor]:
    """Make a network compute in bfloat16 where that is safe; weights, and what it returns, stay float32.

    Args:
        network: maps a tensor to a tensor; further arguments are passed on.

    Returns:
        the same mapping in mixed precision.
    """

    def forward(inputs: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16):
            output = network(inputs, *args, **kwargs)
        return output.float()

    return forward
