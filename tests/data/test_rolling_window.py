# SPDX-License-Identifier: Apache-2.0
"""The rolling window on images of uneven size; images of even size are in test_patch_loader.py."""

from __future__ import annotations

import numpy as np
import psutil
import pytest
import torch

from monai_n2v.data import rolling_window as windows
from monai_n2v.data.patches import HeldImage
from monai_n2v.data.rolling_window import RollingWindow, default_budget, stream_order

UNIT = 10  # voxels


class Images:
    """Images of given sizes in units, whose values are their numbers; counts what is read."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes = sizes
        self.n_read = 0

    def __call__(self, number: int) -> HeldImage:
        self.n_read += 1
        return HeldImage(torch.full((1, 1, self.sizes[number] * UNIT), float(number)), None)

    def window(self, budget: int, seed: int = 0) -> RollingWindow:
        """A window of a budget in units, started as `PatchLoader` does."""
        first: dict[int, HeldImage] = {}
        for number in stream_order(len(self.sizes), (seed, 0), 0).tolist():
            image = self(number)
            if first and sum(one.n_bytes for one in first.values()) + image.n_bytes > budget * UNIT * 4:
                break
            first[number] = image
        return RollingWindow(self, len(self.sizes), budget * UNIT * 4, first, torch.device("cpu"), (seed, 0))


def seen(window: RollingWindow, epochs: range) -> list[set[int]]:
    held = [{int(image.voxels[0, 0, 0]) for image in window.move_to(epoch)} for epoch in epochs]
    window.close()
    return held


def mixed(n_large: int, large: int, n_images: int = 100) -> list[int]:
    return [large] * n_large + [1] * (n_images - n_large)


@pytest.mark.parametrize("seed", [1, 2, 4])
@pytest.mark.parametrize(("n_large", "large"), [(5, 9), (5, 15), (5, 18), (5, 30)])
def test_large_images_are_seen_in_every_pass_as_small_ones_are(n_large, large, seed):
    images = Images(mixed(n_large, large))
    window = images.window(20, seed)
    assert window.n_exchanged > 1
    n_passes = 8
    epochs_per_pass = -(-100 // window.n_exchanged)
    epochs = seen(window, range(1, n_passes * epochs_per_pass + 1))
    times = np.array([sum(number in epoch for epoch in epochs) for number in range(100)])
    assert times.min() >= n_passes - 3, "two large ones that enter together may have to take turns"
    assert times[:n_large].mean() >= n_passes - 1
    assert images.n_read < 1.5 * n_passes * 100, "few are read twice"


def test_window_of_uneven_images_keeps_to_its_budget_and_what_is_read_ahead_does_too():
    images = Images(mixed(10, 8))
    window = images.window(20)
    for epoch in range(1, 40):
        held = window.move_to(epoch)
        (ahead,) = window._running
        ahead._thread.join()
        n_units = sum(image.n_bytes for image in [*held, *ahead.images.values()]) / UNIT / 4
        # Before an image was read once, its size is not known.
        assert n_units <= 20 + (7 if epoch <= -(-100 // window.n_exchanged) else 0)
    window.close()


@pytest.mark.parametrize("large", [9, 15, 30])
def test_uneven_window_repeats_when_resumed_at_any_epoch(large):
    sizes = mixed(12, large, 60)
    whole = seen(Images(sizes).window(30), range(1, 40))
    for start in range(1, 40, 3):
        assert seen(Images(sizes).window(30), range(start, min(start + 2, 40))) == whole[start - 1 : start + 1]


def test_images_of_even_size_pass_in_a_row():
    window = Images([1] * 100).window(20)
    epochs = seen(window, range(1, 26))
    assert {len(epoch) for epoch in epochs} == {window.n_held}
    assert set.union(*epochs) == set(range(100))


@pytest.mark.parametrize(("n_processes", "share"), [(None, 1.0), ("1", 1.0), ("4", 0.25)])
def test_processes_of_a_node_share_its_memory(n_processes, share, monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if n_processes:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", n_processes)
    free = psutil.virtual_memory()._replace(available=10 * 2**30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    assert default_budget(torch.device("cpu")) == pytest.approx(0.6 * share * 10 * 2**30, rel=1e-6)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**30, 2**31))
    assert windows.default_budget(torch.device("cuda")) == 2**29, "a GPU is its process's own"
