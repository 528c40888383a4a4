# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from monai.networks.nets import BasicUNet

from monai_n2v.inferers.tile_plan import Held, held_by, on_meta
from monai_n2v.io.memory import free_bytes
from monai_n2v.networks import N2VUNet


def test_free_memory_is_shared_among_the_processes_of_a_node(monkeypatch):
    import psutil

    memory = psutil.virtual_memory()._replace(available=8 * 2**30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr("monai_n2v.io.memory._free_by_limits", list)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert free_bytes("cpu") == 8 * 2**30
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert free_bytes("cpu") == 2 * 2**30


def test_peak_counts_what_is_held_at_once_and_not_what_was_freed():
    def chain(x: torch.Tensor) -> torch.Tensor:
        for _ in range(5):
            x = x + 1
        return x

    # The caller holds the input; each sum is made while the one before is still there.
    assert held_by(chain, (1, 1, 10, 10)) == Held(3 * 400, 400)


def test_peak_counts_views_and_changes_in_place_once():
    assert held_by(lambda x: x.relu_().narrow(2, 0, 5).view(-1), (1, 1, 10, 10)) == Held(400, 400)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("kind", ["N2VUNet", "BasicUNet"])
def test_peak_of_a_network_grows_with_its_voxels(spatial_dims, kind):
    network: torch.nn.Module = N2VUNet(spatial_dims, features=4)
    if kind == "BasicUNet":
        network = BasicUNet(spatial_dims, 1, 1, features=(4, 4, 8, 8, 16, 4), norm="batch")
    shadow = on_meta(network.eval())
    small, large = (held_by(shadow, (1, 1, *(side,) * spatial_dims)).peak for side in (32, 64))
    assert large == pytest.approx(small * 2**spatial_dims, rel=0.05)
    # Where the first level's maps are joined: input, skip, what is joined to it, and the joined; more in BasicUNet.
    maps = large / (4 * 64**spatial_dims)
    assert 1 + 2 * 4 + 2 * 4 <= maps <= 1 + 9 * 4
    assert next(network.parameters()).device.type == "cpu"
