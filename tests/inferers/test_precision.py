# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from monai_n2v.inferers.precision import autocast_bfloat16, has_fast_bfloat16
from monai_n2v.inferers.tiled import AlignedTileInferer, PaddedInferer
from monai_n2v.networks import N2VUNet


@pytest.mark.parametrize(("tiles", "expected"), [(True, True), (False, False)])
def test_cpu_is_fast_where_it_has_matrix_tiles(monkeypatch, tiles, expected):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles, raising=False)
    assert has_fast_bfloat16("cpu") is expected
    assert has_fast_bfloat16(torch.device("cpu")) is expected


def test_cpu_is_not_fast_where_torch_cannot_tell(monkeypatch):
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported", raising=False)
    assert not has_fast_bfloat16("cpu")


@pytest.mark.parametrize("device", ["mps", "meta"])
def test_other_devices_are_not_assumed_to_be_fast(device):
    assert not has_fast_bfloat16(device)


def test_network_computes_in_bfloat16_and_returns_float32():
    torch.manual_seed(0)
    network = N2VUNet(2, features=8).eval()
    seen = []
    network.last.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    image = torch.rand(1, 1, 32, 32)
    with torch.inference_mode():
        exact, mixed = network(image), autocast_bfloat16(network)(image)
    assert seen == [torch.float32, torch.bfloat16]
    assert mixed.dtype == torch.float32
    assert not torch.equal(mixed, exact)
    torch.testing.assert_close(mixed, exact, rtol=0, atol=0.02)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_inferers_switch_the_precision_of_the_network(spatial_dims):
    network = N2VUNet(spatial_dims, features=4).eval()
    image = torch.rand(1, 1, *(24,) * spatial_dims)
    for amp, kind in ((False, torch.float32), (True, torch.bfloat16)):
        seen = []
        hook = network.last.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(output.dtype))
        for inferer in (PaddedInferer(4, amp=amp), AlignedTileInferer(spatial_dims, 1, 64, 24, 4, amp=amp)):
            with torch.inference_mode():
                assert inferer(image, network).dtype == torch.float32
        assert set(seen) == {kind}
        hook.remove()
