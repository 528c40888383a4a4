# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from monai_n2v.transforms.symmetries import Symmetry, axis_orders, flippable_axes, list_symmetries

L_SHAPE = [[0, 1, 0], [0, 1, 1], [0, 0, 0]]
CORNER = [[0, 0, 0], [0, 1, 1], [0, 1, 0]]
TALL_CROSS = [[0, 0, 0], [0, 1, 0], [1, 1, 1], [0, 1, 0], [0, 0, 0]]  # zeros at its sides do not count
DIAGONAL = np.eye(3, dtype=int)


@pytest.mark.parametrize(
    ("footprint", "n_axes", "expected"),
    [
        (None, 3, (True, True, True)),
        (np.ones((3, 1, 1)), 3, (True, True, True)),
        (L_SHAPE, 2, (False, False)),
        ([[1, 1, 0]], 2, (True, False)),
        (DIAGONAL, 2, (False, False)),
        (TALL_CROSS, 2, (True, True)),
    ],
)
def test_axes_flip_where_the_footprint_stays(footprint, n_axes, expected):
    assert flippable_axes(footprint, n_axes) == expected


@pytest.mark.parametrize(
    ("n_axes", "spacing", "sides", "footprint", "n_orders"),
    [
        (2, (1, 1), None, None, 2),
        (2, (1, 1.009), None, None, 2),
        (2, (1, 1.02), None, None, 1),
        (2, (1, 1), (32, 16), None, 1),
        (2, (1, 1), None, [[1, 1, 1]], 1),
        (2, (1, 1), None, TALL_CROSS, 2),
        (2, (1, 1), None, CORNER, 2),
        (2, (1, 1), None, DIAGONAL, 2),
        (3, (1, 1, 1), None, None, 6),
        (3, (1, 1, 3), None, None, 2),
        (3, (1, 2, 3), None, None, 1),
        (3, (1, 1, 1), (16, 32, 16), None, 2),
        (3, (1, 1, 1), None, np.ones((3, 1, 1)), 2),
    ],
)
def test_axis_orders_by_spacing_sides_and_footprint(n_axes, spacing, sides, footprint, n_orders):
    orders = axis_orders(n_axes, spacing, sides, footprint)
    assert orders.shape == (n_orders, n_axes)
    assert list(range(n_axes)) in orders.tolist()
    if footprint is not None and np.asarray(footprint).shape[0] == np.asarray(footprint).shape[1]:
        assert all(np.array_equal(np.transpose(footprint, order), footprint) for order in orders)


@pytest.mark.parametrize("n_axes", [2, 3])
def test_axis_orders_come_in_the_order_random_draws_rely_on(n_axes):
    rows = np.array(np.meshgrid(*[np.arange(n_axes)] * n_axes)).reshape(n_axes, -1).T
    assert axis_orders(n_axes, (1.0,) * n_axes).tolist() == [r.tolist() for r in rows if len(set(r)) == n_axes]


@pytest.mark.parametrize("function", [flippable_axes, lambda f, n: axis_orders(n, (1.0,) * n, None, f)])
def test_footprint_of_other_axes_refused(function):
    with pytest.raises(ValueError, match="footprint must have 3 axes"):
        function([[1, 1, 1]], 3)


ROD = np.ones((3, 1, 1))


@pytest.mark.parametrize(
    ("n_axes", "spacings", "footprint", "n_symmetries", "exchanged"),
    [
        (2, [(1, 1)], None, 8, (1, 0)),
        (2, [(1, 2)], None, 4, None),
        (2, [(1, 1)], [[1, 1, 1]], 4, None),
        (2, [(1, 1)], L_SHAPE, 1, None),
        (2, [(1, 1)], CORNER, 2, (1, 0)),
        (3, [(1, 1, 1)], None, 16, (1, 0, 2)),
        (3, [(1, 1, 3)], None, 16, (1, 0, 2)),
        (3, [(3, 1, 1)], None, 16, (0, 2, 1)),
        (3, [(1, 3, 1)], None, 16, (2, 1, 0)),
        (3, [(1, 2, 3)], None, 8, None),
        (3, [(1, 1, 1)], ROD, 16, (0, 2, 1)),
        (3, [(1, 1, 3)], ROD, 8, None),
        (3, [(1, 1, 3), (1, 1, 2)], None, 16, (1, 0, 2)),
        (3, [(1, 1, 3), (1, 2, 1)], None, 8, None),
    ],
)
def test_symmetries_by_case(n_axes, spacings, footprint, n_symmetries, exchanged):
    symmetries = list_symmetries(n_axes, spacings, footprint)
    assert symmetries[0] == Symmetry(tuple(range(n_axes)), (False,) * n_axes)
    assert len(set(symmetries)) == len(symmetries) == n_symmetries
    others = {symmetry.order for symmetry in symmetries} - {tuple(range(n_axes))}
    assert others == (set() if exchanged is None else {exchanged})


@pytest.mark.parametrize(
    ("n_axes", "footprint"), [(2, None), (2, CORNER), (2, [[1, 1, 1]]), (3, None), (3, np.ones((3, 1, 1)))]
)
def test_symmetries_are_a_group(n_axes, footprint):
    image = torch.arange(3**n_axes).reshape(1, 1, *(3,) * n_axes)
    symmetries = list_symmetries(n_axes, [(1.0,) * n_axes], footprint)
    seen = {tuple(s.apply(image).flatten().tolist()) for s in symmetries}
    assert len(seen) == len(symmetries)
    for first, second in itertools.product(symmetries, repeat=2):
        assert tuple(second.apply(first.apply(image)).flatten().tolist()) in seen


@pytest.mark.parametrize("further", [(), (3,)])
@pytest.mark.parametrize("size", [(5, 37), (40, 18, 7)])
def test_symmetry_undone_gives_the_image_back(size, further):
    image = torch.rand(2, 3, *size, *further)
    for order in itertools.permutations(range(len(size))):
        for flips in itertools.product((False, True), repeat=len(size)):
            symmetry = Symmetry(order, flips)
            turned = symmetry.apply(image)
            assert turned.shape == (2, 3, *(size[axis] for axis in order), *further)
            total = torch.ones_like(image)
            symmetry.add_undone(total, turned)
            assert torch.equal(total, 1 + image)


def test_symmetry_exchanges_before_it_flips():
    image = torch.tensor([[[[1, 2, 3], [4, 5, 6]]]])
    assert Symmetry((1, 0), (True, False)).apply(image)[0, 0].tolist() == [[3, 6], [2, 5], [1, 4]]
