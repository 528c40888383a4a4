# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import math
import pickle

import pytest
import torch
from hypothesis import given, settings, strategies as st
from monai.data import MetaTensor
from monai.networks.nets import BasicUNet
from samples import random_network

from monai_n2v.inferers import tiled as inference
from monai_n2v.inferers.tile_plan import held_by, on_meta
from monai_n2v.inferers.tiled import AlignedTileInferer, PaddedInferer
from monai_n2v.networks import N2VUNet


@pytest.mark.parametrize(
    ("spatial_dims", "size", "tile", "depth"),
    [
        (2, (131, 97), 64, 2),
        (2, (200, 70), 64, 2),
        (2, (61, 62), 64, 2),
        (2, (129, 65), 40, 1),
        (3, (53, 38, 29), 32, 1),
        (3, (70, 20, 9), 64, 2),
    ],
)
def test_tiled_equals_whole_for_the_papers_network(spatial_dims, size, tile, depth):
    torch.manual_seed(0)
    network = random_network(N2VUNet(spatial_dims, features=4, depth=depth))
    image = torch.rand(1, 1, *size)
    whole = PaddedInferer(network.divisor)
    tiled = AlignedTileInferer(spatial_dims, 1, tile, halo=network.halo, divisor=network.divisor)
    with torch.inference_mode():
        torch.testing.assert_close(tiled(image, network), whole(image, network), rtol=0, atol=1e-5)


def test_tiled_equals_whole_for_basic_unet_with_a_large_halo():
    torch.manual_seed(0)
    network = random_network(BasicUNet(2, 1, 1, features=(4, 4, 8, 8, 16, 4), norm="batch"))
    image = torch.rand(1, 1, 411, 387)
    tiled = AlignedTileInferer(2, 1, tile_size=304, halo=112)
    with torch.inference_mode():
        torch.testing.assert_close(tiled(image, network), PaddedInferer()(image, network), rtol=0, atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(
    size=st.lists(st.integers(1, 45), min_size=2, max_size=3),
    divisor=st.sampled_from([1, 2, 4, 8, 16]),
    halo=st.integers(0, 9),
    extra=st.integers(1, 3),
)
def test_tiles_of_any_image_cover_it_and_lie_on_the_grid(size, divisor, halo, extra):
    tile = 2 * -(-halo // divisor) * divisor + extra * divisor

    def check(x: torch.Tensor) -> torch.Tensor:
        assert all(side % divisor == 0 and side <= max(tile, 1) for side in x.shape[2:])
        return x + 1

    image = torch.rand(1, 1, *size)
    inferer = AlignedTileInferer(len(size), 1, tile, halo, divisor)
    assert torch.equal(inferer(image, check), image + 1)


@pytest.mark.parametrize("size", [(17, 21, 3), (5, 6, 7)])
def test_padded_basic_unet_takes_thin_volumes(size):
    network = BasicUNet(3, 1, 1, features=(2, 2, 4, 4, 8, 2), norm="batch").eval()
    assert PaddedInferer()(torch.rand(2, 1, *size), network).shape == (2, 1, *size)


def test_volume_slice_by_slice_equals_each_slice():
    network = random_network(N2VUNet(2, features=4))
    volume = torch.rand(2, 1, 30, 26, 11)
    inferer = AlignedTileInferer(2, 1, 64, halo=24, divisor=4, n_slices=4)
    with torch.inference_mode():
        output = inferer(volume, network)
        for k in range(11):
            torch.testing.assert_close(output[..., k], inferer(volume[..., k], network), rtol=0, atol=1e-6)


def test_channels_each_on_their_own_or_together():
    single, double = random_network(N2VUNet(2, features=4)), random_network(N2VUNet(2, 2, 2, features=4))
    image = torch.rand(1, 2, 24, 28)
    with torch.inference_mode():
        alone = AlignedTileInferer(2, 1, 64, divisor=4)(image, single)
        torch.testing.assert_close(alone[:, :1], single(image[:, :1]))
        together = AlignedTileInferer(2, 2, 64, divisor=4)(image, double)
        torch.testing.assert_close(together, double(image))
    with pytest.raises(ValueError, match="inputs must have 3 channels"):
        AlignedTileInferer(2, 3)(image, single)


@pytest.mark.parametrize(("spatial_dims", "size"), [(2, (130, 97)), (3, (78, 61, 49)), (2, (66, 58, 7))])
@pytest.mark.parametrize("kind", ["N2VUNet", "BasicUNet"])
def test_tiles_chosen_by_free_memory_stay_within_it(monkeypatch, spatial_dims, size, kind):
    torch.manual_seed(0)
    network = random_network(N2VUNet(spatial_dims, features=4))
    if kind == "BasicUNet":
        network = random_network(BasicUNet(spatial_dims, 1, 1, features=(4, 4, 4, 4, 4, 4), norm="batch"))
    divisor = getattr(network, "divisor", 16)
    inferer = AlignedTileInferer(spatial_dims, halo=24 if divisor == 4 else 16, divisor=divisor)
    image = torch.rand(1, 1, *size)
    seen = []
    smallest = 2 * inferer.halo + divisor
    # What N2VUNet holds of the smallest tile is less than half of what its whole forward pass would.
    share = 0.5 if kind == "N2VUNet" else 1.5
    fitting = share * held_by(on_meta(network), (1, 1, *(smallest + divisor,) * spatial_dims)).peak
    for n_bytes in (2**40, int(fitting), 0):
        monkeypatch.setattr(inference, "_tile_budget", lambda *_, n=n_bytes: (n, n))
        with torch.inference_mode(), seen_inputs(seen):
            output = inferer(image, network)
        assert output.shape == image.shape
        if n_bytes == 2**40:
            whole = output
            assert len(seen) == 1, "an image that fits is not cut"
        else:
            assert len(seen) > 1
        if n_bytes and kind == "N2VUNet":
            torch.testing.assert_close(output, whole, rtol=0, atol=1e-5)
        if n_bytes == 0:
            assert max(math.prod(shape) for shape in seen) <= smallest**spatial_dims
        seen.clear()


@contextlib.contextmanager
def seen_inputs(shapes):
    """Note the shapes that first convolutions read; what planning asks, meta copies and a small image, is left out."""

    def note(module, inputs):
        if inputs[0].shape[1] == 1 and inputs[0].device.type == "cpu" and max(inputs[0].shape[2:]) > 16 + 2:
            shapes.append(tuple(inputs[0].shape))

    handle = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, inputs: note(module, inputs) if isinstance(module, (torch.nn.Conv2d, torch.nn.Conv3d)) else None
    )
    try:
        yield
    finally:
        handle.remove()


def test_budget_of_a_tile_leaves_memory_to_others(monkeypatch):
    gib = 2**30
    monkeypatch.setattr(inference, "free_bytes", lambda _: 16 * gib)
    cpu = torch.device("cpu")
    assert inference._tile_budget(cpu, 1000) == (5 * gib // 8, 4 * gib), "less than a GiB where the image is small"
    assert inference._tile_budget(cpu, 3 * gib) == (3 * gib, 4 * gib), "as much as a large image takes"
    assert inference._tile_budget(cpu, 9 * gib) == (4 * gib, 4 * gib), "never more than a quarter of what is free"
    assert inference._tile_budget(torch.device("cuda"), 1000) == (8 * gib, 8 * gib)


def test_tiles_are_chosen_once_for_a_network_and_anew_where_memory_has_become_short(monkeypatch):
    network, inferer = N2VUNet(2, features=4).eval(), AlignedTileInferer(2, halo=24, divisor=4)
    sizes = []
    plan = AlignedTileInferer._plan

    def counted(self, *args):
        sizes.extend([args[1]] if self.tile_size is None else [])
        return plan(self, *args)

    monkeypatch.setattr(AlignedTileInferer, "_plan", counted)
    budget = [2**30]
    monkeypatch.setattr(inference, "_tile_budget", lambda *_: (budget[0], budget[0]))
    with torch.inference_mode():
        whole = inferer(torch.rand(1, 1, 256, 256), network)
        assert whole.shape == (1, 1, 256, 256)
        inferer(torch.rand(1, 1, 256, 256), network)
        assert len(sizes) == 1
        inferer(torch.rand(1, 1, 256, 128), network)
        assert len(sizes) == 2, "another size"
        inferer(torch.rand(1, 1, 256, 256), N2VUNet(2, features=8).eval())
        assert len(sizes) == 3, "another network"
        budget[0] = 2**20
        inferer(torch.rand(1, 1, 256, 256), network)
        assert len(sizes) == 4, "less memory"
        budget[0] = 2**30
        inferer(torch.rand(1, 1, 256, 256), network)
        assert len(sizes) == 5, "more memory"
        again = pickle.loads(pickle.dumps(inferer))
        assert torch.equal(again(torch.ones(1, 1, 256, 256), network), inferer(torch.ones(1, 1, 256, 256), network))
        assert len(sizes) == 6, "a copy knows no networks"
        inferer.tile_size = (64, 64)
        inferer(torch.rand(1, 1, 256, 256), network)
        assert len(sizes) == 6, "sides that are told"


def test_more_memory_where_halos_cost_more_than_the_image(monkeypatch):
    network = random_network(BasicUNet(3, 1, 1, features=(4, 4, 4, 4, 4, 4), norm="batch"))
    image = torch.rand(1, 1, 112, 96, 96)
    seen = []
    small = int(1.5 * held_by(on_meta(network), (1, 1, 80, 80, 80)).peak)
    for budget in ((small, small), (small, 2**40)):
        monkeypatch.setattr(inference, "_tile_budget", lambda *_, budget=budget: budget)
        monkeypatch.setattr(inference, "_MAX_COST", 1.5)
        with torch.inference_mode(), seen_inputs(seen):
            AlignedTileInferer(3, halo=32)(image, network)
        seen.append(None)
    first = seen.index(None)
    costs = [sum(math.prod(shape) for shape in part) / image.numel() for part in (seen[:first], seen[first + 1 : -1])]
    assert costs[0] > 1.5 >= costs[1]


class Residual(N2VUNet):
    def forward(self, x):
        return x - super().forward(x)


def hooked(spatial_dims):
    network = N2VUNet(spatial_dims, features=2)
    network.register_forward_hook(lambda module, inputs, output: output * 2)
    return network


def replaced(spatial_dims):
    network = N2VUNet(spatial_dims, features=2)
    network.forward = lambda x: x + 1
    return network


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("make", [lambda n: Residual(n, features=2), hooked, replaced])
def test_changed_forward_pass_is_heeded(spatial_dims, make):
    network = random_network(make(spatial_dims))
    image = torch.rand(1, 1, *(40, 36, 32)[:spatial_dims])
    with torch.inference_mode():
        found = AlignedTileInferer(spatial_dims, halo=24, divisor=4)(image, network)
        torch.testing.assert_close(found, network(image), rtol=1e-5, atol=1e-5)


def test_divisor_below_the_networks_is_padded_for():
    network = random_network(N2VUNet(2, features=2))
    image = torch.rand(1, 1, 38, 30)
    with torch.inference_mode():
        found = AlignedTileInferer(2, halo=24, divisor=2)(image, network)
        torch.testing.assert_close(found, network(image), rtol=1e-5, atol=1e-5)


class NeedsValues(torch.nn.Module):
    def forward(self, x):
        return x + 1 if float(x.mean()) < 2 else x


@pytest.mark.parametrize("network", [lambda x: x + 1, NeedsValues(), torch.jit.script(torch.nn.Identity())])
def test_network_that_cannot_run_on_shapes_alone_gets_usual_tiles(network):
    image = torch.rand(1, 1, 150, 20, 20)
    for halo in (16, 64):
        inferer = AlignedTileInferer(3, halo=halo, divisor=4)
        assert torch.equal(inferer(image, network), network(image))


def test_metatensor_taken_and_input_unchanged():
    image = MetaTensor(torch.rand(1, 1, 20, 20))
    before = image.clone()
    output = AlignedTileInferer(2, 1, 64, divisor=4)(image, lambda x: x * 2)
    assert torch.equal(output, 2 * before.as_tensor())
    assert torch.equal(image, before)


def test_unfit_arguments_refused():
    with pytest.raises(ValueError, match="tile_size must be above twice the halo"):
        AlignedTileInferer(2, 1, tile_size=64, halo=32)
    with pytest.raises(ValueError, match="inputs must have 3 spatial axes"):
        AlignedTileInferer(3)(torch.rand(1, 1, 8, 8), lambda x: x)


def test_training_gradients_flow_through_padding():
    network = N2VUNet(2, features=2)
    PaddedInferer(16)(torch.rand(2, 1, 17, 19), network).sum().backward()
    assert all(p.grad is not None for p in network.parameters())
