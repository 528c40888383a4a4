# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
from hypothesis import given, settings, strategies as st

from monai_n2v.inferers.tile_plan import cheapest_tile, cut_axis, seen_voxels, tile_sides


@settings(deadline=None, max_examples=100)
@given(size=st.integers(1, 40), tile=st.integers(1, 12), halo=st.integers(0, 4), divisor=st.sampled_from([1, 2, 4, 16]))
def test_cuts_cover_an_axis_once_on_the_grid_with_a_halo(size, tile, halo, divisor):
    size, halo = size * divisor, halo * divisor
    tile = 2 * halo + tile * divisor
    cuts = cut_axis(size, tile, halo)
    assert [voxel for cut in cuts for voxel in range(cut.kept.start, cut.kept.stop)] == list(range(size))
    for cut in cuts:
        assert cut.read.start % divisor == 0
        assert cut.read.stop - cut.read.start <= max(tile, divisor)
        assert cut.inner == slice(cut.kept.start - cut.read.start, cut.kept.stop - cut.read.start)
        assert cut.kept.start - cut.read.start >= halo or cut.read.start == 0
        assert cut.read.stop - cut.kept.stop >= halo or cut.read.stop == size


@settings(deadline=None, max_examples=50)
@given(size=st.integers(1, 60), halo=st.integers(0, 3), divisor=st.sampled_from([1, 4, 16]))
def test_sides_worth_trying_go_down_to_the_smallest(size, halo, divisor):
    size, halo = size * divisor, halo * divisor
    sides = tile_sides(size, halo, divisor)
    assert sides[0] == size
    assert sides == sorted(set(sides), reverse=True)
    assert all(side % divisor == 0 for side in sides)
    assert sides[-1] == min(size, 2 * halo + divisor)


def bytes_like_a_network(sizes: tuple[int, ...], halo: int, asked: list[tuple[int, ...]]):
    """Memory that grows with a tile's voxels, half as much where nearly all of it is halo, as of N2VUNet."""

    def needed(tile: tuple[int, ...]) -> int:
        asked.append(tile)
        kept = math.prod((side - 2 * halo) / side if side < size else 1 for side, size in zip(tile, sizes))
        return int(math.prod(tile) * (130 + 130 * kept))

    return needed


@pytest.mark.parametrize(
    ("sizes", "gib", "limit"),
    [
        ((512, 384), 0.02, 1.5),
        ((256, 256, 256), 0.5, 2.5),
        ((512, 512, 32), 0.5, 1.5),
        ((184, 220, 184), 0.5, 2.5),
        ((1024, 1024, 1024), 1, 2.5),
        ((2048, 2048, 512), 4, 2),
        ((20000, 20000), 0.5, 1.2),
    ],
)
def test_cheapest_tile_fits_and_is_found_by_a_few_questions(sizes, gib, limit):
    budget, asked = int(gib * 2**30), []
    needed = bytes_like_a_network(sizes, 24, asked)
    tile = cheapest_tile(sizes, 24, 4, needed, budget)
    assert needed(tile) <= budget
    assert seen_voxels(sizes, tile, 24) <= limit * math.prod(sizes)
    # No worse than a cube of as much memory.
    cube = 4
    while bytes_like_a_network(sizes, 24, [])(tuple(min(size, cube + 4) for size in sizes)) <= budget:
        cube += 4
    assert seen_voxels(sizes, tile, 24) <= 1.01 * seen_voxels(sizes, tuple(min(size, cube) for size in sizes), 24)
    assert len(asked) < 40


def test_memory_that_grows_unlike_the_estimate_is_still_kept_to():
    def needed(tile: tuple[int, ...]) -> int:
        return math.prod(tile) ** 2  # far above a line between smallest and whole

    tile = cheapest_tile((256, 256), 8, 4, needed, 100**4)
    assert needed(tile) <= 100**4
    assert math.prod(tile) >= 2000, "by far not the smallest"


def test_an_image_that_fits_is_not_cut():
    assert cheapest_tile((640, 480), 16, 16, math.prod, 640 * 480) == (640, 480)


def test_smallest_tile_where_none_fits():
    assert cheapest_tile((640, 32), 16, 16, math.prod, 0) == (48, 32)


def test_tile_within_its_halo_refused():
    with pytest.raises(ValueError, match="tile must be above twice the halo of 64"):
        cut_axis(256, 128, 64)
