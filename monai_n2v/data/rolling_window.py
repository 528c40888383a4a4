# SPDX-License-Identifier: Apache-2.0
"""A rolling window over images that do not fit into memory together, the next ones read in the background."""

import functools
import logging
import math
import threading
import time
import weakref
from collections.abc import Callable, Sequence

import numpy as np
import torch

from monai_n2v.data.patches import HeldImage
from monai_n2v.io.memory import free_bytes

logger = logging.getLogger(__name__)

_SHARE_OF_RAM = 0.6
_SHARE_OF_GPU = 0.5
_EPOCHS_PER_PASS = 25
_REPORT_INTERVAL = 10


def default_budget(device: torch.device) -> int:
    """Bytes that images may take: 60 % of the free RAM, and of a GPU no more than half of its free memory.

    Args:
        device: where they are to be held.
    """
    free = int(_SHARE_OF_RAM * free_bytes("cpu"))
    return min(free, int(_SHARE_OF_GPU * free_bytes(device))) if device.type == "cuda" else free


@functools.lru_cache(maxsize=4)  # of a million images it takes a while, and is asked for again and again
def _order(n_images: int, seed: tuple[int, ...], number: int) -> np.ndarray:
    state = np.random.SeedSequence([*seed, number, n_images]).generate_state(8)
    order = np.random.RandomState(state).permutation(n_images)
    order.setflags(write=False)
    return order


def stream_order(n_images: int, seed: Sequence[int], number: int) -> np.ndarray:
    """Order in which pass ``number`` over all images goes; every pass has one of its own. Not to be written to."""
    return _order(n_images, tuple(seed), number)


class _ReadAhead:
    """One thread that reads images in order until their size reaches a limit."""

    def __init__(self, read: Callable[[int], HeldImage | None], wanted: Sequence[int], limit: float) -> None:
        self.read, self.wanted, self.limit = read, list(wanted), limit
        self.images: dict[int, HeldImage] = {}
        self.error: Exception | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="monai_n2v-reader", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        n_bytes = 0
        try:
            for number in self.wanted:
                if self._stop.is_set() or n_bytes >= self.limit:
                    return
                image = self.read(number)
                if image is not None:
                    self.images[number] = image
                    n_bytes += image.n_bytes
        except Exception as error:  # noqa: BLE001 - raised where the images are taken
            self.error = error

    def take(self) -> dict[int, HeldImage]:
        """Wait for the images; an error while reading is raised here."""
        self._thread.join()
        if self.error is not None:
            raise self.error
        return self.images

    def close(self) -> None:
        """End the thread, at the latest after the image it is reading."""
        self._stop.set()
        self._thread.join()
        self.images.clear()


def _close_all(running: list[_ReadAhead]) -> None:
    while running:
        running.pop().close()


class RollingWindow:
    """A few consecutive images of an endless stream; every epoch it moves on.

    The stream is one random order of all images after the other. Of ``n_fit`` images that fit into the budget, the
    window leaves room for those read ahead. It moves by 1/25 of all images per epoch, rounded up, so that a pass over
    them takes up to 25 epochs; but by no more than a third of ``n_fit``, so that every image stays for at least two.
    Then a pass takes longer.

    Where images differ in size, those that do not fit beside others are left out of the epoch. Those in their last
    epoch before the window leaves them come first, the largest of them ahead, so that every pass sees every image. Only
    where two of them exceed the room together is one left out; if both take more than half of it, chance decides which.

    Which images an epoch sees depends on seed, epoch, budget and the images' sizes, not on how fast they are
    read or which epochs came before.

    Args:
        read: of one image by its number; None for one that is left out.
        n_images: of the dataset.
        budget: bytes for images held and read ahead.
        first: images of the start of the stream that were read already, as many as fit.
        device: where the images are held; those read ahead wait in RAM.
        seed: of the stream, as of `PatchLoader`.
    """

    def __init__(
        self,
        read: Callable[[int], HeldImage | None],
        n_images: int,
        budget: int,
        first: dict[int, HeldImage],
        device: torch.device,
        seed: Sequence[int],
    ) -> None:
        self.read, self.n_images, self.budget = read, n_images, budget
        self.device, self.seed = device, seed
        n_fit = max(1, len(first))
        self.n_exchanged = max(1, min(math.ceil(n_images / _EPOCHS_PER_PASS), n_fit // 3))
        self.n_held = max(1, n_fit - self.n_exchanged)
        self.held = dict(list(first.items())[: self.n_held])
        self.sizes = {number: image.n_bytes for number, image in first.items()}
        self.reads_ahead = n_fit > 1
        # Rounded down here, so up for those read ahead: images of even size fit exactly.
        self.room = budget * self.n_held // (self.n_held + (self.n_exchanged if self.reads_ahead else 0))
        self.waited = self.trained = 0.0
        self.n_epochs = 0
        self._running: list[_ReadAhead] = []
        self._finalizer = weakref.finalize(self, _close_all, self._running)
        gib = np.mean([image.n_bytes for image in first.values()]) * n_images / 2**30
        logger.info(
            "%d images of about %.2f GiB exceed the budget of %.2f GiB: %d are held, %d exchanged per epoch.",
            n_images, gib, budget / 2**30, self.n_held, self.n_exchanged,
        )  # fmt: skip

    def wanted(self, epoch: int) -> list[int]:
        """Numbers of the images an epoch is to see, in the order of the stream."""
        position = max(epoch - 1, 0) * self.n_exchanged
        numbers: dict[int, None] = {}
        while len(numbers) < self.n_held:  # at the seam of two passes an image may come twice
            order = stream_order(self.n_images, self.seed, position // self.n_images)
            numbers[int(order[position % self.n_images])] = None
            position += 1
        return list(numbers)

    def move_to(self, epoch: int) -> list[HeldImage]:
        """Hold the images of an epoch and begin to read those of the next.

        Args:
            epoch: counted from 1.

        Returns:
            the images, on the device.
        """
        started = time.perf_counter()
        waiting = self._running.pop().take() if self._running else {}
        self.sizes |= {number: image.n_bytes for number, image in waiting.items()}
        waiting |= self.held
        self.held.clear()
        self._measure_leaving(epoch, waiting)
        order = self._by_priority(epoch)
        keep = self._fitting(order)
        waiting = {number: image for number, image in waiting.items() if number in keep}
        n_bytes = 0
        for number in order:
            if not self._fits(number, n_bytes):
                continue
            image = waiting.pop(number, None) or self._measured(number)
            if image is not None and self._fits(number, n_bytes):
                n_bytes += image.n_bytes
                self.held[number] = image._replace(voxels=image.voxels.to(self.device))
        waiting.clear()
        if not self.held:
            self._hold_another()
        if self.n_epochs:  # what is read before the first epoch is the start, not waiting
            self.waited += time.perf_counter() - started
        if self.reads_ahead:
            self._running.append(_ReadAhead(self.read, self._to_read_ahead(epoch + 1), self.budget - self.room))
        return list(self.held.values())

    def _by_priority(self, epoch: int) -> list[int]:
        """The wanted images of an epoch, those that the window then leaves first, by size."""
        wanted = self.wanted(epoch)
        # Two above half of the room exclude each other; as equals, they keep the order of the stream.
        leaving, staying = wanted[: self.n_exchanged], wanted[self.n_exchanged :]
        return [*sorted(leaving, key=lambda number: -min(self.sizes.get(number, 0), self.room // 2 + 1)), *staying]

    def _measure_leaving(self, epoch: int, waiting: dict[int, HeldImage]) -> None:
        """Read the images that come first where their sizes are unknown, as after a start amid the stream."""
        for number in self.wanted(epoch)[: self.n_exchanged]:
            if number not in self.sizes:
                image = self._measured(number)
                if image is not None and sum(one.n_bytes for one in waiting.values()) + image.n_bytes <= self.room:
                    waiting[number] = image

    def _measured(self, number: int) -> HeldImage | None:
        image = self.read(number)
        self.sizes[number] = 0 if image is None else image.n_bytes
        return image

    def _hold_another(self) -> None:
        """Hold the first image that can be read, where all that an epoch wants are left out."""
        for number in stream_order(self.n_images, self.seed, 0).tolist():
            image = self._measured(number)
            if image is not None:
                self.held[number] = image._replace(voxels=image.voxels.to(self.device))
                return

    def _fits(self, number: int, n_bytes: int) -> bool:
        """Whether an image, as far as its size is known, fits beside others; the first one always does."""
        return n_bytes == 0 or n_bytes + self.sizes.get(number, 0) <= self.room

    def _fitting(self, order: Sequence[int]) -> list[int]:
        n_bytes, fitting = 0, []
        for number in order:
            if self._fits(number, n_bytes):
                n_bytes += self.sizes.get(number, 0)
                fitting.append(number)
        return fitting

    def _to_read_ahead(self, epoch: int) -> list[int]:
        """Images of the next epoch that are not held, as far as they fit beside those that are."""
        left, missing = self.budget - self.room, []
        for number in self._fitting(self._by_priority(epoch)):
            if number not in self.held and self.sizes.get(number, 0) <= left:
                left -= self.sizes.get(number, 0)
                missing.append(number)
        return missing

    def count(self, seconds: float) -> None:
        """Count an epoch that trained for some seconds; every tenth says how long training waited for images."""
        self.n_epochs += 1
        self.trained += seconds
        if self.n_epochs % _REPORT_INTERVAL:
            return
        slow = self.waited > self.trained
        logger.log(
            logging.WARNING if slow else logging.INFO,
            "In %d epochs training took %.1f s and waited %.1f s for images.%s",
            _REPORT_INTERVAL, self.trained, self.waited,
            " Set cache_dir, raise memory_gib, or make epochs longer (epoch_length)." if slow else "",
        )  # fmt: skip
        self.waited = self.trained = 0.0

    def close(self) -> None:
        """End reading ahead."""
        _close_all(self._running)
