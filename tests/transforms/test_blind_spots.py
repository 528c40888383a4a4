# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools

import laws
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from monai_n2v.transforms.blind_spots import apply_blind_spots, draw_blind_spots
from monai_n2v.transforms.footprints import check_footprint, smallest_radius
from monai_n2v.transforms.sampling import draw_sites, stratum_sides

Q = 64 / 4096


def spots_at(shape: tuple[int, ...], voxel: tuple[int, ...], rng: np.random.RandomState, radius: int) -> tuple:
    """Draw until the source of one chosen voxel is known: through the module's own drawing of neighbors."""
    from monai_n2v.transforms.blind_spots import _draw_neighbors

    voxels = np.tile(np.array(voxel), (30_000, 1))
    return tuple(map(tuple, (_draw_neighbors(voxels, shape, radius, rng) - voxels).tolist()))


@pytest.mark.parametrize("shape", [(64, 64), (96, 96, 96), (128, 64), (32, 64, 64)])
def test_sites_one_per_full_stratum(shape):
    sites = draw_sites(shape, Q, np.random.RandomState(0))
    sides = np.array(stratum_sides(shape, Q))
    strata = np.floor(sites[:, 1:] / sides)
    assert len(sites) == round(np.prod(shape) * Q)
    assert len(np.unique(strata, axis=0)) == len(sites)


@pytest.mark.parametrize("fraction", [0.00198, Q, 0.05, 0.1])
@pytest.mark.parametrize(
    "shape", [(64, 64), (41, 67), (24, 48, 48), (5, 64, 64), (17, 33, 47), (64, 3, 64), (1, 70, 70)]
)
def test_sites_density_right_for_any_shape(shape, fraction):
    n_images = 40
    sites = draw_sites(shape, fraction, np.random.RandomState(1), n_images)
    laws.fraction_is_right(len(sites), n_images * int(np.prod(shape)), fraction)
    assert len(np.unique(sites, axis=0)) == len(sites)
    assert (sites[:, 1:] < np.array(shape)).all()
    assert (sites >= 0).all()


@pytest.mark.parametrize("shape", [(20, 23), (9, 10, 11)])
def test_sites_every_voxel_equally_likely(shape):
    n_images = 20_000
    sites = draw_sites(shape, 0.03, np.random.RandomState(2), n_images)
    counts = np.zeros(shape)
    np.add.at(counts, tuple(sites[:, 1:].T), 1)
    expected = 0.03 * n_images
    # 5 sigma of a binomial for the extremes of a few hundred voxels
    assert abs(counts - expected).max() < 5 * np.sqrt(expected)
    border = np.ones(shape, bool)
    border[tuple(slice(1, -1) for _ in shape)] = False
    assert counts[border].mean() == pytest.approx(expected, rel=0.02)


def test_sites_image_smaller_than_a_stratum_gets_one():
    assert len(draw_sites((4, 4), Q, np.random.RandomState(0), n_images=7)) == 7


@pytest.mark.parametrize("radius", [1, 2, 5])
@pytest.mark.parametrize(
    ("shape", "voxel"),
    [
        ((40, 40), (20, 20)),
        ((40, 40), (0, 20)),
        ((40, 40), (39, 0)),
        ((40, 40), (1, 39)),
        ((20, 20, 20), (10, 10, 10)),
        ((20, 20, 20), (0, 10, 19)),
        ((20, 20, 20), (19, 19, 19)),
        ((20, 3, 20), (10, 1, 0)),
    ],
)
def test_uniform_fill_exactly_uniform_over_clipped_window(shape, voxel, radius):
    offsets = [
        offset
        for offset in itertools.product(range(-radius, radius + 1), repeat=len(shape))
        if any(offset) and all(0 <= v + o < n for v, o, n in zip(voxel, offset, shape))
    ]
    laws.draws_are_uniform(spots_at(shape, voxel, np.random.RandomState(3), radius), offsets)


@pytest.mark.parametrize(("shape", "radius"), [((64, 64), 5), ((3, 40), 2), ((24, 20, 7), 5), ((16, 16, 3), 1)])
def test_uniform_fill_never_itself_never_outside(shape, radius):
    image = laws.distinct_image(shape)
    spots = draw_blind_spots(shape, 0.1, radius, "uniform", None, np.random.RandomState(4))
    masked, mask = apply_blind_spots(image[None, None], spots)
    laws.replacements_come_from_the_clipped_window(masked[0, 0], mask[0, 0], radius)
    laws.unmasked_voxels_are_bit_identical(image, masked[0, 0], mask[0, 0])


@pytest.mark.parametrize("statistic", ["mean", "median"])
@pytest.mark.parametrize("shape", [(12, 15), (7, 9, 6)])
def test_statistic_fill_equals_numpy(shape, statistic):
    radius = 2
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, *shape)))
    spots = draw_blind_spots(shape, 0.2, radius, statistic, None, np.random.RandomState(5), n_images=2)
    masked, mask = apply_blind_spots(image, spots)
    for n, *voxel in spots.sites:
        window = tuple(slice(max(v - radius, 0), v + radius + 1) for v in voxel)
        center = tuple(v - max(v - radius, 0) for v in voxel)
        for channel in range(3):
            block = image[n, channel].numpy()[window]
            others = np.delete(block.ravel(), np.ravel_multi_index(center, block.shape))
            expected = getattr(np, statistic)(others)
            assert masked[(n, channel, *voxel)] == pytest.approx(expected, rel=1e-12)
    assert int(mask[:, 0].sum()) == len(spots.sites)


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_statistic_fill_of_integers_rounds(statistic):
    image = torch.from_numpy(np.random.default_rng(2).integers(-99, 99, (6, 7)).astype(np.int16))
    spots = draw_blind_spots((6, 7), 0.2, 1, statistic, None, np.random.RandomState(0))
    masked, mask = apply_blind_spots(image[None, None], spots)
    assert masked.dtype == mask.dtype == torch.int16
    for _, y, x in spots.sites:
        block = image.numpy()[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
        others = np.delete(block.ravel(), np.ravel_multi_index((min(y, 1), min(x, 1)), block.shape))
        assert masked[0, 0, y, x] == np.round(np.float32(getattr(np, statistic)(others)))


FOOTPRINTS = {
    "line x": np.ones((1, 7), int),
    "line y": np.ones((5, 1), int),
    "cross": np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]]),
    "with holes": np.array([[1, 0, 1, 0, 1]]),
    "line z": np.ones((1, 1, 5), int),
    "plane": np.ones((3, 3, 1), int),
}


@pytest.mark.parametrize("fraction", [0.02, 0.2])
@pytest.mark.parametrize("name", FOOTPRINTS)
def test_footprint_replaced_whole_from_outside(name, fraction):
    footprint = FOOTPRINTS[name].astype(bool)
    shape = (23, 26) if footprint.ndim == 2 else (11, 12, 13)
    image = laws.distinct_image(shape)
    for seed in range(5):
        spots = draw_blind_spots(shape, fraction, 3, "uniform", footprint, np.random.RandomState(seed))
        masked, mask = apply_blind_spots(image[None, None], spots)
        laws.sources_avoid_the_footprint(masked[0, 0], mask[0, 0], footprint, image)
        laws.only_footprints_change(masked[0, 0], mask[0, 0], footprint, image)


def test_footprint_keeps_density():
    footprint = np.ones((1, 11), bool)
    spots = draw_blind_spots((256, 256), Q, 5, "uniform", footprint, np.random.RandomState(0))
    assert len(spots.sites) == 1024


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_footprint_statistic_leaves_all_covering_footprints_out(statistic):
    shape, radius, footprint = (12, 14), 2, np.ones((1, 5), bool)
    values = np.random.default_rng(1).normal(size=shape)
    spots = draw_blind_spots(shape, 0.15, radius, statistic, footprint, np.random.RandomState(6))
    masked, _ = apply_blind_spots(torch.from_numpy(values)[None, None], spots)
    for _, y, x in spots.targets:
        covering = [(sy, sx) for _, sy, sx in spots.sites if sy == y and abs(sx - x) <= 2]
        window = [
            values[v, u]
            for v in range(max(y - radius, 0), min(y + radius, 11) + 1)
            for u in range(max(x - radius, 0), min(x + radius, 13) + 1)
            if not any(v == sy and abs(u - sx) <= 2 for sy, sx in covering)
        ]
        assert masked[0, 0, y, x].item() == pytest.approx(getattr(np, statistic)(window), rel=1e-12)


def test_footprint_draws_uniform_over_allowed_window():
    footprint = np.ones((1, 3), bool)
    shape, counts = (9, 9), []
    for seed in range(12_000):
        spots = draw_blind_spots(shape, 1 / 81, 1, "uniform", footprint, np.random.RandomState(seed))
        if tuple(spots.sites[0, 1:]) == (0, 4):
            center = np.flatnonzero((spots.targets[:, 1:] == (0, 4)).all(axis=1))[0]
            counts.append(tuple(int(n) for n in spots.sources[center, 1:] - (0, 4)))
    laws.draws_are_uniform(counts, [(1, -1), (1, 0), (1, 1)])


def test_footprint_site_that_cannot_be_hidden_is_not_learned_from():
    # One row only: the line footprint covers the whole window, so nothing outside of it can fill.
    footprint = np.ones((1, 9), bool)
    image = laws.distinct_image((1, 9))
    spots = draw_blind_spots((1, 9), 0.5, 2, "uniform", footprint, np.random.RandomState(0))
    _, mask = apply_blind_spots(image[None, None], spots)
    assert all(abs(voxel[2] - 4) > 0 for voxel in spots.sites)
    for _, _, x in spots.sites:
        source = spots.sources[np.flatnonzero(spots.targets[:, 2] == x)[0], 2]
        assert abs(source - x) > 4
    assert mask.sum() == len(spots.sites)


@pytest.mark.parametrize("fill", ["uniform", "mean", "median"])
def test_footprint_that_fills_windows_at_borders_leaves_no_visible_voxel(fill):
    # In a corner the window of radius 2 lies in this footprint, so some blind spots there cannot be hidden.
    footprint = np.ones((5, 3), bool)
    image = torch.rand(7, 6, dtype=torch.float64)
    for seed in range(30):
        spots = draw_blind_spots((7, 6), 0.2, 2, fill, footprint, np.random.RandomState(seed))
        laws.footprints_are_blind(lambda x, spots=spots: apply_blind_spots(x[None, None], spots), image, footprint)


def test_footprint_of_center_alone_equals_none():
    assert check_footprint([[0, 0, 0], [0, 1, 0], [0, 0, 0]], 5) is None


@pytest.mark.parametrize(
    "footprint",
    [np.ones((2, 3)), np.ones(3), np.array([[1, 0, 1]]), np.full((1, 3), 2), np.ones((5, 5)), "line"],
)
def test_bad_footprint_refused(footprint):
    with pytest.raises(ValueError, match="footprint must"):
        check_footprint(footprint, 2)


@pytest.mark.parametrize(
    ("footprint", "radius", "needed"),
    [(np.ones((1, 5)), 1, 1), (np.ones((3, 3)), 1, 2), (np.ones((3, 3)), 4, 4), (np.ones((3, 3, 1)), 1, 1)]
    + [(np.ones((5, 5, 5)), 1, 3)],
)
def test_window_grows_until_a_footprint_leaves_something_to_fill_from(footprint, radius, needed):
    footprint = footprint.astype(bool)
    assert smallest_radius(footprint, radius) == needed
    assert check_footprint(footprint, needed) is not None
    if needed > radius:
        with pytest.raises(ValueError, match="Use a larger radius"):
            check_footprint(footprint, needed - 1)


def test_footprint_of_other_dimension_refused():
    with pytest.raises(ValueError, match="footprint must have 3 axes"):
        draw_blind_spots((8, 8, 8), Q, 5, "uniform", np.ones((1, 3), bool), np.random.RandomState(0))


def test_single_voxel_refused():
    with pytest.raises(ValueError, match="at least 2 voxels"):
        draw_blind_spots((1, 1), Q, 5, "uniform", None, np.random.RandomState(0))


@settings(deadline=None, max_examples=60)
@given(
    shape=st.lists(st.integers(1, 14), min_size=2, max_size=3).filter(lambda s: np.prod(s) > 1),
    fraction=st.floats(0.001, 0.5),
    radius=st.integers(1, 6),
    fill=st.sampled_from(["uniform", "mean", "median"]),
    n_images=st.integers(1, 3),
    channels=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_laws_hold_for_any_parameters(shape, fraction, radius, fill, n_images, channels, seed):
    images = torch.stack([laws.distinct_image((channels, *shape))] * n_images)
    before = images.clone()
    spots = draw_blind_spots(tuple(shape), fraction, radius, fill, None, np.random.RandomState(seed), n_images)
    masked, mask = apply_blind_spots(images, spots)
    assert torch.equal(images, before)
    laws.unmasked_voxels_are_bit_identical(images, masked, mask)
    assert int(mask.sum()) == channels * len(spots.sites)
    for n in range(n_images):
        laws.channels_share_their_sites(mask[n])
        if fill == "uniform":
            laws.replacements_come_from_the_clipped_window(masked[n, 0], mask[n, 0], radius)


@pytest.mark.parametrize("fill", ["uniform", "mean", "median"])
def test_channels_last_batches_are_masked_alike(fill):
    images = torch.rand(2, 3, 12, 10)
    spots = draw_blind_spots((12, 10), 0.1, 2, fill, None, np.random.RandomState(0), 2)
    expected = apply_blind_spots(images, spots)
    for one, other in zip(apply_blind_spots(images.to(memory_format=torch.channels_last), spots), expected):
        assert torch.equal(one, other)
