# SPDX-License-Identifier: Apache-2.0
"""Blind spots: where they lie and what the network sees in their place.

Drawing and applying are two steps. Drawing needs only shapes and a random state and yields plain index arrays, so a
draw can be tested, replayed and made for a whole batch at once. Applying reads and writes voxels on the images' own
device. Nothing here knows about MONAI.

References:
    .. [1] Krull, Buchholz, Jug, "Noise2Void - Learning Denoising from Single Noisy Images", CVPR 2019.
    .. [2] Broaddus et al., "Removing Structured Noise with Self-Supervised Blind-Spot Networks", ISBI 2020.
    .. [3] Hoeck et al., "N2V2 - Fixing Noise2Void Checkerboard Artifacts with Modified Sampling Strategies", 2022.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from monai_n2v.footprints import Cover, check_footprint, cover_sites, lies_in
from monai_n2v.strata import MAX_REDRAWS, draw_sites

__all__ = ["FILLS", "BlindSpots", "apply_blind_spots", "check_footprint", "draw_blind_spots"]

FILLS = ("uniform", "mean", "median")

_WIDER = {torch.uint16: torch.int32, torch.uint32: torch.int64}
# Window values gathered at a time for the mean and median fills: 4 Mi values keep the peak below about 100 MB.
_MAX_GATHERED = 1 << 22


@dataclass(frozen=True)
class BlindSpots:
    """Blind spots of a batch of equally shaped images, drawn but not yet applied.

    Attributes:
        shape: ``(n_images, *spatial)``, the batch they were drawn for, channels left out.
        sites: int64 ``(n_sites, 1 + n_axes)``, image index and voxel of every blind spot; unique rows.
        targets: int64 ``(n_targets, 1 + n_axes)``, every voxel to be replaced; equals ``sites`` without a footprint.
        sources: int64 like ``targets``, the voxel whose value replaces each target (``"uniform"``), or None.
        windows: for ``"mean"`` and ``"median"``, which neighbors of a target count (see `_Windows`), or None.
    """

    shape: tuple[int, ...]
    sites: np.ndarray
    targets: np.ndarray
    sources: np.ndarray | None = None
    windows: _Windows | None = None


@dataclass(frozen=True)
class _Windows:
    """Neighbors that may fill a target: ``offsets[j]`` may fill target ``i`` unless ``forbidden[group[i], j]``."""

    statistic: str
    offsets: np.ndarray  # (n_offsets, n_axes)
    forbidden: np.ndarray  # bool (n_groups, n_offsets)
    group: np.ndarray  # (n_targets,)


def draw_blind_spots(
    shape: Sequence[int],
    mask_fraction: float,
    radius: int,
    fill: str,
    footprint: np.ndarray | None,
    rng: np.random.RandomState,
    n_images: int = 1,
) -> BlindSpots:
    """Draw blind spots and, for the uniform fill, the voxels that replace them.

    Args:
        shape: spatial shape ``(H, W)`` or ``(H, W, D)`` in voxels.
        mask_fraction: fraction of voxels to hide, in ``(0, 0.5]``.
        radius: half side of the window a replacement comes from, in voxels; the window is clipped to the image.
        fill: ``"uniform"`` ([1]_), or ``"mean"`` or ``"median"`` of the window without its center ([3]_).
        footprint: bool array from `check_footprint`, or None.
        rng: source of all randomness.
        n_images: number of images drawn for.

    Returns:
        the draw, for `apply_blind_spots`.

    Raises:
        ValueError: for an image of a single voxel, which has no neighbor, or a footprint of another dimension.
    """
    if math.prod(shape) < 2:
        raise ValueError(f"img must have at least 2 voxels, got shape {tuple(shape)}. A single voxel has no neighbor.")
    if footprint is not None and footprint.ndim != len(shape):
        raise ValueError(
            f"footprint must have {len(shape)} axes like the image, got {footprint.ndim}. "
            "Give it one axis per spatial axis."
        )
    batch_shape = (n_images, *shape)
    sites = draw_sites(shape, mask_fraction, rng, n_images)
    cover = None if footprint is None else cover_sites(sites, batch_shape, footprint)
    targets = sites if cover is None else cover.targets
    sources = None
    if fill == "uniform" or cover is not None:
        sources = _draw_sources(targets, shape, radius, rng)
    if cover is not None and sources is not None:
        hopeless = _redraw_inside(sources, cover, sites, shape, radius, rng)
        # At a border a window may lie in the footprint: a blind spot that cannot be hidden must not be learned from.
        sites = np.delete(sites, np.unique(cover.row_site[hopeless[cover.row_target]]), axis=0)
    if fill == "uniform":
        return BlindSpots(batch_shape, sites, targets, sources=sources)
    return BlindSpots(batch_shape, sites, targets, windows=_windows(targets, cover, radius, fill))


def _draw_neighbors(voxels: np.ndarray, shape: Sequence[int], radius: int, rng: np.random.RandomState) -> np.ndarray:
    """Draw for every voxel another one, uniformly from its window clipped to the image, never itself."""
    low = np.maximum(voxels - radius, 0)
    extent = np.minimum(voxels + radius, np.asarray(shape) - 1) - low + 1
    n_others = extent.prod(axis=1) - 1
    pick = np.floor(rng.random_sample(len(voxels)) * n_others).astype(np.int64)
    own = np.zeros(len(voxels), dtype=np.int64)
    for axis in range(len(shape)):
        own = own * extent[:, axis] + voxels[:, axis] - low[:, axis]
    pick += pick >= own  # step over the voxel itself
    neighbors = np.empty_like(voxels)
    for axis in reversed(range(len(shape))):
        pick, within = np.divmod(pick, extent[:, axis])
        neighbors[:, axis] = low[:, axis] + within
    return neighbors


def _draw_sources(targets: np.ndarray, shape: Sequence[int], radius: int, rng: np.random.RandomState) -> np.ndarray:
    return np.column_stack([targets[:, 0], _draw_neighbors(targets[:, 1:], shape, radius, rng)])


def _redraw_inside(
    sources: np.ndarray,
    cover: Cover,
    sites: np.ndarray,
    shape: Sequence[int],
    radius: int,
    rng: np.random.RandomState,
) -> np.ndarray:
    """Redraw, in place, sources inside the footprint of any site that covers their target.

    Rejection keeps the draw exactly uniform over what is allowed. Returns which targets found no source.
    """
    bad = _inside_footprint(sources, cover, sites)
    for _ in range(MAX_REDRAWS):
        if not bad.any():
            break
        sources[bad, 1:] = _draw_neighbors(cover.targets[bad, 1:], shape, radius, rng)
        bad = _inside_footprint(sources, cover, sites)
    return bad


def _inside_footprint(sources: np.ndarray, cover: Cover, sites: np.ndarray) -> np.ndarray:
    hit = lies_in(cover.footprint, sources[cover.row_target, 1:] - sites[cover.row_site, 1:])
    bad = np.zeros(len(sources), dtype=bool)
    bad[cover.row_target[hit]] = True
    return bad


def _windows(targets: np.ndarray, cover: Cover | None, radius: int, statistic: str) -> _Windows:
    n_axes = targets.shape[1] - 1
    offsets = np.indices((2 * radius + 1,) * n_axes).reshape(n_axes, -1).T - radius
    if cover is None:
        return _Windows(statistic, offsets, (offsets == 0).all(axis=1)[None], np.zeros(len(targets), dtype=np.int64))
    # Seen from footprint voxel f, window offset w lies in the footprint of the same site where f + w does.
    forbidden = lies_in(cover.footprint, cover.offsets[:, None] + offsets)
    starts = np.searchsorted(cover.row_target, np.arange(len(targets)))
    ends = np.append(starts[1:], len(cover.row_target))
    group = cover.row_offset[starts].astype(np.int64)
    shared = np.flatnonzero(ends - starts > 1)  # targets under several footprints must avoid all of them
    extra = [forbidden[cover.row_offset[starts[i] : ends[i]]].any(axis=0) for i in shared]
    group[shared] = len(forbidden) + np.arange(len(shared))
    return _Windows(statistic, offsets, np.vstack([forbidden, *extra]), group)


def apply_blind_spots(images: torch.Tensor, spots: BlindSpots) -> tuple[torch.Tensor, torch.Tensor]:
    """Replace the voxels of a draw; the input is left as it is.

    Args:
        images: ``(n_images, channels, *spatial)`` of any dtype, on any device. Channels share sites and sources.
        spots: what `draw_blind_spots` drew for this shape.

    Returns:
        the masked images and the mask, 1 at blind spots and 0 elsewhere; shape, dtype and device of ``images``.
    """
    if images.dtype in _WIDER:  # torch can hold these types but hardly index them
        masked, mask = apply_blind_spots(images.to(_WIDER[images.dtype]), spots)
        return masked.to(images.dtype), mask.to(images.dtype)
    n_channels = images.shape[1]
    masked = images.clone(memory_format=torch.contiguous_format)
    mask = torch.zeros_like(masked)
    flat = images.contiguous().view(-1)
    targets = _flat_index(spots.targets, spots.shape, n_channels, images.device)
    if spots.sources is not None:
        values = flat[_flat_index(spots.sources, spots.shape, n_channels, images.device)]
        masked.view(-1)[targets] = values
    elif spots.windows is not None:
        values, filled = _window_statistic(flat, spots, n_channels)
        masked.view(-1)[targets[filled]] = values[filled]
    mask.view(-1)[_flat_index(spots.sites, spots.shape, n_channels, images.device)] = 1
    return masked, mask


def _flat_index(voxels: np.ndarray, shape: tuple[int, ...], n_channels: int, device: torch.device) -> torch.Tensor:
    """Positions in the flattened ``(n_images, n_channels, *spatial)`` batch, the channels of a voxel side by side."""
    n_voxels = math.prod(shape[1:])
    flat = np.ravel_multi_index(tuple(voxels[:, 1:].T), shape[1:]) + voxels[:, 0] * (n_channels * n_voxels)
    if n_channels > 1:
        flat = (flat[:, None] + np.arange(n_channels) * n_voxels).reshape(-1)
    return torch.from_numpy(flat).to(device)


def _window_statistic(flat: torch.Tensor, spots: BlindSpots, n_channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean or true median (mean of the two middle values of an even count) of each target's allowed neighbors."""
    windows, device = spots.windows, flat.device
    assert windows is not None
    spatial = spots.shape[1:]
    n_voxels = math.prod(spatial)
    offsets = torch.from_numpy(windows.offsets).to(device)
    forbidden = torch.from_numpy(windows.forbidden).to(device)
    group = torch.from_numpy(windows.group).to(device)
    targets = torch.from_numpy(spots.targets).to(device)
    channels = torch.arange(n_channels, device=device) * n_voxels
    work = flat.dtype if flat.dtype.is_floating_point and flat.dtype.itemsize >= 4 else torch.float32
    values = torch.zeros(len(targets), n_channels, dtype=work, device=device)
    filled = torch.zeros(len(targets), dtype=torch.bool, device=device)
    step = max(1, _MAX_GATHERED // (len(offsets) * n_channels))
    for start in range(0, len(targets), step):
        chunk = slice(start, start + step)
        allowed = ~forbidden[group[chunk]]
        position = torch.zeros_like(allowed, dtype=torch.int64)
        for axis, size in enumerate(spatial):
            along = targets[chunk, 1 + axis, None] + offsets[:, axis]
            allowed &= (along >= 0) & (along < size)
            position = position * size + along.clamp(0, size - 1)
        position += targets[chunk, :1] * (n_channels * n_voxels)
        neighbors = flat[position[:, None] + channels[:, None]].to(work)
        values[chunk] = _masked_statistic(neighbors, allowed[:, None], windows.statistic)
        filled[chunk] = allowed.any(dim=1)
    if not flat.dtype.is_floating_point:
        values = values.round()
    return values.to(flat.dtype).view(-1), filled[:, None].expand(-1, n_channels).reshape(-1)


def _masked_statistic(values: torch.Tensor, allowed: torch.Tensor, statistic: str) -> torch.Tensor:
    count = allowed.sum(dim=-1).clamp(min=1)
    if statistic == "mean":
        return torch.where(allowed, values, 0).sum(dim=-1) / count
    ordered = torch.where(allowed, values, torch.inf).sort(dim=-1).values
    count = count.expand(values.shape[:-1])
    lower = ordered.gather(-1, ((count - 1) // 2)[..., None])
    upper = ordered.gather(-1, (count // 2)[..., None])
    return ((lower + upper) / 2).squeeze(-1)
