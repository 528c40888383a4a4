# SPDX-License-Identifier: Apache-2.0
"""What no denoiser should touch: constant padding outside of what was measured, and outliers."""

import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from scipy import ndimage

from monai_n2v.transforms.outliers import Outliers, describe_outliers, find_outliers

logger = logging.getLogger(__name__)

# Side of the smallest solid block that counts, by number of axes.
_BLOCK = {2: 5, 3: 3}

# Blocks expected to agree by chance, from which on none is taken for padding.
_CHANCE = 1e-3
# Least share of an image that a part of its padding takes: the four corners around a circle have 5 % each.
_SHARE = 0.001
# Voxels of the padding's value elsewhere, from which on they may form paths through a volume (percolation).
_FREQUENT = 0.25
_SAMPLE = 1 << 20  # voxels by which noise is measured
_ROUNDING = 1e-6  # of running sums over voxels

# Keys of the metadata, written where there is some: uint8 ``(C, *spatial)``, packed to bits along the last axis; and
# int64 ``(n_outliers, 1 + n_axes)``, channel and voxel. Arrays, since MONAI makes batches of metadata.
PADDING, OUTLIERS = "padding", "outliers"


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
    block = np.ones([min(_BLOCK.get(volume.ndim, 3), n) for n in volume.shape], dtype=bool)
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


def fill_padding(volume: np.ndarray, padding: np.ndarray, seed: int = 0) -> np.ndarray:
    """Give padding the intensities beside it, so that no network sees its edge.

    Every voxel gets the mean of what was measured in and beside the smallest block around it where there is some:
    blocks of 2, 4, 8 and more voxels a side. So the time goes with the number of voxels, however wide padding is. White
    noise of the image's strength is added: beside a calm area networks take noise for weaker than it is.

    Args:
        volume: one image, float, 2 or 3 axes.
        padding: bool of the same shape; some voxel must be none.
        seed: of the noise; volumes of a series must not share theirs.

    Returns:
        a copy, the same where nothing is padded.
    """
    filled = volume.copy()
    _fill(filled, ~padding)
    noise = np.random.default_rng(seed).standard_normal(int(padding.sum()), dtype=np.float32)
    filled[padding] += _noise_level(volume, ~padding) * noise
    return filled


def _noise_level(volume: np.ndarray, measured: np.ndarray) -> np.float32:
    """Standard deviation of white noise, from the median difference of neighbors, which edges hardly move."""
    sizes = []
    for axis in range(volume.ndim):
        stride = max(1, int((volume.size / _SAMPLE) ** (1 / (volume.ndim - 1))))
        few = tuple(slice(None, None, 1 if other == axis else stride) for other in range(volume.ndim))
        lines, known = np.moveaxis(volume[few], axis, 0), np.moveaxis(measured[few], axis, 0)
        sizes.append(np.abs(lines[1:] - lines[:-1])[known[1:] & known[:-1]])
    together = np.concatenate(sizes)
    return np.float32(np.median(together) / (0.6745 * np.sqrt(2))) if together.size else np.float32(0)


def _fill(values: np.ndarray, weights: np.ndarray) -> None:
    """Fill what has no weight from coarser and coarser grids, in place."""
    if (weights > 0).all():
        return
    coarse_shape = [-(-side // 2) for side in values.shape]
    sums, coarse_weights = np.zeros(coarse_shape), np.zeros(coarse_shape)
    # Every other voxel along each axis: views, so that nothing of the full size is held.
    places = [tuple(slice(start, None, 2) for start in starts) for starts in np.ndindex(*(2,) * values.ndim)]
    for place in places:
        part, weight = values[place], weights[place]
        into = tuple(slice(side) for side in part.shape)
        sums[into] += np.where(weight > 0, part, 0.0) * weight
        coarse_weights[into] += weight
    empty = coarse_weights == 0
    for one in (sums, coarse_weights):
        one[empty] = ndimage.uniform_filter(one, 3, mode="constant")[empty]
    coarse_weights[coarse_weights < _ROUNDING] = 0
    coarse = np.divide(sums, coarse_weights, out=sums, where=coarse_weights > 0)
    _fill(coarse, coarse_weights)
    for place in places:
        part = values[place]
        np.copyto(
            part, coarse[tuple(slice(side) for side in part.shape)], where=weights[place] == 0, casting="same_kind"
        )


def note_kept(paddings: Sequence[np.ndarray | None], outliers: Sequence[Outliers | None], meta: dict[str, Any]) -> None:
    """Write padding and outliers of every channel into the metadata of an image, or that there are none."""
    meta.pop(PADDING, None)
    meta.pop(OUTLIERS, None)
    some = next((one for one in paddings if one is not None), None)
    if some is not None:
        packed = [np.packbits(np.zeros_like(some) if one is None else one, axis=-1) for one in paddings]
        meta[PADDING] = np.stack(packed)
    rows = [np.insert(np.stack(one.sites, 1), 0, k, 1) for k, one in enumerate(outliers) if one is not None]
    if rows:
        meta[OUTLIERS] = np.concatenate(rows)


def padding_in(meta: Mapping[str, Any], channel: int, shape: Sequence[int]) -> np.ndarray:
    """Where the metadata of an image says that a channel is padded.

    Args:
        meta: as `StandardizeIntensity` filled it.
        channel: of the image.
        shape: spatial, of the image.

    Returns:
        bool ``(*shape)``.
    """
    if PADDING not in meta:
        return np.zeros(shape, dtype=bool)
    return np.unpackbits(np.asarray(meta[PADDING][channel]), axis=-1, count=shape[-1]).view(bool)


def find_kept(
    data: Mapping[Hashable, Any], source_key: Hashable, image_key: Hashable = "image"
) -> list[tuple[np.ndarray | None, tuple[np.ndarray, ...] | None]]:
    """Find all that stays as it is, padding and outliers: by what `StandardizeIntensity` has noted, else anew.

    Args:
        data: of one image.
        source_key: the image as it was read, ``(C, *spatial)``.
        image_key: the standardized image.

    Returns:
        of every channel, bool ``(*spatial)`` in the axes of the source, or None where there is neither; and the indices
        of the outliers among it, or None.
    """
    image = data.get(image_key)
    noted = image if isinstance(image, MetaTensor) and "intensity_mean" in image.meta else None
    found: list[tuple[np.ndarray | None, tuple[np.ndarray, ...] | None]] = []
    for channel, volume in enumerate(data[source_key]):
        if noted is None:
            values = volume.float().cpu().numpy()
            kept, outliers = find_padding(values), find_outliers(values)
            sites = () if outliers is None else outliers.sites
        else:
            kept, sites = _noted(noted, channel)
        if sites:
            kept = np.zeros(tuple(volume.shape), dtype=bool) if kept is None else kept
            kept[sites] = True
        found.append((kept, sites or None))
    return found


def _noted(image: MetaTensor, channel: int) -> tuple[np.ndarray | None, tuple[np.ndarray, ...]]:
    """Padding and indices of outliers of a channel, in the axes that it had before `ShortestAxisLastd`."""
    axis = int(image.meta.get("slice_axis", image.ndim - 2))
    padding = padding_in(image.meta, channel, image.shape[1:])
    rows = np.asarray(image.meta.get(OUTLIERS, np.empty((0, image.ndim), dtype=int)))
    *others, last = rows[rows[:, 0] == channel, 1:].T
    sites = (*others[:axis], last, *others[axis:])
    return np.moveaxis(padding, -1, axis) if padding.any() else None, sites if len(last) else ()


def restore_padding(noisy: np.ndarray, denoised: np.ndarray, kept: np.ndarray, keep_mean: bool = True) -> None:
    """Put padding and outliers back into a denoised image, in place, and give the other voxels the mean they had.

    A network leaves an offset, which `RestoreIntensity` takes off on average over all voxels; where padding takes none
    of it, the others keep some.

    Args:
        noisy: one image, 2 or 3 axes.
        denoised: of the same shape.
        kept: bool of the same shape, what is put back.
        keep_mean: whether the other voxels are given the mean they had.
    """
    planes = list(zip(noisy, denoised, kept))  # views: one plane at a time bounds the memory
    n_measured = kept.size - int(kept.sum())
    missing = 0.0
    if keep_mean:
        missing = sum(float((before[~out] - after[~out]).sum(dtype=np.float64)) for before, after, out in planes)
    for before, after, out in planes:
        after += np.float32(missing / max(1, n_measured))
        after[out] = before[out]


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
            for before, after, (kept, outliers) in zip(noisy, denoised, find_kept(d, self.source_key)):
                if kept is not None:
                    restore_padding(before, after, kept, self.keep_mean)
                if outliers is not None:
                    name = d[self.source_key].meta.get("filename_or_obj") or ""
                    logger.warning("%s%s", f"{name}: " if name else "", describe_outliers(outliers, before))
            d[key] = torch.from_numpy(denoised)
        return d
