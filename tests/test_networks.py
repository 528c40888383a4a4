# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from monai.networks.nets import BasicUNet
from samples import random_network
from scipy import ndimage

from monai_n2v.inferers.tiled import AlignedTileInferer, PaddedInferer
from monai_n2v.networks import N2VUNet, ReplicateUNet

N2V2 = {"blur_pool": True, "top_skip": False}


@pytest.mark.parametrize("size", [(16, 16, 16), (17, 21, 3), (5, 33, 18), (1, 2, 7)])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_unet_any_size_in_same_size_out(spatial_dims, size):
    network = N2VUNet(spatial_dims, in_channels=2, out_channels=3, features=4).eval()
    assert network(torch.rand(2, 2, *size[:spatial_dims])).shape == (2, 3, *size[:spatial_dims])


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_unet_scriptable(spatial_dims, kernel_size, depth):
    network = N2VUNet(spatial_dims, features=2, kernel_size=kernel_size, depth=depth).eval()
    x = torch.rand(1, 1, *(19, 22, 17)[:spatial_dims])
    torch.testing.assert_close(torch.jit.script(network)(x), network(x))


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("options", [{"blur_pool": True}, {"top_skip": False}, N2V2])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_n2v2_scriptable_and_any_size(spatial_dims, options, depth):
    network = N2VUNet(spatial_dims, features=2, depth=depth, **options).eval()
    for size in ((19, 22, 17), (1, 2, 7)):
        x = torch.rand(1, 1, *size[:spatial_dims])
        assert network(x).shape == x.shape
        torch.testing.assert_close(torch.jit.script(network)(x), network(x))


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_replicate_unet_is_basic_unet_without_a_border(spatial_dims):
    """What is constant stays so up to the border."""
    options = {"features": (4, 4, 8, 8, 8, 4), "norm": None, "upsample": "nontrainable"}
    network = random_network(ReplicateUNet(spatial_dims, 1, 1, **options))
    basic = BasicUNet(spatial_dims, 1, 1, **options).eval()
    basic.load_state_dict(network.state_dict())
    x = torch.full((1, 1, *(48,) * spatial_dims), 0.7)
    assert 100 * network(x).std() < basic(x).std()
    torch.testing.assert_close(torch.jit.script(network)(x), network(x))


def summing(network: torch.nn.Module) -> torch.nn.Module:
    """All weights positive: what reaches a voxel on several ways cannot cancel out, and no relu cuts it off."""
    for parameter in network.parameters():
        torch.nn.init.uniform_(parameter, 0.1, 1)
    return network.double().eval()


@pytest.mark.parametrize("options", [{}, {"blur_pool": True}, {"top_skip": False}, N2V2])
@pytest.mark.parametrize(
    ("spatial_dims", "depth", "kernel_size"), [(2, 1, 3), (2, 1, 5), (2, 2, 3), (2, 2, 5), (2, 3, 3), (3, 1, 3)]
)
def test_unet_halo_is_the_receptive_field(spatial_dims, depth, kernel_size, options):
    network = summing(N2VUNet(spatial_dims, features=1, depth=depth, kernel_size=kernel_size, norm=None, **options))
    side = 2 * (network.halo // network.divisor + 2) * network.divisor
    reach = torch.zeros(spatial_dims, 2, dtype=torch.int64)
    # A maximum passes on one of its voxels; over steep slopes in all directions every voxel is passed on once.
    for slope in itertools.product((-1, 1), repeat=spatial_dims):
        ramps = torch.meshgrid(*(s * torch.arange(side, dtype=torch.float64) for s in slope), indexing="ij")
        for phase in range(network.divisor):
            x = (sum(ramps) + 10 * side)[None, None].requires_grad_()
            voxel = side // 2 // network.divisor * network.divisor + phase
            network(x)[(0, 0, *(voxel,) * spatial_dims)].backward()
            seen = torch.nonzero(x.grad[0, 0]) - voxel
            reach = torch.maximum(reach, torch.stack([-seen.amin(0), seen.amax(0)], dim=1))
    assert (reach == network.halo).all(), (reach, network.halo)


@pytest.mark.parametrize(("options", "halo"), [({}, 23), (N2V2, 26)])
def test_unet_halo_is_the_documented_one(options, halo):
    assert N2VUNet(2, features=1, **options).halo == halo


@pytest.mark.parametrize(
    ("spatial_dims", "size", "tile", "depth"),
    [(2, (131, 97), 64, 2), (2, (61, 130), 64, 2), (2, (129, 65), 40, 1), (3, (53, 38, 29), 32, 1)],
)
def test_n2v2_tiled_equals_whole(spatial_dims, size, tile, depth):
    network = random_network(N2VUNet(spatial_dims, features=4, depth=depth, **N2V2))
    image = torch.rand(1, 1, *size)
    tiled = AlignedTileInferer(spatial_dims, 1, tile, halo=network.halo, divisor=network.divisor)
    with torch.inference_mode():
        expected = PaddedInferer(network.divisor)(image, network)
        torch.testing.assert_close(tiled(image, network), expected, rtol=0, atol=1e-5)


def max_blur_pool(spatial_dims: int) -> torch.nn.Module:
    return N2VUNet(spatial_dims, features=1, depth=1, blur_pool=True).down[0].max_pooling


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_max_blur_pool_equals_maximum_then_binomial_filter(spatial_dims):
    x = torch.rand(1, 2, *(12, 10, 8)[:spatial_dims], dtype=torch.float64)
    expected = x[0].numpy()
    for axis in range(1, 1 + spatial_dims):
        padded = np.pad(expected, [(int(a == axis),) * 2 for a in range(1 + spatial_dims)], mode="edge")
        expected = np.maximum(
            np.take(padded, range(padded.shape[axis] - 1), axis), np.take(padded, range(1, padded.shape[axis]), axis)
        )
    for axis in range(1, 1 + spatial_dims):
        blurred = ndimage.correlate1d(expected, [0.25, 0.5, 0.25], axis)
        expected = np.take(blurred, range(1, expected.shape[axis], 2), axis)
    pooled = max_blur_pool(spatial_dims)(x)[0]
    assert pooled.shape == (2, *(n // 2 for n in x.shape[2:]))
    np.testing.assert_allclose(pooled.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_max_blur_pool_keeps_constants_and_mirrors(spatial_dims):
    pool = max_blur_pool(spatial_dims)
    constant = torch.full((1, 3, *(8,) * spatial_dims), 2.5)
    assert torch.equal(pool(constant), constant[(..., *(slice(4),) * spatial_dims)])
    x = torch.rand(1, 2, *(8, 6, 10)[:spatial_dims])
    torch.testing.assert_close(pool(x.flip(2)), pool(x).flip(2))


def test_max_blur_pool_depends_less_on_shifts_than_max_pooling():
    x = torch.rand(1, 1, 256, 256)

    def change(pool: torch.nn.Module) -> float:
        """What a shift by one voxel along each axis changes, relative to what varies at all."""
        still, moved = (pool(image)[..., 2:-2, 2:-2] for image in (x, x.roll((1, 1), (2, 3))))
        return float((still - moved).std() / still.std())

    assert change(max_blur_pool(2)) < 0.8 * change(torch.nn.MaxPool2d(2))


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_n2v2_weights(spatial_dims):
    plain, blurred, bare = (
        N2VUNet(spatial_dims, features=4, **options).state_dict() for options in ({}, {"blur_pool": True}, N2V2)
    )
    assert {k: v.shape for k, v in plain.items()} == {k: v.shape for k, v in blurred.items()}
    assert plain.keys() == bare.keys()
    assert [k for k in plain if plain[k].shape != bare[k].shape] == ["up.1.convs.conv_0.conv.weight"]


def test_n2v2_last_level_sees_the_first_through_the_deeper_ones_only():
    network = N2VUNet(2, features=4, **N2V2).eval()
    for module in network.up[1].upsample.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.zeros_(module.weight)
            torch.nn.init.zeros_(module.bias)
    with torch.inference_mode():
        first, second = (network(torch.rand(1, 1, 16, 16)) for _ in range(2))
    assert torch.equal(first, second)


def test_plain_weights_keep_their_names():
    names = set(N2VUNet(2, features=2).state_dict())
    assert {"first.conv_0.conv.weight", "down.1.convs.conv_1.adn.N.running_var", "last.conv.bias"} <= names
    assert {"up.0.upsample.preconv.weight", "up.1.convs.conv_0.conv.weight"} <= names
    assert not any("pool" in name for name in names)


def test_unet_is_the_papers():
    network = N2VUNet(2, features=96)
    widths = {module.out_channels for module in network.modules() if isinstance(module, torch.nn.Conv2d)}
    assert {96, 192, 384} <= widths
    assert sum(isinstance(m, torch.nn.MaxPool2d) for m in network.modules()) == 2
    assert sum(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules()) == 10
    # batch norm stands before each activation, and the last layer is linear
    block = [name for name, _ in network.first.conv_0.named_modules() if name]
    assert block.index("adn.N") < block.index("adn.A")
    x = torch.rand(1, 96, 8, 8)
    torch.testing.assert_close(network.last(-x) + network.last(x), 2 * network.last(torch.zeros_like(x)))


def test_unet_kernel_5_widens_every_spatial_convolution():
    sizes = [
        m.kernel_size[0] for m in N2VUNet(3, features=2, kernel_size=5).modules() if isinstance(m, torch.nn.Conv3d)
    ]
    assert sizes.count(5) == 10
    assert set(sizes) == {1, 5}


def test_batch_norm_keeps_absolute_intensity_where_instance_norm_erases_it():
    x = torch.rand(1, 1, 64, 64)
    for norm, keeps in (("batch", True), ("instance", False)):
        torch.manual_seed(0)
        network = BasicUNet(2, 1, 1, features=(4, 4, 8, 8, 16, 4), norm=norm).eval()
        with torch.inference_mode():
            scaled, plain = network(100 * x), network(x)
        assert (not torch.allclose(scaled, plain, atol=1e-2)) == keeps


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spatial_dims": 1}, "spatial_dims must be"),
        ({"spatial_dims": 2, "depth": 0}, "depth must be"),
        ({"spatial_dims": 2, "kernel_size": 4}, "kernel_size must be"),
    ],
)
def test_unet_bad_arguments_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        N2VUNet(**arguments)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("options", [{}, {"depth": 1}, {"depth": 3, "kernel_size": 5}, N2V2])
@pytest.mark.parametrize("part", ["whole", "inner", "near border", "far border", "one voxel"])
def test_part_equals_the_same_voxels_of_the_whole(spatial_dims, options, part):
    torch.manual_seed(0)
    network = random_network(N2VUNet(spatial_dims, features=2, **options))
    sides = [6 * network.divisor, 10 * network.divisor, 4 * network.divisor][:spatial_dims]
    image = torch.rand(1, 1, *sides)
    bounds = {"whole": (0, 1), "inner": (0.3, 0.7), "near border": (0, 0.4), "far border": (0.45, 1)}
    pieces = [slice(n // 2 + 1, n // 2 + 2) for n in sides]
    if part != "one voxel":
        low, high = bounds[part]
        pieces = [slice(int(low * n), int(high * n)) for n in sides]
    with torch.inference_mode():
        whole = network(image)
        found = network.forward_part(image, pieces)
    torch.testing.assert_close(found, whole[(..., *pieces)], rtol=1e-5, atol=1e-6)


def test_features_per_level():
    network = N2VUNet(2, features=[2, 8, 4])
    assert network.first.conv_0.conv.out_channels == 2
    assert [down.convs.conv_1.conv.out_channels for down in network.down] == [8, 4]
    assert network(torch.rand(1, 1, 20, 24)).shape == (1, 1, 20, 24)
    with pytest.raises(ValueError, match="features must be one number, or one per level"):
        N2VUNet(2, features=[2, 4])
