# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
import torch.nn.utils.prune
from monai.networks.nets import BasicUNet
from samples import random_network
from torch.nn.modules.batchnorm import _BatchNorm

from monai_n2v.inferers.predictor import fold_batch_norm
from monai_n2v.networks import N2VUNet


def networks(spatial_dims: int) -> list[torch.nn.Module]:
    basic = {"spatial_dims": spatial_dims, "in_channels": 1, "out_channels": 1, "features": (4, 4, 8, 8, 16, 4)}
    return [
        N2VUNet(spatial_dims, features=4),
        N2VUNet(spatial_dims, features=4, kernel_size=5, blur_pool=True, top_skip=False),
        BasicUNet(**basic, norm="batch"),
        BasicUNet(**basic, norm="batch", bias=False, upsample="nontrainable"),
    ]


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("number", range(4))
def test_folded_network_predicts_the_same_without_batch_norm(spatial_dims, number):
    torch.manual_seed(0)
    network = random_network(networks(spatial_dims)[number])
    before = {name: value.clone() for name, value in network.state_dict().items()}
    folded = fold_batch_norm(network)
    assert not any(isinstance(module, _BatchNorm) for module in folded.modules())
    image = torch.rand(2, 1, *(32,) * spatial_dims)
    with torch.inference_mode():
        torch.testing.assert_close(folded(image), network(image), rtol=1e-5, atol=1e-5)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_what_is_not_fixed_is_left_alone():
    image = torch.rand(1, 1, 32, 32)
    frozen = random_network(N2VUNet(2, features=2)).train()
    for module in frozen.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
    torch.testing.assert_close(fold_batch_norm(frozen)(image), frozen(image))
    for norm in (torch.nn.utils.parametrizations.weight_norm, torch.nn.utils.parametrizations.spectral_norm):
        network = random_network(N2VUNet(2, features=2))
        norm(network.first.conv_0.conv)
        network.eval()
        torch.testing.assert_close(fold_batch_norm(network)(image), network(image), rtol=1e-5, atol=1e-5)
    pruned = random_network(N2VUNet(2, features=2))
    torch.nn.utils.prune.l1_unstructured(pruned.first.conv_0.conv, "weight", amount=0.3)
    assert torch.equal(fold_batch_norm(pruned)(image), pruned(image))


def test_other_norms_and_training_networks_stay():
    instance = BasicUNet(2, 1, 1, features=(2, 2, 2, 2, 2, 2), norm="instance").eval()
    image = torch.rand(1, 1, 32, 32)
    assert torch.equal(fold_batch_norm(instance)(image), instance(image))
    training = N2VUNet(2, features=2).train()
    assert any(isinstance(module, _BatchNorm) for module in fold_batch_norm(training).modules())
