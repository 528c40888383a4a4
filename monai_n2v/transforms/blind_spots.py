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
import torch.nn.functional as F

from monai_n2v.transforms.footprints import Cover, cover_sites, lies_in
from monai_n2v.transforms.sampling import MAX_REDRAWS, draw_sites

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
    radius: int
    offsets: np.ndarray  # (n_offsets, n_axes), the center left out
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
        sources = np.column_stack([targets[:, 0], _draw_neighbors(targets[:, 1:], shape, radius, rng)])
    if cover is not None and sources is not None:
        hopeless = _redraw_inside(sources, cover, sites, shape, radius, rng)
        # At a border a window may lie in the footprint: a blind spot that cannot be hidden must not be learned from.
        sites = np.delete(sites, np.unique(cover.row_site[hopeless[cover.row_target]]), axis=0)
    if fill == "uniform":
        return BlindSpots(batch_shape, sites, targets, sources=sources)
    return BlindSpots(batch_shape, sites, targets, windows=_windows(targets, cover, radius, fill))


def _draw_neighbors(voxels: np.ndarray, shape: Sequence[int], radius: int, rng: np.random.RandomState) -> np.ndarray:
    """Draw for every voxel another one, uniformly from its window clipped to the image, never itself."""
    places = np.ascontiguousarray(voxels.T)  # one axis at a time: numpy is slow along an axis of 2 or 3
    low, extent = _clipped_windows(places, shape, radius)
    n_others = extent.prod(axis=0) - 1
    pick = (rng.random_sample(len(voxels)) * n_others).astype(np.int64)
    own = np.zeros(len(voxels), dtype=np.int64)
    for axis in range(len(shape)):
        own = own * extent[axis] + places[axis] - low[axis]
    pick += pick >= own  # step over the voxel itself
    neighbors = np.empty_like(voxels)
    for axis in reversed(range(len(shape))):
        pick, within = np.divmod(pick, extent[axis])
        neighbors[:, axis] = low[axis] + within
    return neighbors


def _clipped_windows(places: np.ndarray, shape: Sequence[int], radius: int) -> tuple[np.ndarray, np.ndarray]:
    """Lowest voxel and sides of the window around each voxel, clipped to the image; all ``(n_axes, n_voxels)``."""
    low = np.maximum(places - radius, 0)
    return low, np.minimum(places + radius, np.asarray(shape)[:, None] - 1) - low + 1


def _redraw_inside(
    sources: np.ndarray, cover: Cover, sites: np.ndarray, shape: Sequence[int], radius: int, rng: np.random.RandomState
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
    offsets = offsets[(offsets != 0).any(axis=1)]
    if cover is None:
        nothing = np.zeros((1, len(offsets)), dtype=bool)
        return _Windows(statistic, radius, offsets, nothing, np.zeros(len(targets), dtype=np.int64))
    # Seen from footprint voxel f, window offset w lies in the footprint of the same site where f + w does.
    forbidden = lies_in(cover.footprint, cover.offsets[:, None] + offsets)
    starts = np.searchsorted(cover.row_target, np.arange(len(targets)))
    ends = np.append(starts[1:], len(cover.row_target))
    group = cover.row_offset[starts].astype(np.int64)
    shared = np.flatnonzero(ends - starts > 1)  # targets under several footprints must avoid all of them
    extra = [forbidden[cover.row_offset[starts[i] : ends[i]]].any(axis=0) for i in shared]
    group[shared] = len(forbidden) + np.arange(len(shared))
    return _Windows(statistic, radius, offsets, np.vstack([forbidden, *extra]), group)


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
        values, filled = _window_statistic(images, spots)
        masked.view(-1)[targets[filled]] = values[filled]
    if spots.sites is not spots.targets:
        targets = _flat_index(spots.sites, spots.shape, n_channels, images.device)
    mask.view(-1).index_fill_(0, targets, 1)
    return masked, mask


def _flat_index(voxels: np.ndarray, shape: tuple[int, ...], n_channels: int, device: torch.device) -> torch.Tensor:
    """Positions in the flattened ``(n_images, n_channels, *spatial)`` batch, the channels of a voxel side by side."""
    n_voxels = math.prod(shape[1:])
    flat = np.ravel_multi_index(tuple(voxels[:, 1:].T), shape[1:]) + voxels[:, 0] * (n_channels * n_voxels)
    if n_channels > 1:
        flat = (flat[:, None] + np.arange(n_channels) * n_voxels).reshape(-1)
    return on_device(flat, device)


def _window_statistic(images: torch.Tensor, spots: BlindSpots) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean or true median (mean of the two middle values of an even count) of each target's allowed neighbors.

    The images are padded by the radius, so a neighbor lies at one fixed distance in memory from every target, and a
    neighbor outside the image is a padding value that the statistic passes over.
    """
    windows, device = spots.windows, images.device
    assert windows is not None
    n_axes, n_channels = images.ndim - 2, images.shape[1]
    work = images.dtype if images.dtype.is_floating_point and images.dtype.itemsize >= 4 else torch.float32
    passed_over = torch.inf if windows.statistic == "median" else 0.0
    frame = [windows.radius] * (2 * n_axes)
    padded = F.pad(images.contiguous().to(work), frame, value=passed_over)
    inside = F.pad(torch.ones(spots.shape[1:], dtype=torch.bool, device=device), frame)
    strides = np.array(inside.stride())

    voxels = on_device((spots.targets[:, 1:] + windows.radius) @ strides, device)
    image = on_device(spots.targets[:, 0], device) * n_channels
    channels = (image[:, None] + torch.arange(n_channels, device=device)) * inside.numel()
    steps = on_device(windows.offsets @ strides, device)
    forbidden, group = (on_device(array, device) for array in (windows.forbidden, windows.group))
    flat = padded.view(-1)
    values = torch.zeros(len(voxels), n_channels, dtype=work, device=device)
    sides = _clipped_windows(spots.targets[:, 1:].T, spots.shape[1:], windows.radius)[1]
    count = on_device(sides.prod(axis=0) - 1, device)[:, None]
    n_at_a_time = max(1, _MAX_GATHERED // (len(steps) * n_channels))
    for start in range(0, len(voxels), n_at_a_time):
        chunk = slice(start, start + n_at_a_time)
        found = flat.take((voxels[chunk, None] + channels[chunk])[..., None] + steps)
        if windows.forbidden.any():
            passed = forbidden[group[chunk]]
            count[chunk] -= (passed & inside.view(-1).take(voxels[chunk, None] + steps)).sum(dim=1, keepdim=True)
            found.masked_fill_(passed[:, None], passed_over)
        values[chunk] = _mean(found, count[chunk]) if windows.statistic == "mean" else _median(found, count[chunk])
    if not images.dtype.is_floating_point:
        values = values.round()
    return values.to(images.dtype).view(-1), (count > 0).expand(-1, n_channels).reshape(-1)


def _mean(values: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """Mean along the last axis of the first ``count`` values; the others are zero."""
    return values.sum(dim=-1) / count.clamp(min=1)


def _median(values: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """Median along the last axis of the ``count`` lowest values; the others are infinite."""
    # On a CPU numpy's vectorized sort takes a tenth of the time of torch's.
    ordered = values.sort(dim=-1).values if values.is_cuda else torch.from_numpy(np.sort(values.cpu().numpy(), axis=-1))
    ordered = ordered.to(values.device)
    middle = (count.clamp(min=1) - 1).expand(values.shape[:-1])[..., None]
    return ((ordered.gather(-1, middle // 2) + ordered.gather(-1, (middle + 1) // 2)) / 2).squeeze(-1)


def on_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """Bring an array to a device without making the host wait for what a GPU has still to do.

    From common memory a copy to a GPU waits for all kernels before it; from pinned memory it is one more of them.

    Args:
        array: of any shape and a type that torch knows; not to be changed afterwards.
        device: where to.

    Returns:
        a tensor of the array's shape and type; on a CPU it shares the array's memory.
    """
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
