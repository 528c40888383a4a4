# SPDX-License-Identifier: Apache-2.0
"""Memory that training frees and takes again with every step, kept by the process in between."""

from __future__ import annotations

import ctypes
import functools
import sys
from typing import Any

from ignite.engine import Engine, Events

__all__ = ["FreedMemoryKeeper", "keep_freed_memory", "return_freed_memory"]

# Parameters of mallopt, as glibc's malloc.h numbers them.
_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3
# Features of a batch are below; volumes above, which would only tear holes into the kept memory.
_LARGEST_KEPT = 256 * 2**20
_MOST_KEPT = 2**30
# What glibc itself comes to in a program of large arrays.
_USUAL_LARGEST = 32 * 2**20
_USUAL_MOST = 64 * 2**20


def keep_freed_memory() -> None:
    """From now on, keep up to 1 GiB of freed memory for the next allocation.

    glibc returns every freed array above 32 MiB, and most of the rest, to the system at once, which clears each page
    before it gives it out again. A training step frees its features and the next one takes as many: ``docs/results.md``
    tells what that costs on a CPU. It holds for the whole process; without glibc, and for a GPU's memory, nothing
    changes. Prediction goes without: its tiles differ in size, and what they leave in pieces adds to the peak.
    """
    _set_thresholds(_LARGEST_KEPT, _MOST_KEPT)


def return_freed_memory() -> None:
    """Return freed memory to the system, from now on as glibc does of itself."""
    _set_thresholds(_USUAL_LARGEST, _USUAL_MOST)
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


class FreedMemoryKeeper:
    """Keep freed memory while an engine runs. A run that fails leaves it kept, which is 1 GiB at most."""

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.STARTED, keep_freed_memory)
        engine.add_event_handler(Events.COMPLETED, return_freed_memory)


def _set_thresholds(largest: int, most: int) -> None:
    library = _glibc()
    if library is not None:
        library.mallopt(_MMAP_THRESHOLD, largest)
        library.mallopt(_TRIM_THRESHOLD, most)


@functools.cache
def _glibc() -> Any:
    """The C library of this process where it is glibc."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") and hasattr(library, "mallopt") else None
