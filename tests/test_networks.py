# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from monai.networks.nets import BasicUNet

from monai_n2v.networks import N2VUNet


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


@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("depth", [1, 2])
def test_unet_halo_covers_the_receptive_field(depth, kernel_size):
    act = ("leakyrelu", {"negative_slope": 0.5})  # relu may happen to cut all paths of a random network
    network = N2VUNet(2, features=4, depth=depth, kernel_size=kernel_size, act=act).double().eval()
    reach = 0
    for phase in range(2**depth):
        x = torch.rand(1, 1, 128, 128, dtype=torch.float64, requires_grad=True)
        network(x)[0, 0, 64 + phase, 64].backward()
        rows = torch.nonzero(x.grad[0, 0])[:, 0]
        reach = max(reach, int((rows - 64 - phase).abs().max()))
    assert network.halo - 2**depth <= reach <= network.halo


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
