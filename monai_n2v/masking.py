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

__all__ = ["FILLS", "BlindSpots", "apply_blind_spots", "check_footprint", "draw_blind_spots", "draw_sites", "stratum_sides"]

FILLS = ("uniform", "mean", "median")

# A redraw succeeds with probability 1 - |footprint| / |window|; after this many only hopeless voxels are left.
_MAX_REDRAWS = 64
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
    """Neighbors that may fill a target: ``offsets[j]`` is allowed for target ``i`` where ``not forbidden[group[i], j]``."""

    statistic: str
    offsets: np.ndarray  # (n_offsets, n_axes)
    forbidden: np.ndarray  # bool (n_groups, n_offsets)
    group: np.ndarray  # (n_targets,)


def stratum_sides(shape: Sequence[int], mask_fraction: float) -> tuple[float, ...]:
    """Sides of the box that holds one blind spot on average, as cubic as the image allows.

    A side longer than the image is cut to the image and the other sides grow for it, so that thin volumes keep the
    asked density.

    Args:
        shape: spatial shape in voxels.
        mask_fraction: fraction of voxels to hide, in ``(0, 0.5]``.

    Returns:
        one side per axis, in voxels, not necessarily whole.
    """
    sides = [0.0] * len(shape)
    free = list(range(len(shape)))
    volume = 1.0 / mask_fraction
    while free:
        side = volume ** (1.0 / len(free))
        # 64 ** (1 / 3) is 3.9999999999999996: without this a 96-voxel axis gets 25 strata, the last one empty.
        side = float(round(side)) if math.isclose(side, round(side), rel_tol=1e-9) else side
        thin = [axis for axis in free if shape[axis] < side]
        if not thin:
            for axis in free:
                sides[axis] = side
            break
        for axis in thin:
            sides[axis] = float(shape[axis])
            volume /= shape[axis]
        free = [axis for axis in free if axis not in thin]
        volume = max(volume, 1.0)
    return tuple(sides)


def draw_sites(
    shape: Sequence[int], mask_fraction: float, rng: np.random.RandomState, n_images: int = 1
) -> np.ndarray:
    """Draw stratified blind spots, one per stratum, so that they do not cluster ([1]_, Sec. 3.4).

    A point is drawn uniformly in every stratum of a grid that covers the image; points that fall outside are dropped,
    not moved. Hence every voxel, at borders and in shapes the strata do not divide, is hidden with probability
    ``mask_fraction``. Where two strata meet inside one voxel and both pick it, one of them draws again. An image
    smaller than one stratum still gets one blind spot.

    Args:
        shape: spatial shape in voxels.
        mask_fraction: fraction of voxels to hide, in ``(0, 0.5]``; 64/4096 in [1]_.
        rng: source of all randomness; same state, same sites.
        n_images: number of images drawn for, each on its own.

    Returns:
        int64 ``(n_sites, 1 + n_axes)``: image index and voxel; unique rows.
    """
    sides = np.asarray(stratum_sides(shape, mask_fraction))
    n_strata = np.ceil(np.asarray(shape) / sides).astype(np.int64)
    strata = np.indices(n_strata).reshape(len(shape), -1).T
    voxels = np.floor((strata + rng.random_sample((n_images, *strata.shape))) * sides).astype(np.int64)
    inside = (voxels < np.asarray(shape)).all(axis=-1)
    image, stratum = np.nonzero(inside)
    sites = np.column_stack([image, voxels[image, stratum]])
    if all(side.is_integer() for side in sides):
        return sites
    for _ in range(_MAX_REDRAWS):
        repeated = _repeated(sites, (n_images, *shape))
        if not repeated.any():
            return sites
        again = np.flatnonzero(repeated)
        redrawn = np.floor((strata[stratum[again]] + rng.random_sample((len(again), len(shape)))) * sides)
        valid = (redrawn < np.asarray(shape)).all(axis=1)
        sites[again[valid], 1:] = redrawn[valid]
    return sites[~_repeated(sites, (n_images, *shape))]


def _repeated(sites: np.ndarray, batch_shape: tuple[int, ...]) -> np.ndarray:
    repeated = np.ones(len(sites), dtype=bool)
    repeated[np.unique(np.ravel_multi_index(tuple(sites.T), batch_shape), return_index=True)[1]] = False
    return repeated


def check_footprint(footprint: object, radius: int) -> np.ndarray | None:
    """Check a structN2V footprint and return it as a bool array, or None where it hides nothing but the center.

    Args:
        footprint: None, or an odd-sized 0/1 array with one axis per spatial axis, 1 at its center ([2]_).
        radius: half side of the fill window in voxels.

    Raises:
        ValueError: where it is not of that kind, or leaves no voxel of the window to fill from.
    """
    if footprint is None:
        return None
    array = np.asarray(footprint)
    if array.ndim not in (2, 3) or any(n % 2 == 0 for n in array.shape) or not np.isin(array, (0, 1)).all():
        raise ValueError(
            f"footprint must be a 2D or 3D array of 0 and 1 with odd sides, got shape {array.shape}. "
            "Use for example [[1, 1, 1, 1, 1]] for noise correlated along the last axis."
        )
    array = array.astype(bool)
    if not array[tuple(n // 2 for n in array.shape)]:
        raise ValueError("footprint must be 1 at its center, got 0. The center is the blind spot itself.")
    reach = [n // 2 for n in array.shape]
    if min(reach) >= 2 * radius and array.all():
        raise ValueError(
            f"footprint must leave voxels to fill from, got {array.shape} full of 1 with radius {radius}. "
            "Use a larger radius."
        )
    return None if array.sum() == 1 else array


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
    if footprint is None:
        cover = _Cover(targets=sites)
    else:
        cover = _cover(sites, batch_shape, footprint)
    if fill != "uniform":
        return BlindSpots(batch_shape, sites, cover.targets, windows=_windows(cover, radius, fill, footprint))
    sources, hopeless = _draw_sources(cover, sites, shape, radius, footprint, rng)
    if hopeless.any():
        # A blind spot that cannot be hidden must not be learned from.
        sites = np.delete(sites, np.unique(cover.row_site[hopeless[cover.row_target]]), axis=0)
    return BlindSpots(batch_shape, sites, cover.targets, sources=sources)


@dataclass(frozen=True)
class _Cover:
    """Which voxels the footprints of all sites cover; one row per pair of a site and a voxel it covers."""

    targets: np.ndarray  # (n_targets, 1 + n_axes), unique
    row_target: np.ndarray | None = None  # (n_rows,), ascending
    row_site: np.ndarray | None = None  # (n_rows,)
    row_offset: np.ndarray | None = None  # (n_rows,) which footprint voxel


def _footprint_offsets(footprint: np.ndarray) -> np.ndarray:
    return np.argwhere(footprint) - np.asarray(footprint.shape) // 2


def _cover(sites: np.ndarray, batch_shape: tuple[int, ...], footprint: np.ndarray) -> _Cover:
    """Place the footprint on every site; its parts outside the image are dropped, never moved."""
    offsets = _footprint_offsets(footprint)
    voxels = sites[:, None, 1:] + offsets
    inside = ((voxels >= 0) & (voxels < np.asarray(batch_shape[1:]))).all(axis=-1)
    row_site, row_offset = np.nonzero(inside)
    rows = np.column_stack([sites[row_site, 0], voxels[row_site, row_offset]])
    flat = np.ravel_multi_index(tuple(rows.T), batch_shape)
    _, first, row_target = np.unique(flat, return_index=True, return_inverse=True)
    order = np.argsort(row_target, kind="stable")
    return _Cover(rows[first], row_target[order], row_site[order], row_offset[order])


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


def _draw_sources(
    cover: _Cover,
    sites: np.ndarray,
    shape: Sequence[int],
    radius: int,
    footprint: np.ndarray | None,
    rng: np.random.RandomState,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a source per target, redrawing those inside the footprint of any site that covers the target.

    Rejection keeps the draw exactly uniform over what is allowed. Returns the sources and which targets found none.
    """
    targets = cover.targets
    sources = np.column_stack([targets[:, 0], _draw_neighbors(targets[:, 1:], shape, radius, rng)])
    if footprint is None:
        return sources, np.zeros(len(targets), dtype=bool)
    bad = _inside_footprint(sources, cover, sites, footprint)
    for _ in range(_MAX_REDRAWS):
        if not bad.any():
            break
        sources[bad, 1:] = _draw_neighbors(targets[bad, 1:], shape, radius, rng)
        bad = _inside_footprint(sources, cover, sites, footprint)
    return sources, bad


def _inside_footprint(sources: np.ndarray, cover: _Cover, sites: np.ndarray, footprint: np.ndarray) -> np.ndarray:
    within = sources[cover.row_target, 1:] - sites[cover.row_site, 1:] + np.asarray(footprint.shape) // 2
    near = ((within >= 0) & (within < np.asarray(footprint.shape))).all(axis=1)
    hit = np.zeros(len(within), dtype=bool)
    hit[near] = footprint[tuple(within[near].T)]
    bad = np.zeros(len(sources), dtype=bool)
    bad[cover.row_target[hit]] = True
    return bad


def _windows(cover: _Cover, radius: int, statistic: str, footprint: np.ndarray | None) -> _Windows:
    n_axes = cover.targets.shape[1] - 1
    offsets = np.indices((2 * radius + 1,) * n_axes).reshape(n_axes, -1).T - radius
    if footprint is None:
        forbidden = (offsets == 0).all(axis=1)[None]
        return _Windows(statistic, offsets, forbidden, np.zeros(len(cover.targets), dtype=np.int64))
    # Seen from footprint voxel f, window offset w lies in the footprint of the same site where f + w does.
    half = np.asarray(footprint.shape) // 2
    within = _footprint_offsets(footprint)[:, None] + offsets + half
    near = ((within >= 0) & (within < np.asarray(footprint.shape))).all(axis=-1)
    table = np.zeros(near.shape, dtype=bool)
    table[near] = footprint[tuple(within[near].T)]
    starts = np.searchsorted(cover.row_target, np.arange(len(cover.targets)))
    counts = np.diff(np.append(starts, len(cover.row_target)))
    group = cover.row_offset[starts].astype(np.int64)
    shared = np.flatnonzero(counts > 1)  # targets under several footprints must avoid all of them
    extra = [table[cover.row_offset[starts[i] : starts[i] + counts[i]]].any(axis=0) for i in shared]
    group[shared] = len(table) + np.arange(len(shared))
    return _Windows(statistic, offsets, np.vstack([table, *extra]), group)


def apply_blind_spots(images: torch.Tensor, spots: BlindSpots) -> tuple[torch.Tensor, torch.Tensor]:
    """Replace the voxels of a draw; the input is left as it is.

    Args:
        images: ``(n_images, channels, *spatial)`` of any dtype, on any device. Channels share sites and sources.
        spots: what `draw_blind_spots` drew for this shape.

    Returns:
        the masked images and the mask, 1 at blind spots and 0 elsewhere; shape, dtype and device of ``images``.
    """
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
        if not filled.all():
            mask_sites = _unfilled_free(spots, filled.view(-1, n_channels)[:, 0].cpu().numpy())
            mask.view(-1)[_flat_index(mask_sites, spots.shape, n_channels, images.device)] = 1
            return masked, mask
    mask.view(-1)[_flat_index(spots.sites, spots.shape, n_channels, images.device)] = 1
    return masked, mask


def _unfilled_free(spots: BlindSpots, filled: np.ndarray) -> np.ndarray:
    """Sites that could be hidden: those whose own voxel found neighbors to average."""
    flat_targets = np.ravel_multi_index(tuple(spots.targets.T), spots.shape)
    flat_sites = np.ravel_multi_index(tuple(spots.sites.T), spots.shape)
    return spots.sites[np.isin(flat_sites, flat_targets[filled])]


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
