# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import laws
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import Compose, RandFlipd

from monai_n2v.transforms.pairing import (
    RandN2VMask,
    RandN2VMaskD,
    RandN2VMaskd,
    RandN2VMaskDict,
    RandSwapPairD,
    RandSwapPaird,
    RandSwapPairDict,
)

SHAPES = {2: (1, 48, 40), 3: (1, 16, 20, 12)}


def seeded(**kwargs) -> RandN2VMask:
    return RandN2VMask(**kwargs).set_random_state(seed=3)


@pytest.mark.parametrize("kind", ["numpy", "tensor", "metatensor"])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_mask_keeps_kind_shape_dtype_and_input(spatial_dims, kind):
    array = np.random.default_rng(0).normal(size=SHAPES[spatial_dims]).astype(np.float32)
    image = {"numpy": array, "tensor": torch.from_numpy(array), "metatensor": MetaTensor(array, meta={"name": "x"})}[
        kind
    ]
    before = array.copy()
    masked, mask = seeded()(image)
    assert type(masked) is type(mask) is type(image)
    assert masked.shape == mask.shape == image.shape
    assert masked.dtype == mask.dtype == image.dtype
    assert np.array_equal(np.asarray(image), before)
    laws.unmasked_voxels_are_bit_identical(*(torch.as_tensor(np.asarray(x)) for x in (image, masked, mask)))
    if kind == "metatensor":
        assert masked.meta["name"] == "x"


@pytest.mark.parametrize("fill", ["uniform", "mean", "median"])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_mask_equals_chosen_sites_on_constant_image(spatial_dims, fill):
    shape = (128, 128) if spatial_dims == 2 else (64, 64, 64)
    masked, mask = seeded(fill=fill, radius=2)(torch.full((1, *shape), 7.0))
    assert (masked == 7).all()
    assert mask.sum() == np.prod(shape) / 64


@pytest.mark.parametrize("footprint", [None, "line"])
@pytest.mark.parametrize("fill", ["uniform", "mean", "median"])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_mask_is_blind(spatial_dims, fill, footprint):
    shape = SHAPES[spatial_dims]
    line = None if footprint is None else np.ones((1,) * (spatial_dims - 1) + (5,))
    image = torch.rand(shape, generator=torch.Generator().manual_seed(1))

    def mask_image(x: torch.Tensor, fraction: float) -> tuple[torch.Tensor, torch.Tensor]:
        return seeded(fill=fill, radius=2, footprint=line, mask_fraction=fraction)(x)

    laws.is_blind(lambda x: mask_image(x, 1 / np.prod(shape)), image)
    laws.own_replacements_ignore_own_values(lambda x: mask_image(x, 0.02), image)


def test_mask_gradient_to_own_input_is_zero():
    image = torch.rand(1, 24, 24, requires_grad=True)
    masked, mask = seeded(mask_fraction=1 / 576)(image)
    masked.sum().backward()
    assert image.grad[mask.bool()].item() == 0


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_batched_mask_differs_between_images_and_is_shared_by_channels(spatial_dims):
    images = torch.stack([laws.distinct_image((2, *SHAPES[spatial_dims][1:]))] * 4)
    masked, mask = seeded(batched=True)(images)
    for n in range(4):
        laws.channels_share_their_sites(mask[n])
        laws.replacements_come_from_the_clipped_window(masked[n, 0], mask[n, 0], 5)
        offset = masked[n, 1][mask[n, 1] == 1] - masked[n, 0][mask[n, 0] == 1]
        assert (offset == images[0, 1, ..., 0].flatten()[0]).all(), "channels draw from different voxels"
    assert not torch.equal(mask[0], mask[1])


def test_mask_same_seed_same_result_other_seed_other():
    image = torch.rand(1, 64, 64)
    first, again = RandN2VMask().set_random_state(5), RandN2VMask().set_random_state(5)
    assert all(torch.equal(a, b) for a, b in zip(first(image), again(image)))
    assert not torch.equal(first(image)[1], again.set_random_state(6)(image)[1])


def test_mask_randomize_false_repeats_the_draw():
    transform, image = seeded(), torch.rand(1, 32, 32)
    first = transform(image)
    assert all(torch.equal(a, b) for a, b in zip(first, transform(image, randomize=False)))
    with pytest.raises(ValueError, match="shape the blind spots were drawn for"):
        transform(image[:, :16], randomize=False)


def test_mask_not_applied_leaves_image_and_empty_mask():
    image = torch.rand(1, 32, 32)
    masked, mask = RandN2VMask(prob=0.0)(image)
    assert torch.equal(masked, image)
    assert masked.data_ptr() != image.data_ptr()
    assert mask.sum() == 0


def test_mask_prob_drawn_once_per_call():
    transform = RandN2VMask(prob=0.5, batched=True).set_random_state(0)
    hidden = [transform(torch.rand(4, 1, 16, 16))[1].flatten(1).sum(1) for _ in range(200)]
    assert all((n > 0).all() or (n == 0).all() for n in hidden)
    assert 70 < sum(bool((n > 0).all()) for n in hidden) < 130


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask_fraction": 1.6}, "mask_fraction must be in"),
        ({"mask_fraction": 0}, "mask_fraction must be in"),
        ({"radius": 0}, "radius must be"),
        ({"radius": 2.5}, "radius must be"),
        ({"fill": "zero"}, "fill must be one of"),
        ({"footprint": [[1, 1]]}, "footprint must be"),
    ],
)
def test_mask_bad_arguments_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RandN2VMask(**arguments)


@pytest.mark.parametrize("shape", [(8,), (64, 64), (1, 4, 4, 4, 4)])
def test_mask_wrong_axes_refused(shape):
    with pytest.raises(ValueError, match="img must be"):
        RandN2VMask()(torch.rand(shape))


def test_dictionary_mask_fills_the_contract():
    image = MetaTensor(torch.rand(1, 32, 32))
    data = {"image": image, "other": 1}
    out = RandN2VMaskd("image").set_random_state(0)(data)
    assert out["label"] is image
    assert data.keys() == {"image", "other"}
    laws.unmasked_voxels_are_bit_identical(out["label"], out["image"], out["mask"])
    assert 0 < out["mask"].sum() < 32
    assert RandN2VMaskD is RandN2VMaskDict is RandN2VMaskd


def test_dictionary_mask_same_as_array_mask():
    image = torch.rand(1, 40, 40)
    dictionary = RandN2VMaskd("image", fill="median", radius=1).set_random_state(9)
    out = dictionary({"image": image})
    masked, mask = dictionary.masker(image, randomize=False)
    assert torch.equal(out["image"], masked)
    assert torch.equal(out["mask"], mask)


@pytest.mark.parametrize("fill", ["uniform", "mean", "median"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", ">i2", ">f4", "int64", "float16", "float64"])
def test_mask_takes_every_type_of_number(dtype, fill):
    image = np.random.default_rng(0).integers(0, 200, (1, 32, 32)).astype(dtype)
    masked, mask = seeded(fill=fill)(image)
    assert masked.dtype == mask.dtype == image.dtype.newbyteorder("=")
    hidden = mask == 1
    assert np.array_equal(masked[~hidden], image[~hidden])
    assert hidden.sum() == 16
    assert (masked[hidden] != image[hidden]).any()


def test_dictionary_mask_keys_share_their_sites():
    data = {"a": torch.rand(1, 32, 32), "b": torch.rand(2, 32, 32)}
    out = RandN2VMaskd(("a", "b"), label_key=("a_label", "b_label")).set_random_state(0)(data)
    changed = [(out[k] != out[f"{k}_label"])[0] for k in "ab"]
    assert torch.equal(changed[0], changed[1])
    with pytest.raises(ValueError, match="label_key must have one name per key"):
        RandN2VMaskd(("a", "b"))


def test_dictionary_mask_missing_keys():
    assert RandN2VMaskd("image", allow_missing_keys=True)({"x": 1}) == {"x": 1}
    with pytest.raises(KeyError):
        RandN2VMaskd("image")({"x": 1})


def test_dictionary_mask_prob_zero_still_fills_label_and_mask():
    out = RandN2VMaskd("image", prob=0.0)({"image": torch.rand(1, 16, 16)})
    assert torch.equal(out["image"], out["label"])
    assert out["mask"].sum() == 0


def test_compose_seeds_the_mask():
    transform = Compose([RandFlipd("image"), RandN2VMaskd("image")])
    image = torch.rand(1, 32, 32)
    first = transform.set_random_state(4)({"image": image})["mask"]
    assert torch.equal(first, transform.set_random_state(4)({"image": image})["mask"])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_dataloader_workers_draw_different_masks():
    data = [{"image": torch.rand(1, 32, 32)} for _ in range(8)]
    loader = DataLoader(Dataset(data, RandN2VMaskd("image")), batch_size=1, num_workers=2)
    masks = [batch["mask"] for batch in loader] + [batch["mask"] for batch in loader]
    assert len({tuple(np.flatnonzero(mask.numpy())) for mask in masks}) == len(masks)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_swapped_pairs_keep_their_partner(spatial_dims):
    first = torch.rand(200, 1, *(4,) * spatial_dims)
    swap = RandSwapPaird(batched=True).set_random_state(0)
    out = swap({"image": first, "label": first + 10})
    swapped = (out["image"] >= 10).flatten(1)
    assert torch.equal(swapped.all(1), swapped.any(1)), "whole items are exchanged"
    assert 70 < swapped.all(1).sum() < 130
    assert torch.equal(out["image"] + out["label"], first + (first + 10))
    again = RandSwapPaird(batched=True).set_random_state(0)({"image": first, "label": first + 10})
    assert torch.equal(out["image"], again["image"])


@pytest.mark.parametrize("prob", [0.0, 1.0])
def test_swap_of_one_pair(prob):
    pair = {"image": np.zeros((1, 4, 4)), "label": np.ones((1, 4, 4)), "other": 3}
    out = RandSwapPaird(prob=prob)(pair)
    assert out["image"].max() == prob
    assert out["label"].max() == 1 - prob
    assert out["other"] == 3
    assert RandSwapPairD is RandSwapPairDict is RandSwapPaird


@pytest.mark.parametrize(
    ("arguments", "shape", "message"),
    [
        ({"keys": "image"}, (1, 4, 4), "keys must name two images"),
        ({"prob": 2}, (1, 4, 4), "prob must be in"),
        ({}, (1, 4, 5), "images must have one shape"),
    ],
)
def test_unfit_pairs_refused(arguments, shape, message):
    with pytest.raises(ValueError, match=message):
        RandSwapPaird(**arguments)({"image": torch.zeros(1, 4, 4), "label": torch.zeros(shape)})
