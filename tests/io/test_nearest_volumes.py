# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re

import numpy as np
import pytest

from monai_n2v.io.series import nearest_volumes, read_q_vectors


@pytest.mark.parametrize(("n_volumes", "n_nearest"), [(2, 1), (7, 4), (7, 6), (40, 9)])
def test_neighbors_in_time_are_distinct_others_around_the_volume(n_volumes, n_nearest):
    found = nearest_volumes(n_volumes, n_nearest)
    assert found.shape == (n_volumes, n_nearest)
    for number, others in enumerate(found):
        assert number not in others
        assert len(set(others)) == n_nearest
        window = {number, *others.tolist()}
        assert max(window) - min(window) == n_nearest, "without gaps"
        distances = np.abs(others - number)
        assert (np.diff(distances) >= 0).all(), "the nearest first"
    assert found[n_volumes // 2, 0] == n_volumes // 2 - 1


def write_scheme(folder, b_values, vectors, stem="dwi"):
    np.savetxt(folder / f"{stem}.bval", np.asarray(b_values)[None], fmt="%g")
    np.savetxt(folder / f"{stem}.bvec", np.asarray(vectors, dtype=float).T)
    return folder / f"{stem}.nii.gz"


def test_neighbors_in_q_space_are_like_directions_of_either_sign_and_b0s_of_b0s(tmp_path):
    x, y, z, near_x = [1, 0, 0], [0, 1, 0], [0, 0, 1], [-0.98, 0.199, 0]
    path = write_scheme(tmp_path, [0, 1000, 1000, 1000, 5, 1000, 3000], [[0, 0, 0], x, y, z, x, near_x, x])
    found = nearest_volumes(7, 1, read_q_vectors(path, 7))[:, 0]
    assert found[0] == 4
    assert found[4] == 0
    assert found[1] == 5, "nearly the opposite direction"
    assert found[5] == 1
    assert found[6] in (1, 5), "the same direction, less weighted"


def test_vectors_in_columns_or_rows_are_the_same(tmp_path):
    vectors = np.eye(3)[[0, 1, 2, 0, 1]]
    path = write_scheme(tmp_path, [1000] * 5, vectors)
    expected = read_q_vectors(path, 5)
    np.savetxt(tmp_path / "dwi.bvec", vectors)
    np.testing.assert_array_equal(read_q_vectors(path, 5), expected)
    assert np.linalg.norm(expected, axis=1) == pytest.approx(1000**0.5)


def test_without_files_beside_the_image_there_are_no_vectors(tmp_path):
    assert read_q_vectors(tmp_path / "bold.nii.gz", 4) is None


GOOD = ([0, 1000, 1000], [[0, 0, 0], [1, 0, 0], [0, 1, 0]])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"bval": "0 1000\n"}, "bval must hold one entry per volume, 3, got 2 for"),
        ({"bvec": "0 1\n0 0\n0 0\n"}, "bvec must hold one entry per volume, 3, got 2 for"),
        ({"bvec": "0 1\n0 0\n"}, "bvec must hold one entry per volume, 3, got the shape (2, 2) for"),
        ({"bvec": "0 1 0\n0 0 0.7\n0 0 0\n"}, "bvec must hold vectors of length 1, got 0.7 for volume 2 for"),
        ({"bvec": "0 1 0\n0 0 1\n0 zero 0\n"}, "bvec must hold rows of numbers, got something else for"),
        ({"bvec": "0 1 0\n0 0 nan\n0 0 0\n"}, "bvec must hold rows of numbers, got something else for"),
        ({"bval": ""}, "bval must hold rows of numbers, got something else for"),
        ({"bval": "0 -5 1000\n"}, "bval must hold values from 0, got -5 for"),
        ({"bval": None}, "bval must lie beside bvec, got none for"),
        ({"bvec": None}, "bvec must lie beside bval, got none for"),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:loadtxt")
def test_files_that_do_not_fit_are_refused_in_a_sentence(files, message, tmp_path):
    path = write_scheme(tmp_path, *GOOD)
    for kind, text in files.items():
        file = tmp_path / f"dwi.{kind}"
        file.unlink() if text is None else file.write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read_q_vectors(path, 3)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(("n_volumes", "step"), [(1, "One volume has no others"), (4, "Use at most 3")])
def test_more_neighbors_than_there_are_is_refused(n_volumes, step):
    with pytest.raises(ValueError, match=f"context must be below the number of volumes, {n_volumes}, got 4.*{step}"):
        nearest_volumes(n_volumes, 4, name="x.nii")
