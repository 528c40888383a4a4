# SPDX-License-Identifier: Apache-2.0
"""How much memory there is, and how much a network takes."""

from __future__ import annotations

import copy
import os
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["Held", "free_bytes", "held_by", "on_meta"]


def free_bytes(device: torch.device | str) -> int:
    """Memory that is free on a device.

    The processes that torchrun started on a node (``LOCAL_WORLD_SIZE``) share its RAM; a GPU is its process's own.

    Args:
        device: as torch names it.

    Returns:
        bytes; of a GPU with those that torch keeps for itself but does not use.
    """
    device = torch.device(device)
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    import psutil

    return int(psutil.virtual_memory().available) // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def on_meta(network: torch.nn.Module) -> torch.nn.Module:
    """A copy of a network that holds shapes alone, so that running it costs neither time nor memory."""
    return copy.deepcopy(network).to("meta")


class Held(NamedTuple):
    """What a forward pass holds, in bytes of float32.

    Attributes:
        peak: most at once, input and output included; weights and the workspaces of convolutions not.
        largest: of a single tensor.
    """

    peak: int
    largest: int


def held_by(forward: Callable[[torch.Tensor], Any], shape: Sequence[int]) -> Held:
    """How much memory a forward pass takes, found without taking it.

    Args:
        forward: a network of `on_meta`, or a method of one.
        shape: ``(B, C, *spatial)`` of a float32 input.

    Returns:
        the peak and the largest tensor.
    """
    with torch.no_grad(), _LiveBytes() as live:
        images = torch.empty(*shape, device="meta")  # which the caller of a network holds
        forward(images)
    return Held(int(live.peak), int(live.largest))


class _LiveBytes(TorchDispatchMode):
    """Follow the storages that operators make until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self.largest = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and look at what it made."""
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._follow(leaf.untyped_storage())
        return out

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key = int(storage._cdata)
        if key in self._seen:  # a view, or changed in place
            return
        self._seen.add(key)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        self.largest = max(self.largest, storage.nbytes())
        weakref.finalize(storage, self._forget, key, storage.nbytes())

    def _forget(self, key: int, n_bytes: int) -> None:
        self._seen.discard(key)
        self.now -= n_bytes
