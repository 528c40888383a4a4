# SPDX-License-Identifier: Apache-2.0
"""Batches of patches, cut out of the images to train on."""

import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from monai.data.thread_buffer import ThreadBuffer
from monai.transforms import Randomizable

from monai_n2v.data.patches import HeldImage, PatchCut, PatchStore, check_whole_number
from monai_n2v.data.reader import TolerantReader
from monai_n2v.data.rolling_window import RollingWindow, default_budget, stream_order

logger = logging.getLogger(__name__)


class PatchLoader:
    """Batches of random, randomly oriented patches, cut from volumes that stay on the training device.

    The volumes are stored flat; a whole batch is cropped, flipped and rotated at once, and the transform then
    masks it there. No patch becomes an object of its own. Per sample, MONAI's ``RandSpatialCropSamplesd``,
    ``RandFlipd`` and `RandN2VMaskd` in a ``DataLoader`` do the same, more slowly.

    Randomness depends on ``seed`` and epoch alone; within an epoch batches follow from it in order. So a resumed
    epoch repeats exactly, once `set_epoch` has told it which one it is.

    Volumes are chosen with probability proportional to their size. Batches never mix patch sizes; that volumes are cut
    with a smaller patch is said once in the log.

    Images that together exceed ``memory_gib`` are held a few at a time, in a `RollingWindow`. Then the budget decides
    what an epoch sees, too: name one to repeat a run on another machine.

    Args:
        dataset: a sequence of dictionaries with a tensor ``(C, *spatial)`` each, standardized; read once, or
            again and again where they exceed the budget, in a thread: its transform must be deterministic.
        cut: how patches are cut out of them.
        batch_size: patches per batch.
        epoch_length: batches per epoch.
        transform: applied to ``{key: patches}`` of a whole batch, `RandN2VMaskd` with ``batched=True`` for Noise2Void.
            Its ``set_random_state`` is called every epoch.
        device: where volumes and batches live.
        seed: with the epoch, the source of all randomness: a whole number from 0, or several, such as seed and rank of
            a process, so that processes draw different patches. One number counts as that of rank 0.
        memory_gib: budget in GiB for the images of this process, above 0; by default its share, among the processes of
            its node, of 60 % of the free RAM, and on a GPU no more than half of its free memory. A single image may
            exceed it.

    Attributes:
        left_out: what is wrong with images that cannot be trained on; they are noted in the log and skipped, which
            a single image is not.
        n_ahead: batches that a thread draws ahead while the network trains: 2 on a GPU, whose host would else draw
            while the GPU waits, and 0 on a CPU, where a thread would take a core from the network. The batches are the
            same.

    Raises:
        ValueError: where an image's axes or channels do not fit the cut, a label does not fit its image, or an argument
            is out of range.
    """

    def __init__(
        self,
        dataset: Sequence[dict[str, Any]],
        cut: PatchCut,
        batch_size: int,
        epoch_length: int,
        transform: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] | None = None,
        device: torch.device | str = "cpu",
        seed: int | Sequence[int] = 0,
        memory_gib: float | None = None,
    ) -> None:
        self.cut = cut
        self.batch_size = check_whole_number("batch_size", batch_size, 1)
        self.epoch_length = check_whole_number("epoch_length", epoch_length, 1)
        seeds = seed if isinstance(seed, Sequence) else (seed, 0)
        self.seed = tuple(check_whole_number("seed", one, 0) for one in seeds)
        self.transform = transform
        self.device = torch.device(device)
        self.n_ahead = 2 if self.device.type == "cuda" else 0
        self.epoch = 0

        if memory_gib is not None and memory_gib <= 0:
            raise ValueError(f"memory_gib must be above 0, got {memory_gib}. Leave it out to use the free memory.")
        self.n_images = len(dataset)
        self._read = TolerantReader(dataset, cut)
        self._flippable = cut.flippable()
        self._window: RollingWindow | None = None
        self._store: PatchStore | None = None
        self._told: set[tuple[int, ...]] = set()
        self._drawing: ThreadBuffer | None = None
        budget = default_budget(self.device) if memory_gib is None else int(memory_gib * 2**30)
        self._hold(self._read_up_to(budget), budget)

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
        if self._drawing is not None:
            self._drawing.stop()
        window, rng = self._window, self._start_epoch()
        if window is not None:
            self._store = None  # before others take its place
            self._store = self._make_store(window.move_to(self.epoch), merge=False)
        n_drawn, started = 0, time.perf_counter()
        try:
            batches = (self._draw(rng) for _ in range(self.epoch_length))
            self._drawing = ThreadBuffer(_with_error(batches), self.n_ahead) if self.n_ahead else None
            for batch in self._drawing or batches:
                if isinstance(batch, BaseException):
                    raise batch
                n_drawn += 1
                if window is not None and n_drawn == self.epoch_length:
                    # Engines take no more than this batch, so nothing behind its yield is sure to run.
                    window.count((time.perf_counter() - started) * n_drawn / max(1, n_drawn - 1))
                yield batch
        except BaseException:
            if window is not None and n_drawn < self.epoch_length:
                window.close()
            raise

    @property
    def left_out(self) -> list[str]:
        """See the class."""
        return self._read.left_out

    def _hold(self, images: dict[int, HeldImage], budget: int) -> None:
        """Hold the images, or a window of them."""
        if len(images) + len(self.left_out) == self.n_images:
            self._store = self._make_store([images.pop(number) for number in sorted(images)], merge=True)
        else:
            self._window = RollingWindow(self._read, self.n_images, budget, images, self.device, self.seed)

    def _start_epoch(self) -> np.random.RandomState:
        rng = np.random.RandomState(np.random.SeedSequence([*self.seed, self.epoch]).generate_state(8))
        if isinstance(self.transform, Randomizable):
            self.transform.set_random_state(state=rng)
        return rng

    def _draw(self, rng: np.random.RandomState) -> dict[str, torch.Tensor]:
        assert self._store is not None
        patches = self._store.draw(rng, self.batch_size, self._flippable)
        batch = {self.cut.key: patches}
        if self.cut.label_key is not None:
            image, label = patches.chunk(2, dim=1)
            batch = {self.cut.key: image.contiguous(), self.cut.label_key: label.contiguous()}
        return batch if self.transform is None else self.transform(batch)

    def _make_store(self, images: list[HeldImage], merge: bool) -> PatchStore:
        store = PatchStore(images, self.device, merge)
        wanted = self.cut.patch_size
        for patch, group in store.groups.items():
            if patch != wanted and patch not in self._told:
                logger.info("%d volume(s) thinner than the patch %s: cut with %s.", len(group), wanted, patch)
                self._told.add(patch)
        return store

    def _read_up_to(self, budget: int) -> dict[int, HeldImage]:
        """Read the start of the stream, at least one image."""
        images: dict[int, HeldImage] = {}
        n_bytes = 0
        for number in stream_order(self.n_images, self.seed, 0).tolist():
            image = self._read(number)
            if image is None:
                continue
            n_bytes += image.n_bytes
            if images and n_bytes > budget:
                break
            images[number] = image
        return images


class FixedPatchLoader(PatchLoader):
    """A `PatchLoader` of which every epoch has the same batches, for validation.

    They are drawn at once, and the volumes are let go. Where images exceed the budget, each batch is drawn from a few
    random ones, and each of these is read once.
    """

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """Yield the batches, whatever the epoch."""
        yield from self._batches

    def _hold(self, images: dict[int, HeldImage], budget: int) -> None:
        self._batches = list(self._draw_by_parts(images, budget))
        self._store = None

    def _draw_by_parts(self, images: dict[int, HeldImage], budget: int) -> Iterator[dict[str, torch.Tensor]]:
        """Draw one epoch with a part of the images at a time, as many as its patches can come from."""
        rng, parts = self._start_epoch(), [sorted(images)]
        if len(images) + len(self.left_out) < self.n_images:
            n_wanted = min(self.n_images, self.epoch_length * self.batch_size, self.epoch_length * len(images))
            logger.info("Validation draws its patches from %d of %d images, read once.", n_wanted, self.n_images)
            order = stream_order(self.n_images, self.seed, 0)[:n_wanted]
            parts = [part.tolist() for part in np.array_split(order, -(-n_wanted // len(images)))]
        for part, batches in zip(parts, np.array_split(np.arange(self.epoch_length), len(parts))):
            held: list[HeldImage] = []
            others = (number for number in range(self.n_images) if number not in part)
            for number in itertools.chain(part, others):
                if held and number not in part:
                    break  # others serve where the whole part is left out
                image = images.pop(number, None) or self._read(number)
                if image is None:
                    continue
                if held and sum(one.n_bytes for one in held) + image.n_bytes > budget:
                    break
                held.append(image)
            images.clear()
            self._store = None
            self._store = self._make_store(held, merge=True)
            for _ in batches:
                yield self._draw(rng)


def _with_error(batches: Iterator[Any]) -> Iterator[Any]:
    """The batches, followed by what drawing one raised: a buffer would lose it."""
    try:
        yield from batches
    except (Exception, SystemExit) as error:  # noqa: BLE001 - raised where the batch is asked for
        yield error
