# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gzip

import nibabel
import numpy as np
import pytest
from conftest import oblique_nifti, phantom

from monai_n2v.volumes import read_nifti, save_nifti, stem_of, to_nifti

REAL = ["example4d.nii.gz", "example_nifti2.nii.gz", "anatomical.nii", "functional.nii", "reoriented_anat_moved.nii"]


def headers_are_equal(first: nibabel.Nifti1Image, second: nibabel.Nifti1Image, stored_type: bool) -> None:
    """Everything a header says about the image, but its storage where the type changes."""
    assert first.shape == second.shape
    assert type(first) is type(second)
    assert np.array_equal(first.affine, second.affine)
    storage = {"scl_slope", "scl_inter", "vox_offset", *([] if stored_type else ["datatype", "bitpix"])}
    for field in first.header.structarr.dtype.names:
        if field not in storage:
            assert first.header[field].tobytes() == second.header[field].tobytes(), field
    assert first.header.extensions == second.header.extensions


@pytest.mark.parametrize("dtype", ["float32", "input"])
@pytest.mark.parametrize("name", ["oblique", *REAL])
def test_header_survives_a_round_trip(name, dtype, tmp_path, request):
    if name == "oblique":
        path = tmp_path / "oblique.nii.gz"
        nibabel.save(oblique_nifti(np.round(phantom((9, 10, 11))[1]).astype(np.int16)), path)
    else:
        path = request.getfixturevalue("nibabel_data") / name
    volume = read_nifti(path)
    out = tmp_path / "out" / "x.nii.gz"
    save_nifti(to_nifti(volume.data, volume.source, dtype), out)
    written = nibabel.load(out)
    headers_are_equal(volume.source, written, stored_type=dtype == "input")
    expected = volume.source.get_fdata(dtype=np.float32)
    if dtype == "input":
        assert written.get_data_dtype() == volume.source.get_data_dtype()
        raw = [np.asarray(i.dataobj.get_unscaled()) for i in (volume.source, written)]
        assert np.array_equal(*raw), "stored values changed"
    else:
        assert written.get_data_dtype().newbyteorder("=") == np.float32
        assert np.array_equal(written.get_fdata(dtype=np.float32), expected)
    assert [p.name for p in out.parent.iterdir()] == ["x.nii.gz"]
    np.testing.assert_allclose(written.get_fdata(dtype=np.float32), expected, rtol=1e-6)


def test_left_handed_affine_stays_left_handed(tmp_path):
    image = oblique_nifti(phantom((8, 9, 10))[1])
    assert np.linalg.det(image.affine[:3, :3]) < 0
    save_nifti(to_nifti(np.asarray(image.dataobj)[None], image), tmp_path / "x.nii")
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
    save_nifti(to_nifti(values, volume.source, "input"), tmp_path / "out.nii")
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
    assert np.array_equal(to_nifti(volume.data, volume.source).get_fdata(dtype=np.float32), data)


def damaged(kind: str, path) -> None:
    image = nibabel.Nifti1Image(np.random.default_rng(0).normal(size=(16, 16, 16)).astype(np.float32), np.eye(4))
    nibabel.save(image, path)
    content = path.read_bytes()
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "text":
        path.write_bytes(gzip.compress(b"no image at all" * 100))
    elif kind == "complex":
        nibabel.save(nibabel.Nifti1Image(np.ones((9, 9, 9), np.complex64), np.eye(4)), path)
    elif kind == "rgb":
        rgb = np.zeros((9, 9, 9), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
        nibabel.save(nibabel.Nifti1Image(rgb, np.eye(4)), path)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("empty", "path must be a readable NIfTI file"),
        ("truncated", "path must be a readable NIfTI file"),
        ("text", "path must be a readable NIfTI file"),
        ("complex", "got complex voxels"),
        ("rgb", "got RGB voxels"),
    ],
)
def test_bad_files_named(kind, message, tmp_path):
    path = tmp_path / "bad.nii.gz"
    damaged(kind, path)
    with pytest.raises(ValueError, match=message) as error:
        read_nifti(path)
    assert str(path) in str(error.value)


def test_other_files_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="path must be an existing file"):
        read_nifti(tmp_path / "none.nii")
    (tmp_path / "x.mgz").touch()
    with pytest.raises(ValueError, match="path must be a NIfTI file"):
        read_nifti(tmp_path / "x.mgz")
    nibabel.save(nibabel.Nifti1Image(np.ones((5, 1, 1), np.float32), np.eye(4)), tmp_path / "line.nii")
    with pytest.raises(ValueError, match="2 or 3 spatial axes"):
        read_nifti(tmp_path / "line.nii")


def test_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(image, path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(nibabel, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_nifti(nibabel.Nifti1Image(np.ones((2, 2), np.float32), np.eye(4)), tmp_path / "x.nii.gz")
    assert list(tmp_path.iterdir()) == []


def test_stem_of(tmp_path):
    assert [stem_of(tmp_path / n) for n in ("a.b.nii.gz", "a.nii", "A.NII.GZ", "x.tif")] == ["a.b", "a", "A", "x"]
