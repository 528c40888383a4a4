# SPDX-License-Identifier: Apache-2.0
"""DICOM series in, derived series out."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pydicom
import pytest
from samples import dicom_series, enhanced_image, oblique_affine

from monai_n2v.io.dicom_files import list_series
from monai_n2v.io.dicom_read import read_dicom
from monai_n2v.io.images import check_geometry, check_target, read_volume, save_volume

SHAPE = (12, 10, 7)


def stored_values(dtype: str = "int16", shape=SHAPE, low: int = -500, high: int = 500) -> np.ndarray:
    return np.random.default_rng(0).integers(max(low, 0) if dtype[0] == "u" else low, high, shape).astype(dtype)


def by_position(folder) -> list[pydicom.Dataset]:
    headers = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
    normal = np.cross(headers[0].ImageOrientationPatient[:3], headers[0].ImageOrientationPatient[3:])
    return sorted(headers, key=lambda h: float(np.dot(h.ImagePositionPatient, normal)))


@pytest.mark.parametrize(
    ("dtype", "slope", "intercept"),
    [("int16", 1, 0), ("uint16", 1, -1024), ("uint16", 0.5, 3), ("uint8", 2.5, 0), ("int16", 0.0123, -7)],
)
@pytest.mark.parametrize("left_handed", [True, False])
def test_series_read_in_real_units_and_place(dtype, slope, intercept, left_handed, tmp_path):
    data = stored_values(dtype, high=200)
    affine = oblique_affine(left_handed=left_handed)
    dicom_series(tmp_path / "in", data, affine, slope=slope, intercept=intercept)
    volume = read_volume(tmp_path / "in")
    # Slices are stored in the order of the normal, which a left-handed affine runs against.
    if np.linalg.det(np.diag([-1, -1, 1]) @ affine[:3, :3]) < 0:
        affine = affine @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, SHAPE[2] - 1], [0, 0, 0, 1]])
        data = data[..., ::-1]
    np.testing.assert_allclose(volume.data[0], data.astype(float) * slope + intercept, rtol=1e-6, atol=1e-4)
    np.testing.assert_allclose(volume.source.affine, affine, atol=1e-4)
    np.testing.assert_allclose(volume.spacing, (0.9, 1.1, 2.5), rtol=1e-5)
    assert volume.notes == []


@pytest.mark.parametrize("dtype", ["int16", "uint16", "uint8"])
def test_derived_series_keeps_values_to_half_a_step(dtype, tmp_path):
    slope, intercept = 0.5, -100.0
    dicom_series(
        tmp_path / "in", stored_values(dtype, low=20, high=200), oblique_affine(), slope=slope, intercept=intercept
    )
    volume = read_volume(tmp_path / "in")
    values = volume.data + np.random.default_rng(1).uniform(-5, 5, volume.data.shape).astype(np.float32)
    save_volume(values, volume, tmp_path / "out")
    again = read_volume(tmp_path / "out")
    assert np.abs(again.data - values).max() <= slope / 2 + 1e-4
    assert np.array_equal(again.source.affine, volume.source.affine)
    assert again.source.stored == volume.source.stored
    save_volume(volume.data, volume, tmp_path / "same")
    assert np.array_equal(read_volume(tmp_path / "same").data, volume.data)


@pytest.mark.parametrize(("bits", "dtype", "low", "high"), [(12, "uint16", 0, 4095), (12, "int16", -2048, 2047)])
def test_values_clipped_to_the_stored_bits(bits, dtype, low, high, tmp_path):
    dicom_series(tmp_path / "in", stored_values(dtype), oblique_affine(), bits_stored=bits)
    volume = read_volume(tmp_path / "in")
    values = volume.data.copy()
    values[0, 0, 0, :2] = -1e6, 1e6
    save_volume(values, volume, tmp_path / "out")
    again = read_volume(tmp_path / "out").data
    assert again[0, 0, 0, :2].tolist() == [low, high]


def test_derived_series_is_a_new_one_of_the_same_patient(tmp_path):
    dicom_series(tmp_path / "in", stored_values(), oblique_affine())
    volume = read_volume(tmp_path / "in")
    save_volume(volume.data, volume, tmp_path / "out")
    sources, images = by_position(tmp_path / "in"), by_position(tmp_path / "out")
    assert all(path.suffix == ".dcm" for path in (tmp_path / "out").iterdir())
    assert len({image.SOPInstanceUID for image in images}) == len(images)
    assert len({image.SeriesInstanceUID for image in images}) == 1
    for source, image in zip(sources, images):
        assert image.SeriesInstanceUID != source.SeriesInstanceUID
        assert image.SOPInstanceUID == image.file_meta.MediaStorageSOPInstanceUID != source.SOPInstanceUID
        assert list(image.ImageType) == ["DERIVED", "SECONDARY", "M", "NORM"]
        assert image.SeriesDescription == "T1 phantom N2V denoised"
        assert image.SeriesNumber == source.SeriesNumber + 1000
        assert "Noise2Void" in image.DerivationDescription
        assert image.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
        assert image.ContributingEquipmentSequence[-1].Manufacturer == "monai_n2v"
        for keyword in (
            *("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "SOPClassUID", "Modality"),
            *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "InstanceNumber"),
            *("WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept", "BitsStored", "PixelRepresentation"),
        ):
            assert image[keyword].value == source[keyword].value, keyword


def test_long_description_keeps_the_mark_of_the_derived_series(tmp_path):
    for path in dicom_series(tmp_path / "in", stored_values(), oblique_affine()):
        image = pydicom.dcmread(path)
        image.SeriesDescription = "x" * 64
        image.save_as(path)
    volume = read_volume(tmp_path / "in")
    save_volume(volume.data, volume, tmp_path / "out")
    assert by_position(tmp_path / "out")[0].SeriesDescription == "x" * 51 + " N2V denoised"


@pytest.mark.parametrize("reader", ["ITKReader", "PydicomReader"])
def test_monai_reads_the_derived_series_alike(reader, tmp_path):
    from monai.transforms import LoadImage

    dicom_series(tmp_path / "in", stored_values(), oblique_affine(), slope=0.5, intercept=-100)
    volume = read_volume(tmp_path / "in")
    save_volume(volume.data + 0.1, volume, tmp_path / "out")
    before, after = (LoadImage(reader=reader)(tmp_path / name) for name in ("in", "out"))
    np.testing.assert_allclose(after.affine, before.affine, atol=1e-6)
    assert after.shape == before.shape
    assert np.abs(np.asarray(after) - (np.asarray(before) + 0.1)).max() <= 0.25 + 1e-3


def test_tilted_gantry_noted(tmp_path):
    dicom_series(tmp_path / "in", stored_values(), oblique_affine(), tilt=1.0)
    volume = read_volume(tmp_path / "in")
    assert "gantry was tilted by 21.8 degrees" in volume.notes[0]
    save_volume(volume.data, volume, tmp_path / "out")
    np.testing.assert_allclose(read_volume(tmp_path / "out").source.affine, volume.source.affine)


def test_missing_slice_refused(tmp_path):
    paths = dicom_series(tmp_path / "in", stored_values(), oblique_affine())
    paths[3].unlink()
    with pytest.raises(ValueError, match="evenly spaced slices, got 5 mm from"):
        read_volume(tmp_path / "in")


def test_repeats_at_every_position_become_volumes(tmp_path):
    data = stored_values()
    dicom_series(tmp_path / "in", data, oblique_affine(left_handed=False))
    second = dicom_series(tmp_path / "more", data + 1, oblique_affine(left_handed=False))
    uid = pydicom.dcmread(next((tmp_path / "in").iterdir())).SeriesInstanceUID
    for k, path in enumerate(second):
        ds = pydicom.dcmread(path)
        ds.SeriesInstanceUID, ds.InstanceNumber = uid, 100 + k
        ds.save_as(tmp_path / "in" / f"second{k}")
    volume = read_volume(tmp_path / "in")
    assert volume.data.shape == (2, *SHAPE)
    assert np.array_equal(volume.data[1], volume.data[0] + 1)
    save_volume(volume.data + 3, volume, tmp_path / "out")
    assert np.array_equal(read_volume(tmp_path / "out").data, volume.data + 3)
    (tmp_path / "in" / "second0").unlink()
    with pytest.raises(ValueError, match="as many images at every position, got 1"):
        read_volume(tmp_path / "in")


def test_several_series_listed_and_chosen(tmp_path):
    dicom_series(tmp_path / "in", stored_values(), oblique_affine(), series_number=3)
    for path in dicom_series(tmp_path / "more", stored_values() + 7, oblique_affine(), series_number=4):
        shutil.move(path, tmp_path / "in" / f"b{path.name}")
    with pytest.raises(ValueError, match=r"one series, got 2 .*3 \(T1 phantom, 7 images, .*4 \(T1 phantom"):
        read_volume(tmp_path / "in")
    uids = {images[0][1].SeriesNumber: uid for uid, images in list_series(tmp_path / "in").items()}
    assert np.array_equal(read_dicom(tmp_path / "in", "4").data, read_dicom(tmp_path / "in", "3").data + 7)
    assert np.array_equal(read_dicom(tmp_path / "in", "4").data, read_dicom(tmp_path / "in", str(uids[4])).data)
    with pytest.raises(ValueError, match="one series 9, got 2"):
        read_volume(tmp_path / "in", "9")


def spoil(kind: str, path) -> None:
    ds = pydicom.dcmread(path)
    if kind == "size":
        ds.Rows, ds.PixelData = 9, ds.PixelData[: 2 * 9 * 12]
    elif kind == "orientation":
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    elif kind == "spacing":
        ds.PixelSpacing = [3, 3]
    elif kind == "frames":
        ds.NumberOfFrames = 3
    elif kind == "colors":
        ds.SamplesPerPixel = 3
    elif kind == "slope":
        ds.RescaleSlope = 0
    elif kind == "pixels":
        ds.PixelData = ds.PixelData[:20]
    elif kind == "bits":
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 64, 64, 63
    elif kind == "high bit":
        ds.BitsStored = 12
    elif kind == "palette":
        ds.PhotometricInterpretation = "PALETTE COLOR"
    elif kind == "shift":
        right = [float(c) for c in ds.ImageOrientationPatient[:3]]
        ds.ImagePositionPatient = [f"{v + 20 * c:.8g}" for v, c in zip(ds.ImagePositionPatient, right)]
    elif kind == "columns":
        ds.Columns = None
    ds.save_as(path)
    if kind == "header":
        path.write_bytes(path.read_bytes()[:150])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("size", "series must have one Rows, got"),
        ("orientation", "series must have one ImageOrientationPatient"),
        ("spacing", "series must have one PixelSpacing"),
        ("frames", "one frame per file"),
        ("colors", "got RGB voxels"),
        ("slope", "RescaleSlope must not be 0"),
        ("pixels", "readable DICOM image"),
        ("bits", "stored in 8, 16 or 32 bits, got 64"),
        ("high bit", "HighBit must be 11"),
        ("palette", "got RGB voxels"),
        ("shift", "slices in one line, got IM"),
        ("columns", "image must have Columns"),
        ("header", "readable DICOM file"),
    ],
)
def test_faulty_series_named(kind, message, tmp_path):
    paths = dicom_series(tmp_path / "in", stored_values(), oblique_affine())
    spoil(kind, paths[3])
    with pytest.raises(ValueError, match=message) as error:
        read_volume(tmp_path / "in")
    assert str(tmp_path / "in") in str(error.value)


def test_folder_without_images_refused(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "readme.txt").write_text("nothing")
    with pytest.raises(ValueError, match="path must hold DICOM images, got none"):
        read_volume(tmp_path / "in")


def test_objects_without_pixels_passed_over(tmp_path):
    paths = dicom_series(tmp_path / "in", stored_values(), oblique_affine())
    ds = pydicom.dcmread(paths[0])
    for keyword in ("Rows", "Columns", "PixelData"):
        del ds[keyword]
    ds.SOPClassUID = pydicom.uid.BasicTextSRStorage
    ds.save_as(tmp_path / "in" / "report.dcm")
    assert read_volume(tmp_path / "in").data.shape == (1, *SHAPE)


def test_series_may_become_nifti(tmp_path):
    dicom_series(tmp_path / "in", stored_values(), oblique_affine())
    volume = read_volume(tmp_path / "in")
    check_target(tmp_path / "x.nii.gz", tmp_path / "in")
    save_volume(volume.data, volume, tmp_path / "x.nii.gz")
    again = read_volume(tmp_path / "x.nii.gz")
    assert np.array_equal(again.data, volume.data)
    np.testing.assert_allclose(again.source.affine, volume.source.affine, atol=1e-5)


def test_folder_replaced_whole(tmp_path):
    dicom_series(tmp_path / "in", stored_values(), oblique_affine())
    volume = read_volume(tmp_path / "in")
    save_volume(volume.data, volume, tmp_path / "out")
    (tmp_path / "out" / "stale.dcm").touch()
    save_volume(volume.data, volume, tmp_path / "out")
    assert len(list((tmp_path / "out").iterdir())) == SHAPE[2]
    assert {p.name for p in tmp_path.iterdir()} == {"in", "out"}


def findings(path) -> set[str]:
    """What an independent checker (dicom3tools) finds wrong, without the numbers of lines and values."""
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
    return {line for line in (done.stderr + done.stdout).splitlines() if line.startswith("Error")}


def derived_without_new_errors(folder, out) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy, of Debian's dicom3tools, is not installed")
    volume = read_volume(folder)
    save_volume(volume.data, volume, out)
    assert np.array_equal(read_volume(out).data, volume.data)
    for source in (volume.source.volumes[0][0].path, volume.source.volumes[0][-1].path):
        assert not findings(out / f"{source.stem}.dcm") - findings(source)


def test_checker_finds_no_new_errors(tmp_path):
    dicom_series(tmp_path / "in", stored_values(), oblique_affine())
    derived_without_new_errors(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("ct", [False, True])
def test_checker_finds_no_new_errors_in_enhanced_images(ct, tmp_path):
    data = np.random.default_rng(0).integers(0, 99, (*SHAPE, 1)).astype(np.uint16)
    enhanced_image(tmp_path / "in" / "a", data, oblique_affine(), ct=ct)
    derived_without_new_errors(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("name", ["dicom_ct_pancreas", "dicom_mr_t1"])
def test_checker_finds_no_new_errors_in_real_series(name, real_data, tmp_path):
    derived_without_new_errors(real_data / name, tmp_path / "out")


def test_empty_slope_and_intercept_are_one_and_zero(tmp_path):
    data = stored_values()
    for path in dicom_series(tmp_path / "in", data, oblique_affine(left_handed=False)):
        ds = pydicom.dcmread(path)
        ds.RescaleSlope = ds.RescaleIntercept = None
        ds.save_as(path)
    assert set(np.unique(read_volume(tmp_path / "in").data)) == set(np.unique(data))


def test_images_without_positions_noted(tmp_path):
    for path in dicom_series(tmp_path / "in", stored_values(), oblique_affine()):
        ds = pydicom.dcmread(path)
        del ds.ImagePositionPatient
        ds.save_as(path)
    volume = read_volume(tmp_path / "in")
    assert "tell no positions" in volume.notes[0]
    with pytest.raises(ValueError, match="does not tell where it lies"):
        check_geometry(volume, tmp_path / "x.nii.gz")
