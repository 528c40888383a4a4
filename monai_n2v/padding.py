# SPDX-License-Identifier: Apache-2.0
"""Constant padding: the voxels outside of what was measured, which no denoiser should touch."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

__all__ = ["find_padding", "restore_padding"]

# Side of the smallest solid block that counts, by number of axes. Where more than half of an image is clipped to zero,
# 25 neighbors agree by chance once in a million places.
_BLOCK = {2: 5, 3: 3}


def find_padding(volume: np.ndarray) -> np.ndarray | None:
    """Find voxels of constant padding: CT at -1024 or -2000 outside the scanner's circle, MR zeros after masking.

    Padding is one exact value, that of the image's corners or its minimum, filling solid blocks of 5x5 or 3x3x3 voxels.
    Single voxels of that value, as clipping leaves them among noise, are not padding.

    Args:
        volume: one image, 2 or 3 axes.

    Returns:
        bool of the same shape, or None where there is no padding.
    """
    corners = volume[np.ix_(*([0, -1],) * volume.ndim)].ravel()
    block = np.ones([min(_BLOCK[volume.ndim], n) for n in volume.shape], dtype=bool)
    found = None
    for value in {float(v) for v in corners} | {float(volume.min())}:
        equal = volume == value
        if equal.sum() < 2 * block.size:
            continue
        solid = ndimage.binary_opening(equal, block) & equal
        if solid.any():
            found = solid if found is None else found | solid
    return found


def restore_padding(noisy: np.ndarray, denoised: np.ndarray) -> None:
    """Put padding back into a denoised image, in place.

    Args:
        noisy: one image, 2 or 3 axes.
        denoised: of the same shape.
    """
    padding = find_padding(noisy)
    if padding is not None:
        denoised[padding] = noisy[padding]
