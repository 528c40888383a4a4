# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import nibabel
import numpy as np
import pytest
import torch
from samples import oblique_affine

from monai_n2v.noise.noise_map import LARGEST_GAIN, NoiseMap


def ramp(shape: tuple[int, ...] = (12, 10, 9)) -> np.ndarray:
    return np.broadcast_to(np.linspace(1, 3, shape[0])[(slice(None), *(None,) * (len(shape) - 1))], shape).copy()


def write(folder, values, affine=None):
    nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), affine), folder / "map.nii.gz")
    return folder / "map.nii.gz"


@pytest.mark.parametrize("kind", ["path", "nibabel", "array", "array of one slice more", "tensor", "channel first"])
def test_map_is_read_from_whatever_an_image_may_be(kind, tmp_path):
    values = ramp()
    given = {
        "path": lambda: write(tmp_path, values, oblique_affine()),
        "nibabel": lambda: nibabel.Nifti1Image(values.astype(np.float32), oblique_affine()),
        "array": lambda: values,
        "array of one slice more": lambda: values[..., None],
        "tensor": lambda: torch.from_numpy(values),
        "channel first": lambda: torch.from_numpy(values)[None],
    }[kind]()
    found = NoiseMap.of(given)
    np.testing.assert_allclose(found.values, values, rtol=1e-6)
    assert found.values.dtype == np.float32
    assert (found.affine is not None) == (kind in ("path", "nibabel"))
    assert NoiseMap.of(found) is found


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_gain_has_median_1_outside_of_padding_and_1_inside(spatial_dims):
    values = ramp((40, 30, 9)[:spatial_dims])
    padding = np.zeros(values.shape, dtype=bool)
    padding[:10] = True
    for unit in (1, 1e-4, 300):  # it may be in any
        gain = NoiseMap.of(unit * values).gain(padding)
        assert np.median(gain[10:]) == pytest.approx(1)
        np.testing.assert_allclose(gain[10:] / gain[10, 0].flat[0], values[10:] / values[10, 0].flat[0], rtol=1e-5)
        assert (gain[:10] == 1).all()


@pytest.mark.parametrize("unknown", [0.0, -2.0, np.nan, np.inf])
def test_unknown_noise_is_that_of_the_nearest_voxel(unknown, caplog):
    values = ramp((20, 10, 9))
    values[:5] = values[5]
    expected = NoiseMap.of(values).gain()
    values[:3] = unknown
    with caplog.at_level("INFO", logger="monai_n2v"):
        gain = NoiseMap.of(values).gain()
    np.testing.assert_allclose(gain / gain[5, 0, 0], expected / expected[5, 0, 0], rtol=1e-6)
    assert "The noise map is not above 0 in 15 % of its voxels" in caplog.text


def test_gain_is_never_extreme():
    values = ramp()
    values[0], values[1] = 1e-9, 1e9
    gain = NoiseMap.of(values).gain()
    assert gain.min() == pytest.approx(1 / LARGEST_GAIN)
    assert gain.max() == pytest.approx(LARGEST_GAIN)


def test_maps_that_cannot_be_are_refused(tmp_path):
    (tmp_path / "text.txt").write_text("a map")
    (tmp_path / "text.nii").write_text("a map")
    nibabel.save(nibabel.Nifti1Image(np.ones((9, 9, 9, 2), np.float32), None), tmp_path / "series.nii")
    for given, kind, message in (
        (tmp_path / "text.txt", ValueError, "noise_map must be a readable image: path must end in .nii.gz"),
        (tmp_path / "text.nii", ValueError, "noise_map must be a readable image: path must be a readable NIfTI file"),
        (tmp_path / "none.nii", FileNotFoundError, "noise_map must be an existing file"),
        (tmp_path / "series.nii", ValueError, r"noise_map must be one image of 2 or 3 axes, got shape \(2, 9, 9, 9\)"),
        (np.ones(9), ValueError, "noise_map must be one image of 2 or 3 axes"),
        (np.zeros((9, 9)), ValueError, "noise_map must have values above 0, got none"),
        (np.full((9, 9), np.nan), ValueError, "noise_map must have values above 0, got none"),
        (np.ones((9, 9), complex), TypeError, "noise_map must be a path, nibabel image or array of real numbers"),
        (np.ones((9, 9), bool), TypeError, "noise_map must be a path, .* got an array of bool"),
        ([[1.0], [1.0, 2.0]], TypeError, "noise_map must be a path, .* got list"),
        (5, ValueError, r"noise_map must be one image of 2 or 3 axes, got shape \(\). Leave it out"),
        (object(), TypeError, "noise_map must be a path, nibabel image or array of real numbers, got object"),
    ):
        with pytest.raises(kind, match=message):
            NoiseMap.of(given)
    with pytest.raises(ValueError, match="noise_map must have values above 0 outside of the image's padding"):
        NoiseMap.of(ramp()).gain(np.ones((12, 10, 9), dtype=bool))


def test_grid_is_compared_by_shape_and_place(tmp_path):
    affine = oblique_affine()
    found = NoiseMap.of(write(tmp_path, ramp(), affine))
    found.check_grid((12, 10, 9))
    found.check_grid((12, 10, 9), affine + 1e-4)
    with pytest.raises(
        ValueError, match=r"the shape of the image, \(10, 12, 9\), got \(12, 10, 9\) for x.nii. Resample"
    ):
        found.check_grid((10, 12, 9), None, "x.nii")
    for other in (np.diag([1.0, 1, 1, 1]), affine + np.eye(4)[:, [1, 2, 3, 0]], affine[:, [1, 0, 2, 3]]):
        with pytest.raises(ValueError, match="noise_map must lie where the image does, got a corner"):
            found.check_grid((12, 10, 9), other)
    NoiseMap.of(ramp()).check_grid((12, 10, 9), affine)  # an array lies nowhere
