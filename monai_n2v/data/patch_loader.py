# SPDX-License-Identifier: Apache-2.0
"""Batches of patches, cut out of the images to train on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from monai.data.thread_buffer import ThreadBuffer
from monai.transforms import Randomizable

from monai_n2v.data.patches import CutRules, HeldImage, PatchStore, check_whole_number
from monai_n2v.data.rolling_window import ImageReader, RollingWindow, default_budget, stream_order
from monai_n2v.transforms.symmetries import flippable_axes

__all__ = ["DrawnAhead", "PatchLoader"]

logger = logging.getLogger(__name__)


class PatchLoader:
    """Batches of random, randomly oriented patches, cut from volumes that stay on the training device.

    The volumes are stored flat; a whole batch is cropped, flipped and rotated at once, and the transform then
    masks it there. No patch becomes an object of its own. Per sample, MONAI's ``RandSpatialCropSamplesd``,
    ``RandFlipd`` and `RandN2VMaskd` in a ``DataLoader`` do the same, more slowly.

    Randomness depends on ``(seed, rank, epoch)`` alone; within an epoch batches follow from it in order. So a resumed
    epoch repeats exactly, once `set_epoch` has told it which one it is.

    Volumes are chosen with probability proportional to their size. A volume thinner than the patch is cut with a
    smaller patch, said once in the log; batches never mix patch sizes. Rotations by 90 degrees exchange only axes of
    equal spacing (to 1 %) and equal patch length. With one spatial axis more than the patch has, a volume is cut slice
    by slice along its last axis. With a single network channel, each channel of an image counts as a volume of its own.

    Images that together exceed ``memory_gib`` are held a few at a time, in a `RollingWindow`. Then the budget decides
    what an epoch sees, too: name one to repeat a run on another machine.

    Args:
        dataset: a sequence of dictionaries with a tensor ``(C, *spatial)`` each, standardized; read once, or
            again and again where they exceed the budget, in a thread: its transform must be deterministic.
        patch_size: in voxels, one side per axis of the network.
        batch_size: patches per batch.
        epoch_length: batches per epoch.
        transform: applied to ``{key: patches}`` of a whole batch, `RandN2VMaskd` with ``batched=True`` for Noise2Void;
            its ``set_random_state`` is called every epoch.
        key: the image's name in the dictionaries.
        label_key: the name of the target, of the image's shape and cut at the same place; None where a pairing
            transform makes the target.
        in_channels: channels of the network.
        divisor: patch sides cut down to a volume's are rounded to a multiple of it where that fits, since the network
            would pad them up anyway.
        augment: whether to flip and rotate.
        rotate: whether to rotate; without, only flips.
        device: where volumes and batches live.
        seed: a whole number from 0; with rank and epoch, the source of all randomness.
        rank: of this process, so that processes draw different patches.
        fixed: draw one epoch now and yield the same batches ever after, for validation; the volumes are let go. Where
            they exceed the budget, each batch is drawn from a few random ones, and each of these is read once.
        footprint: structN2V, as the transform hides it: only flips and rotations that leave it unchanged are drawn.
        memory_gib: budget in GiB for the images of this process, above 0; by default its share, among the processes of
            its node, of 60 % of the free RAM, and on a GPU no more than half of its free memory. A single image may
            exceed it.
        n_ahead: batches that a thread draws ahead while the network trains; None for 2 on a GPU, whose host would
            else draw while the GPU waits, and 0 on a CPU, where a thread would take a core from the network. The
            batches are the same.

    Raises:
        ValueError: where an image's axes or channels do not fit patch size and ``in_channels``, a label does not fit
            its image, or an argument is out of range.
    """

    def __init__(
        self,
        dataset: Sequence[dict[str, Any]],
        patch_size: Sequence[int],
        batch_size: int,
        epoch_length: int,
        transform: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] | None = None,
        key: str = "image",
        in_channels: int = 1,
        divisor: int = 1,
        augment: bool = True,
        rotate: bool = True,
        device: torch.device | str = "cpu",
        seed: int = 0,
        rank: int = 0,
        fixed: bool = False,
        label_key: str | None = None,
        footprint: Any = None,
        memory_gib: float | None = None,
        n_ahead: int | None = None,
    ) -> None:
        patch_size = tuple(check_whole_number("patch_size", side, 1) for side in patch_size)
        self.batch_size = check_whole_number("batch_size", batch_size, 1)
        self.epoch_length = check_whole_number("epoch_length", epoch_length, 1)
        self.seed = seed = check_whole_number("seed", seed, 0)
        self.transform = transform
        self.key = key
        self.device = torch.device(device)
        usual = 2 if self.device.type == "cuda" else 0
        self.n_ahead = usual if n_ahead is None else check_whole_number("n_ahead", n_ahead, 0)
        self.rank = rank
        self.epoch = 0

        if memory_gib is not None and memory_gib <= 0:
            raise ValueError(f"memory_gib must be above 0, got {memory_gib}. Leave it out to use the free memory.")
        self.label_key = label_key
        rules = CutRules(patch_size, key, label_key, in_channels, divisor, augment and rotate, footprint)
        self._flippable = tuple(free and augment for free in flippable_axes(footprint, len(patch_size)))
        self._read = ImageReader(dataset, rules)
        self._fixed: list[dict[str, torch.Tensor]] | None = None
        self._window: RollingWindow | None = None
        self._store: PatchStore | None = None
        self._told: set[tuple[int, ...]] = set()
        self._drawing: DrawnAhead | None = None
        budget = default_budget(self.device) if memory_gib is None else int(memory_gib * 2**30)
        images, all_read = self._read_up_to(budget)
        if all_read:
            self._store = self._make_store([images.pop(number) for number in sorted(images)], merge=True)
            self._fixed = list(self) if fixed else None
        elif fixed:
            self._fixed = list(self._draw_by_parts(images, budget))
        else:
            self._window = RollingWindow(self._read, len(dataset), budget, images, self.device, seed, rank)
        if fixed:
            self._store = None

    def __len__(self) -> int:
        """Batches per epoch."""
        return self.epoch_length

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, counted from 1 as Ignite does, whose batches the next iteration yields."""
        self.epoch = int(epoch)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """Yield the batches of the current epoch, ``{key: (B, C, *patch)}`` after the transform.

        One iteration at a time: it ends those before, which would draw from the same random state.
        """
        if self._fixed is not None:
            yield from self._fixed
            return
        if self._drawing is not None:
            self._drawing.stop()
        window, rng = self._window, self._start_epoch()
        if window is not None:
            self._store = None  # before others take its place
            self._store = self._make_store(window.move_to(self.epoch), merge=False)
        n_drawn, started = 0, time.perf_counter()
        try:
            batches = (self._draw(rng) for _ in range(self.epoch_length))
            self._drawing = DrawnAhead(batches, self.n_ahead) if self.n_ahead else None
            for batch in self._drawing or batches:
                n_drawn += 1
                if window is not None and n_drawn == self.epoch_length:
                    # Engines take no more than this batch, so nothing behind its yield is sure to run.
                    window.count((time.perf_counter() - started) * n_drawn / max(1, n_drawn - 1))
                yield batch
        except BaseException:
            if window is not None and n_drawn < self.epoch_length:
                window.close()
            raise

    def _start_epoch(self) -> np.random.RandomState:
        rng = np.random.RandomState(np.random.SeedSequence([self.seed, self.rank, self.epoch]).generate_state(8))
        if isinstance(self.transform, Randomizable):
            self.transform.set_random_state(state=rng)
        return rng

    def _draw(self, rng: np.random.RandomState) -> dict[str, torch.Tensor]:
        assert self._store is not None
        patches = self._store.draw(rng, self.batch_size, self._flippable)
        batch = {self.key: patches}
        if self.label_key is not None:
            image, label = patches.chunk(2, dim=1)
            batch = {self.key: image.contiguous(), self.label_key: label.contiguous()}
        return batch if self.transform is None else self.transform(batch)

    def _make_store(self, images: list[HeldImage], merge: bool) -> PatchStore:
        store = PatchStore(images, self.device, merge)
        patch_size = self._read.rules.patch_size
        for patch, group in store.groups.items():
            if patch != patch_size and patch not in self._told:
                logger.info("%d volume(s) thinner than the patch %s: cut with %s.", len(group), patch_size, patch)
                self._told.add(patch)
        return store

    def _read_up_to(self, budget: int) -> tuple[dict[int, HeldImage], bool]:
        """Read the start of the stream, at least one image; and whether all images are in it."""
        images: dict[int, HeldImage] = {}
        n_bytes, n_images = 0, len(self._read.dataset)
        for number in stream_order(n_images, self.seed, self.rank, 0):
            image = self._read(int(number))
            n_bytes += image.n_bytes
            if images and n_bytes > budget:
                break
            images[int(number)] = image
        return images, len(images) == n_images

    def _draw_by_parts(self, images: dict[int, HeldImage], budget: int) -> Iterator[dict[str, torch.Tensor]]:
        """Draw one epoch with a part of the images at a time, as many as its patches can come from."""
        rng, order = self._start_epoch(), stream_order(len(self._read.dataset), self.seed, self.rank, 0)
        n_wanted = min(len(order), self.epoch_length * self.batch_size, self.epoch_length * len(images))
        parts = np.array_split(order[:n_wanted], -(-n_wanted // len(images)))
        logger.info("Validation draws its patches from %d of %d images, read once.", n_wanted, len(order))
        for part, batches in zip(parts, np.array_split(np.arange(self.epoch_length), len(parts))):
            held: list[HeldImage] = []
            for number in part:
                image = images.pop(int(number), None) or self._read(int(number))
                if held and sum(one.n_bytes for one in held) + image.n_bytes > budget:
                    break
                held.append(image)
            images.clear()
            self._store = None
            self._store = self._make_store(held, merge=True)
            for _ in batches:
                yield self._draw(rng)


class DrawnAhead:
    """Batches that a thread draws before they are asked for.

    It is iterated once. What drawing raises is raised where the batch is asked for.

    Args:
        batches: drawn one after the other.
        n_ahead: how many wait at most, at least 1.
    """

    def __init__(self, batches: Iterator[dict[str, torch.Tensor]], n_ahead: int) -> None:
        self._batches = batches
        self._buffer = ThreadBuffer(self._outcomes(), n_ahead)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """Yield the batches; when it ends, or is closed, the thread has ended."""
        for outcome in self._buffer:
            if isinstance(outcome, BaseException):
                raise outcome
            yield outcome

    def stop(self) -> None:
        """End the thread; what it has drawn is not handed out any more."""
        self._buffer.stop()

    def _outcomes(self) -> Iterator[dict[str, torch.Tensor] | BaseException]:
        try:
            yield from self._batches
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the buffer would lose it
            yield error
