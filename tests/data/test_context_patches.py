# SPDX-License-Identifier: Apache-2.0
"""Patches of series: the context is cut at the volume's own place, out of the one copy that is held."""

from __future__ import annotations

import laws
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_n2v.data import patches
from monai_n2v.data.patch_loader import PatchLoader
from monai_n2v.data.patches import PatchCut
from monai_n2v.handlers import PrepareN2VBatch
from monai_n2v.transforms import NearestVolumesd, RandN2VMaskd, RandRecorruptd, StandardizeIntensityd

APART = 100_000


def series(shape: tuple[int, ...], n_volumes: int = 6, context: int = 3, first: int = 0) -> dict:
    volumes = torch.stack([laws.distinct_image(shape).float() + APART * (first + k) for k in range(n_volumes)])
    return NearestVolumesd("image", context)({"image": MetaTensor(volumes)})


def loader(items, patch, **options) -> PatchLoader:
    return PatchLoader(items, PatchCut(patch), **{"batch_size": 16, "epoch_length": 4, "memory_gib": 1.0, **options})


@pytest.mark.parametrize("gathered", [False, True])
@pytest.mark.parametrize(("shape", "patch"), [((9, 11), (4, 4)), ((9, 8, 7), (4, 4, 4)), ((9, 11, 5), (4, 4))])
def test_context_is_cut_at_the_place_of_the_volume(shape, patch, gathered, monkeypatch):
    if gathered:
        monkeypatch.setattr(patches, "cut_views", patches.cut_gathered)
    items = [series(shape), series((8,) * len(shape), n_volumes=4, first=6)]
    nearest = {0: items[0]["image"].meta["nearest_volumes"], 6: items[1]["image"].meta["nearest_volumes"]}
    seen = set()
    for batch in loader(items, patch):
        places, numbers = batch["image"] % APART, (batch["image"] // APART).flatten(1)[:, 0].int().tolist()
        assert batch["context"].shape == (16, 3, *patch)
        assert torch.equal(batch["context"] % APART, places.expand(-1, 3, *(-1,) * len(patch)))
        for row, number in enumerate(numbers):
            first = 0 if number < 6 else 6
            expected = nearest[first][number - first] + first
            assert (batch["context"][row] // APART).flatten(1)[:, 0].int().tolist() == expected.tolist()
            seen.add(number)
    assert seen == set(range(10))


def test_context_changes_no_draw():
    with_context, without = (loader([item], (4, 4)) for item in (series((9, 11)), series((9, 11), context=0)))
    for one, other in zip(with_context, without, strict=True):
        assert torch.equal(one["image"], other["image"])
        assert "context" not in other


def test_a_rolling_window_keeps_the_context():
    items = [series((16, 16), first=6 * k) for k in range(6)]
    held = loader(items, (4, 4), memory_gib=4 * 6 * 256 * 4 / 2**30)
    assert held._window is not None
    for batch in held:
        first = (batch["image"] // APART).flatten(1)[:, 0] // 6
        assert torch.equal((batch["context"] // APART // 6).flatten(1)[:, 0], first), "of the same series"
        assert torch.equal(batch["context"][:, :1] % APART, batch["image"] % APART)


def test_volumes_are_held_once():
    held = loader([series((9, 11), n_volumes=6, context=5)], (4, 4))
    assert sum(store.numel() for store in held._store.stores) == 6 * 99


@pytest.mark.parametrize(
    "pairing",
    [RandN2VMaskd("image", mask_fraction=0.2, radius=1, batched=True), RandRecorruptd("image", 5.0, batched=True)],
)
def test_pairings_change_the_volume_alone(pairing):
    (batch,) = loader([series((12, 12))], (8, 8), transform=pairing, epoch_length=1)
    (plain,) = loader([series((12, 12))], (8, 8), epoch_length=1)
    assert torch.equal(batch["context"], plain["context"])
    assert not torch.equal(batch["image"], plain["image"])
    image, target = PrepareN2VBatch()(batch)
    assert image.shape == (16, 4, 8, 8)
    assert torch.equal(image[:, 1:], batch["context"])
    assert target.shape == (16, 2, 8, 8)


def test_noise_is_drawn_by_the_scale_of_the_volume():
    """A volume ten times as bright has a tenth of the noise once it is standardized."""
    rng = np.random.default_rng(0)
    volumes = torch.from_numpy(np.stack([gain * rng.normal(size=(32, 32)) for gain in (1, 10, 1, 1)]))
    item = StandardizeIntensityd("image")({"image": MetaTensor(volumes)})
    item = NearestVolumesd("image", 1)(item)
    pairing = RandRecorruptd("image", 0.2, batched=True)
    (plain,) = loader([item], (16, 16), epoch_length=1)
    (batch,) = loader([item], (16, 16), epoch_length=1, transform=pairing)
    drawn = ((batch["image"] - plain["image"]) / 0.5).flatten(1).std(1)
    assert drawn / 0.2 == pytest.approx(batch["noise_scale"].flatten(), rel=0.2)
    scales = sorted(set(batch["noise_scale"].flatten().tolist()))
    assert scales[-1] / scales[0] == pytest.approx(10, rel=0.1)


def test_channels_that_go_together_have_no_context():
    cut = PatchCut((4, 4), in_channels=6)
    with pytest.raises(ValueError, match="in_channels must be 1 where volumes have context, got 6"):
        PatchLoader([series((9, 11))], cut, 2, 1)
