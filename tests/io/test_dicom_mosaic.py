# SPDX-License-Identifier: Apache-2.0
"""Siemens mosaics: unpacked, placed as NiBabel places them, and packed again."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from samples import dicom_series, oblique_affine

from monai_n2v.io.images import read_volume, save_volume
from monai_n2v.io.volume import Refusal

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from nibabel.nicom import dicomwrappers

SHAPE = (12, 10, 7)  # columns, rows, slices: three tiles a side, two of them empty
SIDE = 3


def csa(tags: dict[str, tuple[str, list[str]]]) -> bytes:
    """Siemens' private header, version 2, as NiBabel's documentation describes it."""
    out = b"SV10\x04\x03\x02\x01" + struct.pack("<2I", len(tags), 77)
    for name, (vr, values) in tags.items():
        out += struct.pack("<64si4s3i", name.encode(), len(values), vr.encode(), 0, len(values), 77)
        for value in values:
            raw = value.encode() + b"\0"
            out += struct.pack("<4i", len(raw), len(raw), 77, 0) + raw + b"\0" * (-len(raw) % 4)
    return out


def mosaic_series(
    folder: Path, volumes: list[np.ndarray], left_handed: bool = False, with_csa: bool = True
) -> np.ndarray:
    """Write stored volumes as one mosaic each; returns the affine of the volume."""
    affine = oblique_affine(left_handed=left_handed)
    lps = np.diag([-1, -1, 1, 1]) @ affine
    folder.mkdir()
    for v, data in enumerate(volumes):
        slab = np.zeros((SIDE * SHAPE[1], SIDE * SHAPE[0]), dtype=data.dtype)
        for k in range(SHAPE[2]):
            row, column = divmod(k, SIDE)
            tile = slice(row * SHAPE[1], (row + 1) * SHAPE[1]), slice(column * SHAPE[0], (column + 1) * SHAPE[0])
            slab[tile] = data[:, :, k].T
        (path,) = dicom_series(folder.parent / f"one{v}", slab.T[:, :, None], affine)
        ds = pydicom.dcmread(path)
        # The position is that of an image of the mosaic's size around the same center.
        shift = [(SIDE - 1) * n / 2 for n in SHAPE[:2]]
        ds.ImagePositionPatient = [f"{x:.12g}"[:16] for x in lps[:3, 3] - lps[:3, 0] * shift[0] - lps[:3, 1] * shift[1]]
        ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
        ds.SeriesInstanceUID, ds.AcquisitionNumber, ds.InstanceNumber = "1.2.3.4", v + 1, v + 1
        direction = lps[:3, 2] / np.linalg.norm(lps[:3, 2])
        if with_csa:
            block = ds.private_block(0x29, "SIEMENS CSA HEADER", create=True)
            tags = {
                "NumberOfImagesInMosaic": ("US", [str(SHAPE[2])]),
                "SliceNormalVector": ("FD", [f"{x:.8f}" for x in direction]),
                "AcquisitionMatrixText": ("SH", ["10*12"]),
            }
            block.add_new(0x10, "OB", csa(tags))
        else:
            ds.private_block(0x19, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", SHAPE[2])
        ds.save_as(folder / f"x{9 - v}.dcm")
    return affine


def volumes(n: int = 2) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(1, 4000, (n, *SHAPE)).astype(np.uint16))


@pytest.mark.parametrize("with_csa", [True, False])
@pytest.mark.parametrize("left_handed", [True, False])
def test_mosaic_becomes_a_volume_at_its_place(left_handed, with_csa, tmp_path):
    given = volumes()
    affine = mosaic_series(tmp_path / "in", given, left_handed, with_csa)
    read = read_volume(tmp_path / "in")
    assert read.data.shape == (2, *SHAPE)
    # Slices lie in ascending order along the normal of the orientation, as of all series.
    turned = with_csa and np.linalg.det((np.diag([-1, -1, 1, 1]) @ affine)[:3, :3]) < 0
    expected = [np.flip(one, 2) if turned else one for one in given]
    np.testing.assert_array_equal(read.data, expected)
    if with_csa:
        corner = np.array([0, 0, SHAPE[2] - 1 if turned else 0, 1])
        np.testing.assert_allclose(read.source.affine[:3, 3], (affine @ corner)[:3], atol=1e-3)
        np.testing.assert_allclose(np.abs(read.source.affine[:3, :3]), np.abs(affine[:3, :3]), atol=1e-4)


def test_place_is_that_of_nibabel(tmp_path):
    mosaic_series(tmp_path / "in", volumes(1))
    wrapped = dicomwrappers.wrapper_from_file(tmp_path / "in" / "x9.dcm")
    assert wrapped.is_mosaic
    read = read_volume(tmp_path / "in")
    # NiBabel has rows first, and LPS.
    lps = np.diag([-1, -1, 1, 1]) @ read.source.affine
    np.testing.assert_allclose(wrapped.affine[:, [1, 0, 2, 3]], lps, atol=1e-4)
    np.testing.assert_array_equal(wrapped.get_data().transpose(1, 0, 2), read.data[0])


@pytest.mark.parametrize("left_handed", [True, False])
def test_result_is_a_mosaic_again(left_handed, tmp_path):
    given = volumes()
    mosaic_series(tmp_path / "in", given, left_handed)
    read = read_volume(tmp_path / "in")
    save_volume(read.data + 5, read, tmp_path / "out")
    for v in range(2):
        before, after = (pydicom.dcmread(tmp_path / folder / f"x{9 - v}.dcm") for folder in ("in", "out"))
        old, new = before.pixel_array.astype(int), after.pixel_array.astype(int)
        assert np.array_equal(new, np.where(old > 0, old + 5, 0)), "empty tiles stay"
        assert "MOSAIC" in after.ImageType
        assert after[0x29, 0x1010].value == before[0x29, 0x1010].value
    save_volume(read.data, read, tmp_path / "out.nii.gz")
    assert nibabel.load(tmp_path / "out.nii.gz").shape == (*SHAPE, 2)
    again = read_volume(tmp_path / "out")
    np.testing.assert_array_equal(again.data, read.data + 5)
    np.testing.assert_allclose(again.source.affine, read.source.affine)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"PixelSpacing": None}, "image must tell the place of its mosaic's slices"),
        ({"Rows": 29}, "image must have sides of 3 slices each for a mosaic of 7, got 29 x 36"),
    ],
)
def test_mosaic_without_its_facts_is_refused(edit, message, tmp_path):
    mosaic_series(tmp_path / "in", volumes(1))
    ds = pydicom.dcmread(tmp_path / "in" / "x9.dcm")
    for keyword, value in edit.items():
        setattr(ds, keyword, value)
    ds.save_as(tmp_path / "in" / "x9.dcm")
    with pytest.raises(Refusal, match=message):
        read_volume(tmp_path / "in")


def test_damaged_private_header_is_no_traceback(tmp_path):
    mosaic_series(tmp_path / "in", volumes(1))
    ds = pydicom.dcmread(tmp_path / "in" / "x9.dcm")
    ds[0x29, 0x1010].value = ds[0x29, 0x1010].value[:90]
    ds.save_as(tmp_path / "in" / "x9.dcm")
    with pytest.raises(Refusal, match="image must tell how many slices its mosaic holds"):
        read_volume(tmp_path / "in")
