# SPDX-License-Identifier: Apache-2.0
"""Batches drawn by a thread while a network trains on those before."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from monai.data.thread_buffer import ThreadBuffer

__all__ = ["DrawnAhead"]


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
