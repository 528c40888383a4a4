# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import nibabel
import numpy as np
import pytest
from conftest import oblique_nifti, phantom
from samples import damaged, headers_are_equal, oblique_affine

from monai_n2v.io.nifti import NiftiSource, read as read_nifti, to_volume

REAL = ["example4d.nii.gz", "example_nifti2.nii.gz", "anatomical.nii", "functional.nii", "reoriented_anat_moved.nii"]


@pytest.mark.parametrize("dtype", ["float32", "input"])
@pytest.mark.parametrize("name", ["oblique", *REAL])
def test_header_survives_a_round_trip(name, dtype, tmp_path, request):
    if name == "oblique":
        path = tmp_path / "oblique.nii.gz"
        nibabel.save(oblique_nifti(np.round(phantom((9, 10, 11))[1]).astype(np.int16)), path)
    else:
        path = request.getfixturevalue("nibabel_data") / name
    volume = read_nifti(path)
    source = volume.source.image
    out = tmp_path / "out" / "x.nii.gz"
    volume.source.write(volume.data, out, dtype)
    written = nibabel.load(out)
    headers_are_equal(source, written, stored_type=dtype == "input")
    expected = source.get_fdata(dtype=np.float32)
    if dtype == "input":
        assert written.get_data_dtype() == source.get_data_dtype()
        raw = [np.asarray(i.dataobj.get_unscaled()) for i in (source, written)]
        assert np.array_equal(*raw), "stored values changed"
    else:
        assert written.get_data_dtype().newbyteorder("=") == np.float32
        assert np.array_equal(written.get_fdata(dtype=np.float32), expected)
    assert [p.name for p in out.parent.iterdir()] == ["x.nii.gz"]
    np.testing.assert_allclose(written.get_fdata(dtype=np.float32), expected, rtol=1e-6)


def test_left_handed_affine_stays_left_handed(tmp_path):
    image = oblique_nifti(phantom((8, 9, 10))[1])
    assert np.linalg.det(image.affine[:3, :3]) < 0
    NiftiSource(image).write(np.asarray(image.dataobj)[None], tmp_path / "x.nii")
    assert np.array_equal(nibabel.load(tmp_path / "x.nii").affine, image.affine)


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.5, -1000.0)])
def test_input_dtype_rounds_and_clips(slope, intercept, tmp_path):
    stored = np.arange(64, dtype=np.uint8).reshape(8, 8)
    source = nibabel.Nifti1Image(stored, np.eye(4))
    source.header.set_slope_inter(slope, intercept)
    nibabel.save(source, tmp_path / "in.nii")
    volume = read_nifti(tmp_path / "in.nii")
    values = volume.data + 0.4 * slope
    values[0, 0, 0], values[0, 0, 1] = -1e4, 1e4
    volume.source.write(values, tmp_path / "out.nii", "input")
    raw = np.asarray(nibabel.load(tmp_path / "out.nii").dataobj.get_unscaled())
    expected = stored.copy()
    expected[0, 0], expected[0, 1] = 0, 255
    assert np.array_equal(raw, expected)


@pytest.mark.parametrize(
    ("shape", "stack"),
    [
        ((12, 14), (1, 12, 14)),
        ((12, 14, 1), (1, 12, 14)),
        ((12, 1, 14), (1, 12, 14)),
        ((12, 14, 9), (1, 12, 14, 9)),
        ((12, 14, 9, 3), (3, 12, 14, 9)),
        ((12, 14, 1, 3), (3, 12, 14)),
        ((12, 14, 9, 1, 2), (2, 12, 14, 9)),
    ],
)
def test_axes_of_the_network(shape, stack, tmp_path):
    data = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    image = nibabel.Nifti1Image(data, np.diag([1, 2, 3, 1]))
    nibabel.save(image, tmp_path / "x.nii")
    volume = read_nifti(tmp_path / "x.nii")
    assert volume.data.shape == stack
    assert volume.data.dtype == np.float32
    sides = [s for s, n in zip((1, 2, 3), shape) if n > 1]
    assert list(volume.spacing) == sides
    assert np.array_equal(volume.source.to_image(volume.data).get_fdata(dtype=np.float32), data)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("empty", "path must be a readable NIfTI file"),
        ("truncated", "path must be a readable NIfTI file"),
        ("text", "path must be a readable NIfTI file"),
        ("rgb", "got RGB voxels"),
    ],
)
def test_bad_files_named(kind, message, tmp_path):
    path = tmp_path / "bad.nii.gz"
    damaged(kind, path)
    with pytest.raises(ValueError, match=message) as error:
        read_nifti(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("shape", [(9, 10), (9, 10, 8), (9, 10, 8, 3)])
@pytest.mark.parametrize("kind", [np.complex64, np.complex128])
def test_complex_voxels_are_two_images_and_come_back_complex(kind, shape, tmp_path):
    rng = np.random.default_rng(0)
    values = (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(kind)
    nibabel.save(nibabel.Nifti1Image(values, oblique_affine()), tmp_path / "x.nii.gz")
    volume = read_nifti(tmp_path / "x.nii.gz")
    n = int(np.prod(shape[3:]))
    assert volume.data.shape == (2 * n, *shape[:3])
    for dtype, stored in (("float32", np.complex64), ("input", kind)):
        volume.source.write(volume.data, tmp_path / "y.nii.gz", dtype)
        written = nibabel.load(tmp_path / "y.nii.gz")
        assert written.get_data_dtype() == stored
        np.testing.assert_allclose(np.asarray(written.dataobj), values, rtol=1e-6)
        np.testing.assert_allclose(written.affine, oblique_affine(), atol=1e-6)


def test_line_of_voxels_refused():
    with pytest.raises(ValueError, match="2 or 3 spatial axes"):
        to_volume(nibabel.Nifti1Image(np.ones((5, 1, 1), np.float32), np.eye(4)))


@pytest.mark.parametrize("name", ["x.hdr", "x.img", "x.nii.gz"])
def test_pair_of_files_read_and_written(name, tmp_path):
    data = np.arange(8 * 9 * 10, dtype=np.int16).reshape(8, 9, 10)
    nibabel.save(nibabel.Nifti1Pair(data, np.diag([-1, 2, 3, 1])), tmp_path / "in.hdr")
    for half in ("in.hdr", "in.img"):
        volume = read_nifti(tmp_path / half)
        assert np.array_equal(volume.data[0], data)
    out = tmp_path / "out" / name
    volume.source.write(volume.data, out, "input")
    written = nibabel.load(out)
    assert np.array_equal(np.asarray(written.dataobj), data)
    assert np.array_equal(written.affine, np.diag([-1, 2, 3, 1]))
    assert written.get_data_dtype() == np.int16
    assert len(list(out.parent.iterdir())) == (1 if name == "x.nii.gz" else 2)


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1), ("micron", 1e-3), ("meter", 1e3), ("unknown", 1)])
def test_spacing_in_mm(unit, factor):
    image = nibabel.Nifti1Image(np.ones((4, 5, 6), np.float32), np.diag([2, 3, 4, 1]))
    image.header.set_xyzt_units(unit)
    np.testing.assert_allclose(to_volume(image).spacing, np.array([2, 3, 4]) * factor)


@pytest.mark.parametrize("source", ["in.nii", "in.hdr"])
@pytest.mark.parametrize("target", ["out.nii.gz", "out.hdr"])
def test_slope_survives_between_one_file_and_two(source, target, tmp_path):
    kind = nibabel.Nifti1Image if source.endswith(".nii") else nibabel.Nifti1Pair
    image = kind(np.arange(8 * 9 * 10, dtype=np.int16).reshape(8, 9, 10), np.eye(4))
    image.header.set_slope_inter(0.5, 10)
    nibabel.save(image, tmp_path / source)
    volume = read_nifti(tmp_path / source)
    volume.source.write(volume.data, tmp_path / target, "input")
    assert np.array_equal(read_nifti(tmp_path / target).data, volume.data)
