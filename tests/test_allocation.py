# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import resource
import sys
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine

from monai_n2v import allocation
from monai_n2v.allocation import FreedMemoryKeeper, keep_freed_memory, return_freed_memory

needs_glibc = pytest.mark.skipif(allocation._glibc() is None, reason="this C library has no mallopt")
N_BYTES = 48 * 2**20


def page_faults() -> int:
    """Pages that the system had to clear while arrays of 48 MiB came and went; 12,288 for one, without huge pages."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(N_BYTES // 4)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.fixture(autouse=True)
def usual_again():
    yield
    return_freed_memory()


@needs_glibc
def test_freed_memory_is_cleared_once_where_it_is_kept():
    returned = page_faults()
    keep_freed_memory()
    page_faults()  # until what is kept has the size it needs
    kept = page_faults()
    assert kept < returned / 10


@needs_glibc
def test_freed_memory_returns_to_the_system_after_training():
    def rss() -> int:
        with Path("/proc/self/statm").open() as file:
            return int(file.read().split()[1]) * resource.getpagesize()

    sizes = {}

    def step(engine: Engine, batch: int) -> None:
        torch.ones(4 * N_BYTES // 4)
        sizes["training"] = rss()

    engine = Engine(step)
    FreedMemoryKeeper().attach(engine)
    engine.run([0], max_epochs=2)
    assert rss() < sizes["training"] - 3 * N_BYTES


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    allocation._glibc.cache_clear()
    try:
        keep_freed_memory()
        return_freed_memory()
    finally:
        allocation._glibc.cache_clear()
