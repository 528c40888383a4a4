# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_n2v.tiles import cheapest_tile, cut_axis, tile_sides


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


@pytest.mark.parametrize("sizes", [(512, 384), (256, 256, 256), (512, 512, 32), (181, 217, 181)])
def test_cheapest_tile_fits_and_sees_no_more_than_a_cube(sizes):
    limit = 100**2 if len(sizes) == 2 else 150**3
    tile = cheapest_tile(sizes, 24, 1, lambda sides: math.prod(sides) <= limit)
    assert math.prod(tile) <= limit

    def seen(sides: tuple[int, ...]) -> int:
        axes = ([cut.read for cut in cut_axis(size, side, 24)] for size, side in zip(sizes, sides))
        return math.prod(sum(read.stop - read.start for read in reads) for reads in axes)

    cube = tuple(min(size, int(limit ** (1 / len(sizes)))) for size in sizes)
    assert seen(tile) <= seen(cube)


def test_an_image_that_fits_is_not_cut():
    assert cheapest_tile((640, 480), 16, 16, lambda _: True) == (640, 480)


def test_smallest_tile_where_none_fits():
    assert cheapest_tile((640, 32), 16, 16, lambda _: False) == (48, 32)
