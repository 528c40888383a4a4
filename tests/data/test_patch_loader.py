# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gc
import logging
import re
import threading
import time
from dataclasses import fields
from itertools import pairwise

import laws
import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader, Dataset, MetaTensor, list_data_collate
from monai.transforms import Compose, RandFlipd, RandSpatialCropSamplesd

from monai_n2v.data import patches
from monai_n2v.data.patch_loader import FixedPatchLoader, PatchLoader
from monai_n2v.data.patches import PatchCut
from monai_n2v.data.rolling_window import _ReadAhead
from monai_n2v.transforms.pairing import RandN2VMaskd

CUT_VIEWS = patches.cut_views


def image(shape: tuple[int, ...], spacing: tuple[float, ...] = (1.0, 1.0, 1.0), start: int = 0) -> dict:
    voxels = laws.distinct_image(shape).float() + start
    return {"image": MetaTensor(voxels, affine=torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64)))}


def loader(items: list[dict], patch_size: tuple[int, ...], kind=PatchLoader, n_ahead=None, **kwargs) -> PatchLoader:
    of_cut = {field.name for field in fields(PatchCut)} & kwargs.keys()
    cut = PatchCut(patch_size, **{name: kwargs.pop(name) for name in of_cut})
    found = kind(items, cut, **{"batch_size": 8, "epoch_length": 3, **kwargs})
    found.n_ahead = found.n_ahead if n_ahead is None else n_ahead
    return found


def is_oriented_patch(patch: torch.Tensor, volume: torch.Tensor, permute: bool = True) -> tuple[tuple, tuple]:
    """Find where in a `distinct_image` a patch was cut and how it is oriented; fails where it is not from there."""
    corner = np.array(np.unravel_index(int(patch.flatten()[0] - volume.flatten()[0]), volume.shape))
    steps = []
    for axis in range(patch.ndim):
        neighbor = [0] * patch.ndim
        neighbor[axis] = 1
        other = np.array(np.unravel_index(int(patch[tuple(neighbor)] - volume.flatten()[0]), volume.shape))
        steps.append(other - corner)
    rebuilt = np.empty(patch.shape)
    for position in np.ndindex(*patch.shape):
        at = corner + sum(p * step for p, step in zip(position, steps))
        rebuilt[position] = volume[tuple(at)]
    assert np.array_equal(rebuilt, patch.numpy())
    axes = tuple(int(np.argmax(np.abs(step))) for step in steps)
    signs = tuple(int(step.sum()) for step in steps)
    return axes, signs


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_patches_are_oriented_cuts_of_the_volume(spatial_dims):
    shape = (13, 15, 12)[:spatial_dims]
    items = [image((1, *shape))]
    orientations = set()
    for batch in loader(items, (5,) * spatial_dims, batch_size=32):
        assert batch["image"].shape == (32, 1, *(5,) * spatial_dims)
        orientations |= {is_oriented_patch(patch[0], items[0]["image"][0].as_tensor()) for patch in batch["image"]}
    if spatial_dims == 2:
        assert len(orientations) == 8, "all symmetries of the square"
    else:
        assert len(orientations) > 30, "most of the 48 symmetries of the cube"


@pytest.mark.parametrize("in_channels", [1, 2])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_patches_cut_as_on_a_gpu_are_those_cut_on_a_cpu(spatial_dims, in_channels, monkeypatch):
    items = [
        image((in_channels, *side), start=start)
        for start, side in enumerate([(14,) * spatial_dims, (9,) * spatial_dims])
    ]
    options = {"in_channels": in_channels, "divisor": 1, "memory_gib": 1.0}
    batches = [batch["image"] for batch in loader(items, (6,) * spatial_dims, **options)]
    monkeypatch.setattr(patches, "cut_views", patches.cut_gathered)
    gathered = [batch["image"] for batch in loader(items, (6,) * spatial_dims, **options)]
    assert all(torch.equal(one, other) for one, other in zip(batches, gathered, strict=True))
    store = patches.PatchStore(
        [loader(items, (6,) * spatial_dims, **options)._read(k) for k in (0, 1)], torch.device("cpu"), merge=False
    )
    draws = []
    for cut in (patches.cut_gathered, CUT_VIEWS):
        monkeypatch.setattr(patches, "cut_views", cut)
        draws.append(store.draw(np.random.RandomState(0), 8, (True,) * spatial_dims)[0])
    assert torch.equal(*draws)


def test_patches_of_a_strided_tensor_are_its_own_voxels():
    strided = torch.zeros(1, 16, 16, 32)[..., ::2]
    strided.copy_(laws.distinct_image((1, 16, 16, 16)))
    assert not strided.is_contiguous()
    batch = next(iter(loader([{"image": strided}], (8, 8, 8), augment=False)))
    for patch in batch["image"]:
        is_oriented_patch(patch[0], strided[0])


def test_patches_rotate_only_between_equal_axes():
    volume = image((1, 16, 16, 16), spacing=(1.0, 1.0, 3.0))
    seen = {
        is_oriented_patch(patch[0], volume["image"][0].as_tensor())[0]
        for batch in loader([volume], (4, 4, 4), batch_size=32)
        for patch in batch["image"]
    }
    assert seen == {(0, 1, 2), (1, 0, 2)}
    uneven = loader([image((1, 16, 16, 16))], (4, 5, 6), batch_size=32)
    for batch in uneven:
        assert {is_oriented_patch(p[0], volume["image"][0].as_tensor())[0] for p in batch["image"]} == {(0, 1, 2)}


@pytest.mark.parametrize(("augment", "rotate", "n_orientations"), [(False, True, 1), (True, False, 4), (True, True, 8)])
def test_patches_augmentation_can_be_limited(augment, rotate, n_orientations):
    item = image((1, 20, 20))
    seen = {
        is_oriented_patch(patch[0], item["image"][0].as_tensor())
        for batch in loader([item], (6, 6), augment=augment, rotate=rotate, batch_size=64)
        for patch in batch["image"]
    }
    assert len(seen) == n_orientations


def test_patches_cover_every_position_equally():
    item = image((1, 9, 8))
    corners = [
        int(patch.min())
        for batch in loader([item], (3, 3), batch_size=2000, epoch_length=5)
        for patch in batch["image"]
    ]
    laws.draws_are_uniform([(c // 8, c % 8) for c in corners], [(y, x) for y in range(7) for x in range(6)])


def test_volumes_chosen_by_size():
    items = [image((1, 10, 10)), image((1, 10, 30), start=1000)]
    first = torch.cat([b["image"].flatten(1)[:, 0] for b in loader(items, (4, 4), batch_size=4000, epoch_length=1)])
    assert (first >= 1000).float().mean() == pytest.approx(0.75, abs=0.03)


def test_slices_cut_from_volumes():
    item = image((1, 12, 14, 5))
    slices = set()
    for batch in loader([item], (6, 6), batch_size=64):
        for patch in batch["image"]:
            slices |= {int(n) % 5 for n in patch.flatten()}
            assert len({int(n) % 5 for n in patch.flatten()}) == 1, "a patch crosses slices"
    assert slices == set(range(5))


def test_channels_together_or_each_on_its_own():
    item = image((2, 12, 12))
    together = next(iter(loader([item], (6, 6), in_channels=2)))["image"]
    assert together.shape == (8, 2, 6, 6)
    assert (together[:, 1] - together[:, 0] == 144).all()
    alone = torch.cat([batch["image"] for batch in loader([item], (6, 6))])
    assert alone.shape[1] == 1
    assert (alone >= 144).any()
    assert (alone < 144).any()


def test_thin_volumes_cut_with_smaller_patches_said_once(caplog):
    items = [image((1, 17, 21, 3)), image((1, 40, 40, 40), start=10_000), image((1, 17, 21, 3), start=90_000)]
    with caplog.at_level(logging.INFO, logger="monai_n2v"):
        patches = loader(items, (32, 32, 32), divisor=16, epoch_length=40)
    messages = [record.getMessage() for record in caplog.records]
    assert messages == ["2 volume(s) thinner than the patch (32, 32, 32): cut with (16, 16, 3)."]
    assert {tuple(batch["image"].shape[2:]) for batch in patches} == {(16, 16, 3), (32, 32, 32)}


def test_batches_repeat_for_the_same_seed_rank_and_epoch():
    def first(seed: int = 0, rank: int = 0, epoch: int = 1) -> torch.Tensor:
        patches = loader(
            [image((1, 40, 40))], (16, 16), seed=[seed, rank], transform=RandN2VMaskd("image", batched=True)
        )
        patches.set_epoch(epoch)
        batch = list(patches)[-1]
        return torch.cat([batch["image"], batch["mask"]])

    assert torch.equal(first(), first())
    alone = loader([image((1, 40, 40))], (16, 16), seed=3)
    assert alone.seed == loader([image((1, 40, 40))], (16, 16), seed=[3, 0]).seed, "one number is that of rank 0"
    for other in (first(seed=1), first(rank=1), first(epoch=2)):
        assert not torch.equal(first(), other)


def test_epochs_differ_in_one_loader_and_repeat_on_return():
    patches = loader([image((1, 40, 40))], (16, 16))
    epochs = []
    for epoch in (1, 2, 1):
        patches.set_epoch(epoch)
        epochs.append(torch.cat([batch["image"] for batch in patches]))
    assert torch.equal(epochs[0], epochs[2])
    assert not torch.equal(epochs[0], epochs[1])
    assert len(patches) == 3


@pytest.mark.parametrize("memory_gib", [None, 2e-5])
def test_batches_drawn_ahead_are_the_same(memory_gib):
    items = [image((1, 16, 16, 16), start=4096 * k) for k in range(4)]

    def batches(n_ahead: int) -> list[torch.Tensor]:
        pairing = RandN2VMaskd("image", batched=True)
        found = loader(items, (8, 8, 8), transform=pairing, memory_gib=memory_gib, n_ahead=n_ahead)
        drawn = []
        for epoch in (1, 2):
            found.set_epoch(epoch)
            drawn += [batch[key] for batch in found for key in ("image", "label", "mask")]
        return drawn

    assert len(batches(0)) == 2 * 3 * 3
    assert all(torch.equal(a, b) for a, b in zip(batches(0), batches(3), strict=True))


def test_error_while_drawing_ahead_surfaces_and_leaves_no_thread():
    def transform(batch):
        raise ValueError("mask_fraction must be in (0, 0.5]")

    before = threading.active_count()
    with pytest.raises(ValueError, match="mask_fraction"):
        next(iter(loader([image((1, 16, 16, 16))], (8, 8, 8), transform=transform, n_ahead=2)))
    assert threading.active_count() == before


def test_epoch_begun_while_another_is_held_is_not_disturbed_by_it():
    pairing = RandN2VMaskd("image", batched=True)
    found = loader([image((1, 16, 16, 16))], (8, 8, 8), epoch_length=20, transform=pairing, n_ahead=2)
    found.set_epoch(2)
    expected = [batch["mask"] for batch in found]
    for _ in range(5):
        found.set_epoch(1)
        held = iter(found)
        next(held)
        found.set_epoch(2)
        assert all(torch.equal(a["mask"], b) for a, b in zip(found, expected, strict=True))
        held.close()


def test_batches_drawn_ahead_and_not_wanted_leave_no_thread():
    before = threading.active_count()
    batches = iter(loader([image((1, 16, 16, 16))], (8, 8, 8), epoch_length=100, n_ahead=2))
    next(batches)
    assert threading.active_count() == before + 1
    batches.close()
    assert threading.active_count() == before


def test_fixed_batches_are_bit_identical_on_repeat():
    patches = loader([image((1, 40, 40))], (16, 16), FixedPatchLoader, transform=RandN2VMaskd("image", batched=True))
    first = list(patches)
    patches.set_epoch(7)
    assert all(torch.equal(a[k], b[k]) for a, b in zip(first, patches) for k in a)
    assert len(first) == 3


def test_masked_patches_pair_image_and_label():
    patches = loader([image((1, 40, 40))], (16, 16), transform=RandN2VMaskd("image", batched=True))
    for batch in patches:
        laws.unmasked_voxels_are_bit_identical(batch["label"], batch["image"], batch["mask"])
        assert batch["mask"].sum() == 8 * 4


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_per_sample_way_sees_the_same_statistics(spatial_dims):
    rng = np.random.default_rng(0)
    shape = (1, 48, 40, 44)[: 1 + spatial_dims]
    ramp = np.linspace(0, 3, shape[1]).reshape(1, -1, *(1,) * (spatial_dims - 1))
    item = {"image": MetaTensor(torch.from_numpy((rng.normal(size=shape) + ramp).astype(np.float32)))}
    patch = (12,) * spatial_dims
    per_sample = Compose(
        [
            RandSpatialCropSamplesd("image", roi_size=patch, num_samples=200, random_size=False),
            *(RandFlipd("image", prob=0.5, spatial_axis=axis) for axis in range(spatial_dims)),
            RandN2VMaskd("image"),
        ]
    ).set_random_state(0)
    slow = DataLoader(Dataset([item] * 4, per_sample), batch_size=4, collate_fn=list_data_collate)
    fast = loader([item], patch, batch_size=800, epoch_length=1, transform=RandN2VMaskd("image", batched=True))
    (a,), (b,) = list(slow), list(fast)
    for key in ("image", "label", "mask"):
        x, y = torch.as_tensor(a[key]).double(), b[key].double()
        assert x.shape == y.shape
        n = x.shape[0]
        for statistic in (lambda t: t.flatten(1).mean(1), lambda t: t.flatten(1).std(1)):
            first, second = statistic(x), statistic(y)
            error = np.sqrt(float(first.var() + second.var()) / n)
            assert abs(float(first.mean() - second.mean())) < 5 * error + 1e-9, key
    changed = [
        (torch.as_tensor(d["image"]) - torch.as_tensor(d["label"]))[torch.as_tensor(d["mask"]) == 1] for d in (a, b)
    ]
    assert changed[0].std() == pytest.approx(float(changed[1].std()), rel=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed must be a whole number from 0, got -1"),
        ({"seed": None}, "seed must be a whole number from 0, got None"),
        ({"seed": 0.5}, "seed must be a whole number from 0, got 0.5"),
        ({"seed": [0, -1]}, "seed must be a whole number from 0, got -1"),
        ({"batch_size": 1.7}, "batch_size must be a whole number from 1, got 1.7"),
        ({"epoch_length": "5"}, "epoch_length must be a whole number from 1, got '5'"),
        ({"patch_size": (8.5, 8)}, "patch_size must be a whole number from 1, got 8.5"),
        ({"patch_size": (8, 0)}, "patch_size must be a whole number from 1, got 0"),
    ],
)
def test_arguments_that_are_no_whole_numbers_refused(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        loader([image((1, 16, 16))], **{"patch_size": (4, 4), **arguments})


def test_whole_numbers_may_be_numpy_ones():
    patches = loader([image((1, 16, 16))], np.array([4, 4]), batch_size=np.int64(2), seed=np.uint8(3))
    assert next(iter(patches))["image"].shape == (2, 1, 4, 4)


@pytest.mark.parametrize(
    ("item", "arguments", "message"),
    [
        (image((1, 8)), {}, "image must have 2 or 3 spatial axes"),
        (image((3, 16, 16)), {"in_channels": 2}, "image must have 2 channels"),
        (image((1, 16, 16)), {"batch_size": 0}, "batch_size must be a whole number from 1"),
    ],
)
def test_unfit_images_refused(item, arguments, message):
    with pytest.raises(ValueError, match=message):
        loader([item], (4, 4), **arguments)


def folder_of_images(n_images: int = 12, sides: tuple[int, ...] = (20, 20)) -> list[dict]:
    """Images whose values tell which one they are: the hundred thousands."""
    return [image((1, *sides), start=100_000 * k) for k in range(n_images)]


class Counting:
    """A dataset that counts what is read, and may be slow or broken."""

    def __init__(self, items: list[dict], seconds: float = 0.0, broken_after: int = 10**9) -> None:
        self.items, self.seconds, self.broken_after = items, seconds, broken_after
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict:
        time.sleep(self.seconds)
        self.read.append(index)
        if len(self.read) > self.broken_after:
            raise OSError("disk lost")
        return self.items[index]


def gib(n_images: float, sides: tuple[int, ...] = (20, 20)) -> float:
    return (n_images + 0.5) * 4 * int(np.prod(sides)) / 2**30


def seen(batches) -> set[int]:
    return {int(n) // 100_000 for batch in batches for n in batch["image"].flatten()}


def reader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "monai_n2v-reader"]


def test_images_that_fit_make_the_same_batches_with_any_budget():
    plain, ample = (loader(folder_of_images(4), (6, 6), memory_gib=memory) for memory in (None, 1.0))
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(plain, ample))
    assert not reader_threads()


def test_window_holds_what_fits_and_moves_over_all_images(caplog):
    data = Counting(folder_of_images(30))
    with caplog.at_level(logging.INFO, logger="monai_n2v"):
        patches = loader(data, (6, 6), memory_gib=gib(9), batch_size=64)
    assert caplog.messages == [
        "30 images of about 0.00 GiB exceed the budget of 0.00 GiB: 7 are held, 2 exchanged per epoch."
    ]
    epochs = []
    for epoch in range(1, 16):
        patches.set_epoch(epoch)
        epochs.append(seen(patches))
        assert len(epochs[-1]) == 7
        assert sum(len(image.voxels) for image in patches._window.held.values()) == 7
    assert all(len(a & b) >= 5 for a, b in pairwise(epochs)), "two images are exchanged"
    assert set.union(*epochs) == set(range(30)), "a pass over 30 images in 15 epochs of two"
    assert len(data.read) <= 9 + 1 + 2 * 16, "what is held is not read again"
    patches._window.close()
    assert not reader_threads()


def test_window_depends_on_seed_rank_and_epoch_alone():
    def batches(epochs: range, seconds: float = 0.0, **kwargs) -> torch.Tensor:
        patches = loader(Counting(folder_of_images(), seconds), (6, 6), memory_gib=gib(5), **kwargs)
        for epoch in epochs:
            patches.set_epoch(epoch)
            last = torch.cat([batch["image"] for batch in patches])
        return last

    uninterrupted = batches(range(1, 8))
    assert torch.equal(uninterrupted, batches(range(7, 8))), "resumed"
    assert torch.equal(uninterrupted, batches(range(1, 8), seconds=0.002)), "whatever the speed of reading"
    assert not torch.equal(uninterrupted, batches(range(1, 8), seed=1))
    assert not torch.equal(uninterrupted, batches(range(1, 8), seed=[0, 1]))


def test_window_of_uneven_images_stays_within_its_budget():
    sizes = [10, 40, 10, 10, 30, 10, 20, 10, 10, 40]
    items = [image((1, n, n), start=100_000 * k) for k, n in enumerate(sizes)]
    patches = loader(items, (6, 6), memory_gib=2500 * 4 / 2**30)
    used = set()
    for epoch in range(1, 40):
        patches.set_epoch(epoch)
        used |= seen(patches)
        assert sum(image.n_bytes for image in patches._window.held.values()) <= 2500 * 4
    assert used == set(range(10))


def test_engine_that_stops_at_the_last_batch_still_gets_images_read_ahead(caplog):
    data = Counting(folder_of_images(30))
    patches = loader(data, (6, 6), memory_gib=gib(9))
    at_the_start: list[int] = []
    engine = Engine(lambda engine, batch: None)

    @engine.on(Events.EPOCH_COMPLETED)
    def wait_for_the_reader(engine):
        (reader,) = patches._window._running
        reader._thread.join()
        at_the_start.append(len(data.read))
        patches.set_epoch(engine.state.epoch + 1)

    patches.set_epoch(1)
    with caplog.at_level(logging.INFO, logger="monai_n2v"):
        engine.run(patches, max_epochs=11, epoch_length=len(patches))
    steps = {after - before for before, after in pairwise(at_the_start)}
    assert steps == {2}, "something was read twice, or not ahead"
    assert any("In 10 epochs training took" in message for message in caplog.messages)
    patches._window.close()


def test_image_larger_than_the_budget_is_taken_alone():
    data = Counting(folder_of_images(3))
    patches = loader(data, (6, 6), memory_gib=gib(0.1))
    used = []
    for epoch in range(1, 4):
        patches.set_epoch(epoch)
        used += seen(patches)
        assert not reader_threads(), "nothing is read beside it"
    assert sorted(used) == [0, 1, 2]


def test_error_while_reading_ahead_surfaces():
    patches = loader(Counting(folder_of_images(), broken_after=7), (6, 6), memory_gib=gib(5))

    def run_on() -> None:
        for epoch in range(1, 9):
            patches.set_epoch(epoch)
            list(patches)

    with pytest.raises(OSError, match="disk lost"):
        run_on()
    assert not reader_threads()


class Damaged(Counting):
    """A dataset with files at fault, of which MONAI's transforms tell in their own words."""

    def __init__(self, items: list[dict], faulty: set[int]) -> None:
        super().__init__(items)
        self.faulty = faulty

    def __getitem__(self, index: int) -> dict:
        try:
            if index in self.faulty:
                raise ValueError(f"path must be a readable file, got {index}.nii. Check it.")
        except ValueError as error:
            raise RuntimeError("applying transform") from error
        return super().__getitem__(index)


@pytest.mark.parametrize("memory", [None, 4, 1], ids=["all fit", "a window", "one at a time"])
@pytest.mark.parametrize("kind", [PatchLoader, FixedPatchLoader])
def test_images_at_fault_are_left_out_with_a_note(kind, memory, caplog):
    faulty, n_images = {0, 3, 4, 5, 11}, 12
    data = Damaged(folder_of_images(n_images), faulty)
    budget = {} if memory is None else {"memory_gib": gib(memory)}
    patches = loader(data, (6, 6), kind, batch_size=8, epoch_length=12, **budget)
    used: set[int] = set()
    for epoch in range(1, 30):
        patches.set_epoch(epoch)
        batches = list(patches)
        assert len(batches) == 12
        used |= seen(batches)
    if kind is PatchLoader or memory is None:
        assert used == set(range(n_images)) - faulty
        assert len(patches.left_out) == len(faulty), "each is told of once"
    assert used
    assert not used & faulty
    for fault in patches.left_out:
        assert f"Left out: {fault}" in caplog.messages
    assert all(fault.startswith("path must be a readable file, got ") for fault in patches.left_out)
    if patches._window is not None:
        patches._window.close()


def test_images_that_are_all_at_fault_or_one_alone_are_refused():
    with pytest.raises(RuntimeError, match="applying transform"):
        loader(Damaged(folder_of_images(3), {0, 1, 2}), (6, 6))
    with pytest.raises(RuntimeError, match="applying transform"):
        loader(Damaged(folder_of_images(1), {0}), (6, 6))


class Gated(Counting):
    """A dataset whose reader waits in the background until it is let through."""

    def __init__(self, items: list[dict]) -> None:
        super().__init__(items)
        self.entered, self.gate = threading.Event(), threading.Event()

    def __getitem__(self, index: int) -> dict:
        if threading.current_thread() is not threading.main_thread():
            self.entered.set()
            assert self.gate.wait(60)
        return super().__getitem__(index)


@pytest.mark.parametrize("end", ["exception", "garbage"])
def test_no_thread_is_left_behind(end, monkeypatch):
    data = Gated(folder_of_images())
    patches = loader(data, (6, 6), memory_gib=gib(5))
    patches.set_epoch(1)
    iterator = iter(patches)
    next(iterator)
    assert data.entered.wait(60)
    (reader,) = reader_threads()
    stop, wait_for = patches._window._running[0]._stop, reader.join
    n_read: list[int] = []

    def let_through(timeout=None):  # the end waits for what is being read, and asks for no more
        assert stop.is_set()
        n_read.append(len(data.read))
        data.gate.set()
        wait_for(timeout)
        n_read.append(len(data.read))

    monkeypatch.setattr(reader, "join", let_through)
    if end == "exception":
        with pytest.raises(RuntimeError):
            iterator.throw(RuntimeError("stop"))
    else:
        del iterator, patches
        gc.collect()
    assert not reader_threads()
    assert n_read[-1] == n_read[0] + 1


@pytest.mark.parametrize(("waited", "level"), [(3.0, logging.INFO), (5.0, logging.WARNING)])
def test_waiting_longer_than_training_is_warned_of(waited, level, caplog, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def train(batch: dict) -> dict:
        now[0] += 1.0
        return batch

    patches = loader(folder_of_images(), (6, 6), memory_gib=gib(3), epoch_length=2, batch_size=1, transform=train)
    take = _ReadAhead.take

    def take_slowly(ahead):
        now[0] += waited
        return take(ahead)

    monkeypatch.setattr(_ReadAhead, "take", take_slowly)
    with caplog.at_level(logging.INFO, logger="monai_n2v"):
        for epoch in range(1, 11):
            patches.set_epoch(epoch)
            list(patches)
    (record,) = [record for record in caplog.records if "waited" in record.getMessage()]
    assert record.levelno == level
    # Drawing takes 2 s of an epoch, and what engines do after the last batch counts as much as after the first.
    assert f"training took 40.0 s and waited {9 * waited:.1f} s" in record.getMessage(), "the first has nothing ahead"
    assert ("Set cache_dir" in record.getMessage()) == (level == logging.WARNING)
    patches._window.close()


def test_fixed_batches_read_each_image_once_within_the_budget():
    data = Counting(folder_of_images(20))
    options = {"memory_gib": gib(4), "batch_size": 8, "epoch_length": 5}
    patches = loader(data, (6, 6), FixedPatchLoader, **options)
    batches = list(patches)
    assert len(batches) == 5
    assert len(seen(batches)) > 12, "from all of the folder"
    assert len(data.read) <= 20 + 1
    assert patches._store is None
    again = loader(Counting(folder_of_images(20)), (6, 6), FixedPatchLoader, **options)
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(batches, again))


@pytest.mark.parametrize("memory", [None, gib(5)])
def test_labels_cut_at_the_same_place(memory):
    items = [{**item, "label": item["image"] + 0.5} for item in folder_of_images(6)]
    for batch in loader(items, (6, 6), label_key="label", memory_gib=memory, batch_size=32):
        assert batch["image"].shape == batch["label"].shape == (32, 1, 6, 6)
        assert torch.equal(batch["image"] + 0.5, batch["label"])


def test_labels_pair_channel_by_channel():
    item = image((2, 12, 12))
    item["label"] = item["image"] + 0.5
    for in_channels in (1, 2):
        for batch in loader([item], (6, 6), label_key="label", in_channels=in_channels):
            assert batch["image"].shape[1] == in_channels
            assert torch.equal(batch["image"] + 0.5, batch["label"])


def test_label_of_another_shape_refused_with_both_names():
    meta = [{"filename_or_obj": name} for name in ("noisy.nii", "clean.nii")]
    item = {
        "image": MetaTensor(torch.rand(1, 9, 9), meta=meta[0]),
        "label": MetaTensor(torch.rand(1, 9, 8), meta=meta[1]),
    }
    with pytest.raises(ValueError, match=r"noisy\.nii.*clean\.nii"):
        loader([item], (4, 4), label_key="label")


@pytest.mark.parametrize(("footprint", "n_orientations"), [([[1, 1, 1]], 4), ([[0, 1, 1]], 2), ([[1] * 3] * 3, 8)])
def test_orientations_leave_the_footprint_unchanged(footprint, n_orientations):
    item = image((1, 20, 20))
    patches = loader([item], (6, 6), footprint=footprint, batch_size=64)
    orientations = {is_oriented_patch(p[0], item["image"][0].as_tensor()) for batch in patches for p in batch["image"]}
    assert len(orientations) == n_orientations
