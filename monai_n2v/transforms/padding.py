# SPDX-License-Identifier: Apache-2.0
"""What no denoiser should touch: constant padding outside of what was measured, and outliers."""

import logging
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.transforms import MapTransform
from scipy import ndimage

from monai_n2v.transforms.outliers import Outliers, find_outliers

logger = logging.getLogger(__name__)

# Side of the smallest solid block that counts, by number of axes.
_BLOCK = {2: 5, 3: 3}

# Blocks expected to agree by chance, from which on none is taken for padding.
_CHANCE = 1e-3
# Least share of an image that a part of its padding takes: the four corners around a circle have 5 % each.
_SHARE = 0.001
# Voxels of the padding's value elsewhere, from which on they may form paths through a volume (percolation).
_FREQUENT = 0.25


def find_padding(volume: np.ndarray) -> np.ndarray | None:
    """Find voxels of constant padding: CT at -1024 or -2000 outside the scanner's circle, MR zeros after masking.

    Padding is one exact value, that of the image's corners or its minimum. It fills solid blocks of 5x5 or 3x3x3 voxels
    at the image's border, and all that is connected to these through voxels of the same value. Planes at the ends of an
    axis that hold one value alone are padding as well. Single voxels of that value, as clipping leaves them among
    noise, are not.

    Args:
        volume: one image, 2 or 3 axes.

    Returns:
        bool of the same shape, or None where there is no padding.
    """
    corners = volume[np.ix_(*([0, -1],) * volume.ndim)].ravel()
    block = np.ones([min(_BLOCK[volume.ndim], n) for n in volume.shape], dtype=bool)
    found = _constant_ends(volume)
    for value in {float(v) for v in corners} | {float(volume.min())}:
        equal = volume == value
        if not _reaches_border(equal, block) or equal.sum() < 2 * block.size:
            continue
        solid = ndimage.binary_opening(equal, block) & equal
        # Counts of few photons are zero over whole blocks, too, but then zeros are frequent elsewhere.
        elsewhere = float(equal[~solid].mean()) if not solid.all() else 0.0
        if elsewhere**block.size * volume.size > _CHANCE:
            continue
        solid = _outer(solid)
        if solid.any():
            # The rim of a circle holds no block. Where the value is frequent in the image, rims would lead into it.
            found |= ndimage.binary_propagation(solid, mask=equal) if elsewhere < _FREQUENT else solid
    return found if found.any() else None


def _reaches_border(equal: np.ndarray, block: np.ndarray) -> bool:
    """Whether a block's side lies in any face of the image: much sooner told than where all blocks are."""
    faces = ((np.take(equal, side, axis), block.take(0, axis)) for axis in range(equal.ndim) for side in (0, -1))
    return any(ndimage.binary_erosion(face, part).any() for face, part in faces)


def _constant_ends(volume: np.ndarray) -> np.ndarray:
    """Planes at either end of every axis that hold one value alone, such as empty slices."""
    found = np.zeros(volume.shape, dtype=bool)
    for axis in range(volume.ndim):
        planes, marks = np.moveaxis(volume, axis, 0), np.moveaxis(found, axis, 0)
        for order in (range(len(planes)), reversed(range(len(planes)))):
            for i in order:
                if planes[i].min() != planes[i].max():
                    break
                marks[i] = True
    return found


def _outer(solid: np.ndarray) -> np.ndarray:
    """The large parts that touch the image's border: padding lies around what was measured, never in it."""
    labels, n_parts = ndimage.label(solid)
    if n_parts == 0:
        return solid
    faces = [np.take(labels, side, axis) for axis in range(solid.ndim) for side in (0, -1)]
    at_border = np.zeros(n_parts + 1, dtype=bool)
    at_border[np.concatenate([face.ravel() for face in faces])] = True
    # Plane by plane, since numpy counts in integers twice as wide.
    sizes = sum(np.bincount(plane.ravel(), minlength=n_parts + 1) for plane in labels)
    large = sizes >= _SHARE * solid.size
    at_border[0] = False
    return (at_border & large)[labels]


def find_kept(volume: np.ndarray) -> tuple[np.ndarray | None, Outliers | None]:
    """Find all that stays as it is: padding and outliers.

    Args:
        volume: one image, 2 or 3 axes.

    Returns:
        bool of the same shape, or None where there is neither; and the outliers among it.
    """
    kept, outliers = find_padding(volume), find_outliers(volume)
    if outliers is not None:
        kept = np.zeros(volume.shape, dtype=bool) if kept is None else kept
        kept[outliers.sites] = True
    return kept, outliers


def restore_padding(noisy: np.ndarray, denoised: np.ndarray, keep_mean: bool = True) -> Outliers | None:
    """Put padding and outliers back into a denoised image, in place, and give the other voxels the mean they had.

    A network leaves an offset, which `RestoreIntensity` takes off on average over all voxels; where padding takes none
    of it, the others keep some.

    Args:
        noisy: one image, 2 or 3 axes.
        denoised: of the same shape.
        keep_mean: whether the other voxels are given the mean they had.

    Returns:
        the outliers, where there are any.
    """
    kept, outliers = find_kept(noisy)
    if kept is None:
        return None
    planes = list(zip(noisy, denoised, kept))  # views: one plane at a time bounds the memory
    n_measured = kept.size - int(kept.sum())
    missing = 0.0
    if keep_mean:
        missing = sum(float((before[~out] - after[~out]).sum(dtype=np.float64)) for before, after, out in planes)
    for before, after, out in planes:
        after += np.float32(missing / max(1, n_measured))
        after[out] = before[out]
    return outliers


class RestorePaddingd(MapTransform):
    """Put constant padding and outliers back into predictions, exactly as they were.

    See `find_padding` and `find_outliers`; a warning names the latter.

    Args:
        keys: predictions ``(C, *spatial)``, float32, in the units of the source.
        source_key: the noisy image, as it was read.
        enabled: whether to.
        keep_mean: see `restore_padding`.

    Raises:
        ValueError: for ``enabled`` other than true or false.
    """

    def __init__(
        self, keys: Any = "pred", source_key: str = "noisy", enabled: bool = True, keep_mean: bool = True
    ) -> None:
        super().__init__(keys)
        if not isinstance(enabled, bool):  # the text "false", from a command line, would count as true
            raise ValueError(f"keep_padding must be True or False, got {enabled!r}. Pass the boolean, not the text.")
        self.source_key, self.enabled, self.keep_mean = source_key, enabled, keep_mean

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Restore the padding of ``data[key]``; returns a new dictionary."""
        d = dict(data)
        for key in self.key_iterator(d) if self.enabled else ():
            noisy = d[self.source_key].float().cpu().numpy()
            denoised = np.array(d[key].float().cpu().numpy(), order="C")
            for before, after in zip(noisy, denoised):
                outliers = restore_padding(before, after, self.keep_mean)
                if outliers is not None:
                    name = d[self.source_key].meta.get("filename_or_obj") or ""
                    logger.warning("%s%s", f"{name}: " if name else "", outliers.describe(before))
            d[key] = torch.from_numpy(denoised)
        return d
