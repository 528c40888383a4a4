# SPDX-License-Identifier: Apache-2.0
"""The invariants of masking, loss, intensity, tiling and averaging, as functions that raise where one is broken."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy import stats

from monai_n2v.transforms.symmetries import Symmetry


def distinct_image(shape: Sequence[int]) -> torch.Tensor:
    """An image whose voxels all differ, so that each value tells where it came from."""
    return torch.arange(int(np.prod(shape)), dtype=torch.float64).reshape(tuple(shape))


def source_voxels(masked: torch.Tensor, voxels: np.ndarray) -> np.ndarray:
    """Where the values at ``voxels`` of a masked `distinct_image` (without channel axis) came from."""
    values = masked.numpy()[tuple(voxels.T)].astype(np.int64)
    return np.column_stack(np.unravel_index(values, masked.shape))


def unmasked_voxels_are_bit_identical(image: torch.Tensor, masked: torch.Tensor, mask: torch.Tensor) -> None:
    hidden = mask.bool()
    assert torch.equal(masked[~hidden], image[~hidden])
    assert set(torch.unique(mask).tolist()) <= {0.0, 1.0}


def channels_share_their_sites(mask: torch.Tensor) -> None:
    """``mask`` is (C, *spatial)."""
    assert torch.equal(mask, mask[:1].expand_as(mask))


def replacements_come_from_the_clipped_window(masked: torch.Tensor, mask: torch.Tensor, radius: int) -> None:
    """On a `distinct_image` without channel axis: never the voxel itself, never beyond the radius."""
    voxels = np.argwhere(mask.numpy() == 1)
    offsets = source_voxels(masked, voxels) - voxels
    assert (np.abs(offsets).max(axis=1) > 0).all(), "a voxel was replaced by itself"
    assert (np.abs(offsets) <= radius).all(), "a replacement came from outside the window"


def fraction_is_right(n_hidden: int, n_voxels: int, fraction: float) -> None:
    """Within three standard deviations of independent draws; stratified draws scatter less."""
    expected = fraction * n_voxels
    assert abs(n_hidden - expected) <= 3 * np.sqrt(expected), f"{n_hidden} hidden, expected {expected:.1f}"


def draws_are_uniform(draws: Sequence[tuple[int, ...]], candidates: Sequence[tuple[int, ...]]) -> None:
    """Chi-square test at 1e-4 that draws hit all candidates, and nothing else, equally often."""
    index = {candidate: i for i, candidate in enumerate(candidates)}
    assert set(draws) <= set(index), f"drawn but not allowed: {sorted(set(draws) - set(index))[:5]}"
    counts = np.bincount([index[draw] for draw in draws], minlength=len(index))
    assert counts.sum() >= 20 * len(index), "too few draws for a test"
    assert stats.chisquare(counts).pvalue > 1e-4


def sources_avoid_the_footprint(
    masked: torch.Tensor, mask: torch.Tensor, footprint: np.ndarray, original: torch.Tensor
) -> None:
    """On a `distinct_image`: all footprint voxels replaced, each from outside every footprint that covers it."""
    half = np.asarray(footprint.shape) // 2
    offsets = np.argwhere(footprint) - half
    for site in np.argwhere(mask.numpy() == 1):
        voxels = site + offsets
        voxels = voxels[((voxels >= 0) & (voxels < mask.shape)).all(axis=1)]
        covered = {tuple(voxel) for voxel in voxels}
        assert (masked.numpy()[tuple(voxels.T)] != original.numpy()[tuple(voxels.T)]).all(), "not replaced"
        sources = {tuple(int(n) for n in source) for source in source_voxels(masked, voxels)}
        assert not sources & {tuple(int(n) for n in voxel) for voxel in covered}, "filled from inside its footprint"


def only_footprints_change(
    masked: torch.Tensor, mask: torch.Tensor, footprint: np.ndarray, original: torch.Tensor
) -> None:
    half = np.asarray(footprint.shape) // 2
    covered = np.zeros(mask.shape, dtype=bool)
    for site in np.argwhere(mask.numpy() == 1):
        voxels = site + np.argwhere(footprint) - half
        voxels = voxels[((voxels >= 0) & (voxels < mask.shape)).all(axis=1)]
        covered[tuple(voxels.T)] = True
    assert np.array_equal(masked.numpy()[~covered], original.numpy()[~covered])


def is_blind(mask_image: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]], image: torch.Tensor) -> None:
    """With one blind spot, its own value cannot be seen in the network's input."""
    masked, mask = mask_image(image)
    assert mask.sum() == mask.shape[0], "the law needs a single blind spot"
    poisoned = image.clone()
    poisoned[mask.bool()] = 1e6
    assert torch.equal(mask_image(poisoned)[0], masked)


def own_replacements_ignore_own_values(
    mask_image: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]], image: torch.Tensor
) -> None:
    """With many blind spots, no site's replacement changes with the site's own value."""
    masked, mask = mask_image(image)
    for site in torch.nonzero(mask)[:20]:
        poisoned = image.clone()
        poisoned[tuple(site)] = 1e6
        assert mask_image(poisoned)[0][tuple(site)] == masked[tuple(site)]


def footprints_are_blind(
    mask_image: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]], image: torch.Tensor, footprint: np.ndarray
) -> None:
    """``image`` without channel axis: what is seen at a site's footprint does not come from within it."""
    masked, mask = (tensor[0, 0] for tensor in mask_image(image))
    for site in np.argwhere(mask.numpy() == 1):
        voxels = site + np.argwhere(footprint) - np.asarray(footprint.shape) // 2
        covered = tuple(voxels[((voxels >= 0) & (voxels < image.shape)).all(axis=1)].T)
        assert (masked[covered] != image[covered]).all(), "not replaced"
        poisoned = image.clone()
        poisoned[covered] = 1e6
        assert torch.equal(mask_image(poisoned)[0][0, 0][covered], masked[covered]), "filled from within"


def loss_equals_hand_value(
    loss: torch.Tensor, prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor, power: int
) -> None:
    error = np.abs(prediction.detach().double().numpy() - target.double().numpy()) ** power
    sites = mask.numpy() == 1
    expected = error[sites].mean() if sites.any() else 0.0
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-5, atol=1e-7)


def states_are_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def equivariant_functions_are_kept(
    average: Callable[..., torch.Tensor], image: torch.Tensor, function: Callable[..., torch.Tensor]
) -> None:
    """``function`` treats all directions alike: averaging over them must change nothing."""
    torch.testing.assert_close(average(image, function), function(image), rtol=0, atol=1e-6)


def averages_turn_with_the_image(
    average: Callable[..., torch.Tensor],
    image: torch.Tensor,
    function: Callable[..., torch.Tensor],
    symmetries: Sequence[Symmetry],
) -> None:
    """``average(turned image) == turned average(image)``, for any function."""
    expected = average(image, function)
    for symmetry in symmetries:
        turned = average(symmetry.apply(image), function)
        torch.testing.assert_close(turned, symmetry.apply(expected), rtol=0, atol=1e-5)


def noises_are_independent(first: torch.Tensor, second: torch.Tensor) -> None:
    """Uncorrelated at the same voxel and at neighbors along the last axis, to four standard errors."""
    limit = 4 / np.sqrt(first.numel())
    for shift in (0, 1):
        moved = second.roll(shift, -1)
        assert abs(float((first * moved).mean() / (first.std() * moved.std()))) < 2 * limit
