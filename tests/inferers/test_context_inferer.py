# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import laws
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SimpleInferer

from monai_n2v.inferers import AlignedTileInferer, BlindSpotInferer, ContextInferer, SymmetricInferer
from monai_n2v.networks import N2VUNet
from monai_n2v.transforms import NearestVolumesd, RandN2VMask

SIZES = {2: (24, 20), 3: (20, 16, 12)}


def series(spatial_dims: int, n_volumes: int = 5, context: int = 2) -> MetaTensor:
    """A batch of one series, each volume of which has its number in the hundred thousands."""
    voxels = laws.distinct_image(SIZES[spatial_dims]).float()
    volumes = torch.stack([voxels + 100_000 * k for k in range(n_volumes)])
    found = NearestVolumesd("image", context)({"image": MetaTensor(volumes)})["image"]
    return MetaTensor(found.as_tensor()[None], meta=dict(found.meta))


class Seen(SimpleInferer):
    """Keeps what it is given; predicts the sum of the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs: list[torch.Tensor] = []

    def __call__(self, inputs, network, *args, **kwargs):
        self.inputs.append(torch.as_tensor(inputs).clone())
        return torch.as_tensor(inputs).sum(1, keepdim=True)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_each_volume_is_predicted_once_from_itself_and_its_nearest(spatial_dims):
    images, seen = series(spatial_dims), Seen()
    output = ContextInferer(seen)(images, None)
    assert [x[0, :, 0].flatten(1)[:, 0].div(100_000).int().tolist() for x in seen.inputs] == [
        [0, 1, 2],
        [1, 0, 2],
        [2, 1, 3],
        [3, 2, 4],
        [4, 3, 2],
    ]
    assert output.shape == images.shape
    assert torch.equal(output[:, 3], images.as_tensor()[:, [3, 2, 4]].sum(1))


def test_an_image_without_context_goes_on_as_it_is():
    seen = Seen()
    ContextInferer(seen)(torch.ones(1, 3, 8, 8), None)
    assert [tuple(x.shape) for x in seen.inputs] == [(1, 3, 8, 8)]


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_tiles_and_symmetries_see_the_context_of_their_place(spatial_dims):
    torch.manual_seed(0)
    network = N2VUNet(spatial_dims, in_channels=3, features=2, depth=1).eval()
    images = series(spatial_dims)
    images = MetaTensor(images.as_tensor() / 500_000, meta=dict(images.meta))
    options = {"in_channels": 3, "divisor": 2}

    def predict(inferer) -> torch.Tensor:
        with torch.inference_mode():
            return ContextInferer(inferer)(images, network)

    whole = predict(AlignedTileInferer(spatial_dims, tile_size=64, halo=network.halo, **options))
    network.halo = 2  # for depth 1 tiles of these sides are cut
    tiled = predict(AlignedTileInferer(spatial_dims, tile_size=24, halo=10, **options))
    torch.testing.assert_close(tiled, whole, rtol=1e-4, atol=1e-4)
    averaged = predict(SymmetricInferer(AlignedTileInferer(spatial_dims, halo=10, **options), spatial_dims))
    assert averaged.shape == whole.shape
    assert not torch.equal(averaged, whole)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_blind_spots_hide_the_volume_and_leave_its_context(spatial_dims):
    images, seen = series(spatial_dims), Seen()
    masker = RandN2VMask(0.1, 1, batched=True)
    output = ContextInferer(BlindSpotInferer(seen, spatial_dims, masker, n_masks=1))(images, None)
    plain, masked = seen.inputs[2 * 3], seen.inputs[2 * 3 + 1]
    assert torch.equal(masked[:, 1:], plain[:, 1:])
    changed = masked[:, 0] != plain[:, 0]
    assert 0.05 < changed.float().mean() < 0.15
    all_plain, blind = output.chunk(2, dim=1)
    assert torch.equal(all_plain[:, 3], plain.sum(1))
    assert torch.equal(~torch.isnan(blind[:, 3]), changed)


def test_negative_context_is_refused():
    with pytest.raises(ValueError, match="context must be a whole number from 0, got -1"):
        NearestVolumesd("image", -1)
