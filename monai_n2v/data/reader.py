# SPDX-License-Identifier: Apache-2.0
"""Reading of the images that patches are cut from; a bad file is to cost no training."""

import logging
from collections.abc import Sequence
from typing import Any

from monai_n2v.data.patches import HeldImage, PatchCut

logger = logging.getLogger(__name__)


class TolerantReader:
    """Reads the images of a dataset by their number; of several, those that fail are left out, with a note in the log.

    It knows nothing of who reads, so that a thread that does keeps nobody alive.

    Args:
        dataset: of dictionaries with a tensor each.
        cut: that holds them.

    Attributes:
        left_out: what is wrong with the images that failed.
    """

    def __init__(self, dataset: Sequence[dict[str, Any]], cut: PatchCut) -> None:
        self.dataset, self.cut = dataset, cut
        self.left_out: list[str] = []
        self._faulty: set[int] = set()
        self._good: set[int] = set()  # what was read once is no bad file: then the disk is lost

    def __call__(self, number: int) -> HeldImage | None:
        """Read an image; None for one that is left out.

        Raises:
            ValueError: for the fault of a single image, of one that was read before, or where all fail.
            OSError: likewise.
        """
        if number in self._faulty:
            return None
        try:
            image = self.cut.hold(self.dataset[number])
        except Exception as error:
            fault = _fault(error)
            if fault is None or len(self.dataset) == 1 or number in self._good:
                raise
            self._faulty.add(number)
            self.left_out.append(" ".join(str(fault).split()))
            logger.warning("Left out: %s", self.left_out[-1])
            if len(self._faulty) == len(self.dataset):
                raise
            return None
        self._good.add(number)
        return image


def _fault(error: BaseException | None) -> BaseException | None:
    """What is wrong with a file; MONAI wraps it in errors of its own. None for errors of other kinds."""
    while error is not None and not isinstance(error, (ValueError, OSError)):
        error = error.__cause__ or error.__context__
    return error
