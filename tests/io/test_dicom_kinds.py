# SPDX-License-Identifier: Apache-2.0
"""What defines an image in DICOM, how it may be stored, and enhanced images of many frames."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRBigEndian, ImplicitVRLittleEndian, generate_uid
from samples import dicom_series, enhanced_image, oblique_affine, save_dicom

from monai_n2v.io.dicom_pixels import read_stored
from monai_n2v.io.find import find_images
from monai_n2v.io.images import read_volume, save_volume

AFFINE = oblique_affine(left_handed=False)
SHAPE = (12, 10, 7)


def shipped(name: str) -> Path:
    """A real image that pydicom ships."""
    path = Path(pydicom.__file__).parent / "data" / "test_files" / name
    if not path.is_file():
        pytest.skip(f"this pydicom ships no {name}")
    return path


def levels(n: int, dtype: str = "int16") -> list[np.ndarray]:
    """Volumes whose voxels tell which volume and slice they are of: 1000 a volume, 10 a slice."""
    noise = np.random.default_rng(0).integers(0, 9, (n, *SHAPE))
    return list((noise + 1000 * np.arange(1, n + 1)[:, None, None, None] + 10 * np.arange(SHAPE[2])).astype(dtype))


def mixed_series(folder: Path, volumes: list[np.ndarray], edit) -> Path:
    """One series of all volumes under random names; ``edit(dataset, volume, slice)`` says what tells them apart."""
    names = np.random.default_rng(1).permutation(len(volumes) * SHAPE[2])
    uid, n = generate_uid(), 0
    folder.mkdir()
    for v, data in enumerate(volumes):
        for k, path in enumerate(dicom_series(folder.parent / f"volume{v}", data, AFFINE)):
            ds = pydicom.dcmread(path)
            ds.SeriesInstanceUID = uid
            edit(ds, v, k)
            ds.save_as(folder / f"x{names[n]:03d}")
            n += 1
    return folder


def private(tag, creator, value):
    def edit(ds, v, k):
        block = ds.private_block(tag[0], creator, create=True)
        block.add_new(tag[1] & 0xFF, "IS", value(v))

    return edit


def b_value(ds, v, k):
    ds.InstanceNumber = 1 + 100 * v + k  # the order of the scan
    ds.DiffusionBValue = [0.0, 1000.0, 1000.0][v]
    ds.DiffusionGradientOrientation = [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]][v]


def image_type(ds, v, k):
    ds.ImageType = ["ORIGINAL", "PRIMARY", "MPR"[v], "ND"]


def times(keyword, scale=1.0):
    def edit(ds, v, k):
        setattr(ds, keyword, f"{100000 + (100 * v + k) * scale:.3f}")

    return edit


def numbers(ds, v, k):
    ds.InstanceNumber = 1 + k * 3 + v


def of(keyword, *values):
    return lambda ds, v, k: setattr(ds, keyword, values[v])


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (of("EchoTime", 4.9, 9.8, 14.7), "EchoTime"),
        (of("EchoNumbers", 1, 2, 3), "EchoNumbers"),
        (of("TemporalPositionIdentifier", 1, 2, 3), "TemporalPositionIdentifier"),
        (b_value, "DiffusionBValue and DiffusionGradientOrientation"),
        (private((0x0019, 0x100C), "SIEMENS MR HEADER", lambda v: 500 * v), r"\(0019,100c\)"),
        (of("InversionTime", 100, 900, 2000), "InversionTime"),
        (of("FlipAngle", 5, 9, 20), "FlipAngle"),
        (of("ConvolutionKernel", "A", "B", "C"), "ConvolutionKernel"),
        (of("AcquisitionNumber", 1, 2, 3), "AcquisitionNumber"),
        (times("TriggerTime"), "TriggerTime"),
        (times("AcquisitionTime"), "AcquisitionTime"),
        (times("ContentTime"), "ContentTime"),
        (numbers, "InstanceNumber"),
    ],
)
def test_volumes_are_told_apart_by_what_defines_them(edit, told, tmp_path):
    volumes = levels(3)
    volume = read_volume(mixed_series(tmp_path / "in", volumes, edit))
    assert np.array_equal(volume.data, volumes)
    assert len(volume.notes) == 1
    assert re.fullmatch(f"3 volumes, told apart by {told}.", volume.notes[0])
    save_volume(volume.data + 2, volume, tmp_path / "out")
    assert np.array_equal(read_volume(tmp_path / "out").data, volume.data + 2)


def test_magnitude_and_phase_are_told_apart(tmp_path):
    volumes = levels(2)
    volume = read_volume(mixed_series(tmp_path / "in", volumes, image_type))
    assert np.array_equal(volume.data, volumes)


def test_echoes_at_several_times_are_all_told_apart(tmp_path):
    def edit(ds, v, k):
        ds.EchoTime, ds.AcquisitionTime = [5, 10][v % 2], f"1000{10 * (v // 2) + k:02d}"

    volumes = levels(4)
    data = read_volume(mixed_series(tmp_path / "in", volumes, edit)).data
    assert sorted(map(tuple, data.mean((1, 2)))) == sorted(map(tuple, np.array(volumes, np.float32).mean((1, 2))))


def test_images_that_nothing_tells_apart_refused(tmp_path):
    folder = mixed_series(tmp_path / "in", levels(2), lambda ds, v, k: None)
    with pytest.raises(ValueError, match="nothing that differs between x"):
        read_volume(folder)


def test_image_that_is_there_twice_named(tmp_path):
    paths = dicom_series(tmp_path / "in", levels(1)[0], AFFINE)
    shutil.copy(paths[2], tmp_path / "in" / "copy of it")
    with pytest.raises(ValueError, match=r"every image once, got .* in (copy of it|IM\d+) and (copy of it|IM\d+)"):
        read_volume(tmp_path / "in")


def shuffled_numbers(paths, **changes):
    for path, number in zip(paths, [3, 1, 7, 2, 6, 4, 5]):
        ds = pydicom.dcmread(path)
        ds.InstanceNumber = number
        ds.save_as(path)


def test_file_without_position_among_others_named(tmp_path):
    paths = dicom_series(tmp_path / "in", levels(1)[0], AFFINE)
    shuffled_numbers(paths)
    ds = pydicom.dcmread(paths[4])
    del ds.ImagePositionPatient
    ds.save_as(paths[4])
    with pytest.raises(ValueError, match=f"6 images with and 1 without, the first {paths[4].name} without ImagePos"):
        read_volume(tmp_path / "in")


@pytest.mark.parametrize("fault", ["no numbers", "two echoes"])
def test_series_without_positions_needs_numbers_and_one_kind(fault, tmp_path):
    for k, path in enumerate(dicom_series(tmp_path / "in", levels(1)[0], AFFINE)):
        ds = pydicom.dcmread(path)
        del ds.ImagePositionPatient
        if fault == "no numbers":
            ds.InstanceNumber = 1
        else:
            ds.EchoTime = k % 2
        ds.save_as(path)
    message = {"no numbers": "one InstanceNumber or none", "two echoes": "which differ in EchoTime"}[fault]
    with pytest.raises(ValueError, match=message):
        read_volume(tmp_path / "in")


def test_image_cut_before_its_size_is_missed(tmp_path):
    paths = dicom_series(tmp_path / "in", levels(1)[0], AFFINE)
    content = paths[-1].read_bytes()
    paths[-1].write_bytes(content[: content.index(b"\x28\x00\x10\x00")])
    with pytest.raises(ValueError, match=f"must have Rows, got none for .*{paths[-1].name}, of MR Image Storage"):
        read_volume(tmp_path / "in")


def test_mosaic_without_its_number_of_slices_is_refused(tmp_path):
    for path in dicom_series(tmp_path / "in", levels(1)[0], AFFINE):
        ds = pydicom.dcmread(path)
        ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
        ds.save_as(path)
    with pytest.raises(ValueError, match=r"got no NumberOfImagesInMosaic for .*dcm2niix"):
        read_volume(tmp_path / "in")


def test_directory_of_a_medium_is_passed_over_by_any_name(tmp_path):
    paths = dicom_series(tmp_path / "in", levels(1)[0], AFFINE)
    ds = pydicom.dcmread(paths[0])
    for name in ("DIRFILE", "index.dcm"):
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = UID("1.2.840.10008.1.3.10")
        ds.save_as(tmp_path / "in" / name)
    assert read_volume(tmp_path / "in").data.shape == (1, *SHAPE)


def test_unreadable_file_does_not_end_the_search(tmp_path, monkeypatch):
    dicom_series(tmp_path / "in", levels(1)[0], AFFINE)
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked" / "a").write_bytes(b"x")
    opened = Path.open

    def refuse(self, *args, **kwargs):
        if self.name == "a":
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    assert find_images(tmp_path) == [{"image": str(tmp_path / "in")}]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda ds: setattr(ds, "PixelSpacing", [1]), "PixelSpacing must be 2 numbers, got"),
        (lambda ds: setattr(ds, "PixelSpacing", [0, 0]), "voxel sides must be positive"),
        (lambda ds: setattr(ds, "ImagePositionPatient", [1, 2]), "ImagePositionPatient must be 3 numbers"),
        (lambda ds: setattr(ds, "ImageOrientationPatient", [1, 0, 0, 1, 0, 0]), "two directions at right angles"),
        (lambda ds: setattr(ds, "PixelData", ds.PixelData * 2), "PixelData holds 480 bytes of 240"),
        (lambda ds: setattr(ds, "PixelData", ds.PixelData[:100]), "PixelData holds 100 bytes of 240"),
        (lambda ds: setattr(ds, "BitsStored", 0), "must have voxels of 1 to 16 bits"),
        (lambda ds: setattr(ds, "RescaleSlope", None) or setattr(ds, "RescaleSlope", "1e999"), "RescaleSlope must be"),
    ],
)
def test_fault_of_a_tag_named(edit, message, tmp_path):
    for path in dicom_series(tmp_path / "in", levels(1)[0], AFFINE):
        ds = pydicom.dcmread(path)
        edit(ds)
        ds.save_as(path)
    with pytest.raises(ValueError, match=message) as error:
        read_volume(tmp_path / "in")
    assert str(tmp_path / "in") in str(error.value)


def test_text_in_a_number_named(tmp_path):
    for path in dicom_series(tmp_path / "in", levels(1)[0], AFFINE):
        content = path.read_bytes()
        assert b"\x28\x00\x53\x10DS\x02\x001 " in content
        path.write_bytes(content.replace(b"\x28\x00\x53\x10DS\x02\x001 ", b"\x28\x00\x53\x10DS\x02\x00xy"))
    with pytest.raises(ValueError, match=r"RescaleSlope must be .*xy"):
        read_volume(tmp_path / "in")


def test_padding_of_zeros_behind_the_voxels_passes(tmp_path):
    (data,) = levels(1)
    for path in dicom_series(tmp_path / "in", data, AFFINE):
        ds = pydicom.dcmread(path)
        ds.PixelData += bytes(30)
        ds.save_as(path)
    assert np.array_equal(read_volume(tmp_path / "in").data[0], data)


@pytest.mark.parametrize("kind", ["big endian", "implicit", "without meta header", "big endian without meta header"])
def test_encodings_give_the_same_voxels_and_results(kind, tmp_path):
    (data,) = levels(1)
    for path in dicom_series(tmp_path / "in", data, AFFINE):
        ds = pydicom.dcmread(path)
        if "big" in kind:
            ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
            ds.PixelData = np.frombuffer(ds.PixelData, "<i2").astype(">i2").tobytes()
            save_dicom(ds, path)
        elif kind == "implicit":
            ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
            save_dicom(ds, path)
        if "without" in kind:
            content = path.read_bytes()
            length = pydicom.dcmread(path).file_meta.FileMetaInformationGroupLength
            path.write_bytes(content[144 + length :])
    volume = read_volume(tmp_path / "in")
    assert np.array_equal(volume.data[0], data)
    save_volume(volume.data + 5, volume, tmp_path / "out")
    again = read_volume(tmp_path / "out")
    assert np.array_equal(again.data, volume.data + 5)
    assert np.array_equal(again.source.affine, volume.source.affine)


CODECS = {
    "1.2.840.10008.1.2.4.57": lambda i, x: i.ljpeg_encode(x.view(np.uint16), bitspersample=16),
    "1.2.840.10008.1.2.4.70": lambda i, x: i.ljpeg_encode(x.view(np.uint16), bitspersample=16),
    "1.2.840.10008.1.2.4.80": lambda i, x: i.jpegls_encode(x.view(np.uint16)),
    "1.2.840.10008.1.2.4.90": lambda i, x: i.jpeg2k_encode(x, codecformat="j2k", reversible=True),
}


@pytest.mark.parametrize("syntax", [*CODECS, "1.2.840.10008.1.2.5"])
def test_compressed_series_read_as_uncompressed(syntax, tmp_path):
    import imagecodecs

    data = np.random.default_rng(0).integers(-2000, 2000, (24, 20, 3)).astype(np.int16)
    for path in dicom_series(tmp_path / "in", data, AFFINE, slope=0.5):
        ds = pydicom.dcmread(path)
        if syntax in CODECS:
            frame = CODECS[syntax](imagecodecs, np.frombuffer(ds.PixelData, "<i2").reshape(20, 24))
            ds.PixelData = encapsulate([frame])
            ds["PixelData"].is_undefined_length = True
            ds["PixelData"].VR = "OB"
            ds.file_meta.TransferSyntaxUID = UID(syntax)
        else:
            ds.compress(UID(syntax))
        ds.save_as(path)
    volume = read_volume(tmp_path / "in")
    assert np.array_equal(volume.data[0], data * np.float32(0.5))
    save_volume(volume.data, volume, tmp_path / "out")
    assert np.array_equal(read_volume(tmp_path / "out").data, volume.data)


def test_unknown_compression_named(tmp_path):
    for path in dicom_series(tmp_path / "in", levels(1)[0], AFFINE):
        ds = pydicom.dcmread(path)
        ds.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.102")
        ds.PixelData = encapsulate([bytes(20)])
        ds["PixelData"].is_undefined_length = True
        ds["PixelData"].VR = "OB"
        ds.save_as(path)
    with pytest.raises(ValueError, match=r"TransferSyntaxUID must be one that is read here, got MPEG-4 .*gdcmconv"):
        read_volume(tmp_path / "in")


SMALL = [
    *("MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_expb.dcm", "MR_small_implicit.dcm"),
    *("MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_padded.dcm"),
]


@pytest.mark.parametrize("name", SMALL)
def test_one_real_image_in_every_encoding(name, tmp_path):
    """Pydicom ships one MR image in many."""
    volumes = []
    for one in ("MR_small.dcm", name):
        folder = tmp_path / one
        folder.mkdir()
        shutil.copy(shipped(one), folder)
        volumes.append(read_volume(folder).data)
    assert np.array_equal(*volumes)


def test_bits_above_those_stored_are_left_out(tmp_path):
    data = np.random.default_rng(0).integers(0, 4096, SHAPE).astype(np.uint16)
    dicom_series(tmp_path / "in", data | 0x8000, AFFINE, bits_stored=12)  # as old files keep overlays there
    assert np.array_equal(read_volume(tmp_path / "in").data[0], data)


@pytest.mark.parametrize("dtype", ["int16", "uint16"])
@pytest.mark.parametrize("ct", [False, True])
def test_enhanced_image_read_and_written_as_one(ct, dtype, tmp_path):
    n = 1 if ct else 2
    data = np.random.default_rng(0).integers(0, 900, (*SHAPE, n)).astype(dtype)
    scales = [(1.0, 0.0), (0.5, -3.0), (2.0, 10.0)]
    path = enhanced_image(tmp_path / "in" / "IM1", data, AFFINE, scales=scales, echo_times=[5.0, 10.0], ct=ct)
    order = np.random.default_rng(0).permutation(SHAPE[2] * n)
    expected = np.empty((n, *SHAPE))
    for place, frame in enumerate(order):
        k, echo = divmod(int(frame), n)
        slope, intercept = scales[place % 3]
        expected[echo, :, :, k] = data[:, :, k, echo] * slope + intercept
    expected = np.roll(expected, order[0] % n, 0)  # the volume of the first frame comes first
    volume = read_volume(tmp_path / "in")
    assert np.array_equal(volume.data, expected.astype(np.float32))
    np.testing.assert_allclose(volume.source.affine, AFFINE, atol=1e-4)
    np.testing.assert_allclose(volume.spacing, (0.9, 1.1, 2.5), rtol=1e-5)
    assert volume.notes == ([] if ct else ["2 volumes, told apart by EffectiveEchoTime."])
    values = volume.data + np.random.default_rng(1).uniform(-3, 3, volume.data.shape).astype(np.float32)
    save_volume(np.maximum(values, 10), volume, tmp_path / "out")
    again = read_volume(tmp_path / "out")
    assert np.abs(again.data - np.maximum(values, 10)).max() <= 1 + 1e-4
    assert np.array_equal(again.source.affine, volume.source.affine)
    before, after = pydicom.dcmread(path), pydicom.dcmread(tmp_path / "out" / "IM1.dcm")
    assert after.SOPClassUID == before.SOPClassUID
    assert after.SOPInstanceUID != before.SOPInstanceUID
    assert after.NumberOfFrames == before.NumberOfFrames
    kind = "CT" if ct else "MR"
    for old, new in zip(before.PerFrameFunctionalGroupsSequence, after.PerFrameFunctionalGroupsSequence):
        for macro in ("PlanePositionSequence", "PixelValueTransformationSequence"):
            assert new[macro].value == old[macro].value
        assert new[f"{kind}ImageFrameTypeSequence"][0].FrameType[0] == "DERIVED"


def test_enhanced_volumes_of_several_files_belong_together(tmp_path):
    data = np.random.default_rng(0).integers(0, 900, (*SHAPE, 2)).astype(np.uint16)
    uid = generate_uid()
    for echo in range(2):
        path = enhanced_image(
            tmp_path / "in" / f"IM{echo}", data[..., echo : echo + 1], AFFINE, echo_times=[5.0 + echo]
        )
        ds = pydicom.dcmread(path)
        ds.SeriesInstanceUID = uid
        ds.save_as(path)
    assert np.array_equal(read_volume(tmp_path / "in").data, np.moveaxis(data, -1, 0))


def test_enhanced_image_without_a_group_per_frame_refused(tmp_path):
    path = enhanced_image(tmp_path / "in" / "IM1", np.zeros((*SHAPE, 1), np.uint16), AFFINE)
    ds = pydicom.dcmread(path)
    ds.PerFrameFunctionalGroupsSequence = ds.PerFrameFunctionalGroupsSequence[:-1]
    ds.save_as(path)
    with pytest.raises(ValueError, match="a functional group per frame, got 6 of 7"):
        read_volume(tmp_path / "in")


@pytest.mark.parametrize(
    "name", ["693_J2KI.dcm", "JPEG2000.dcm", "JPGExtended.dcm", "JPEGLSNearLossless_16.dcm", "CT_small.dcm"]
)
def test_real_compressed_image_decoded_as_by_itk(name):
    import itk

    path = shipped(name)
    ds = pydicom.dcmread(path)
    stored = read_stored(path, 1, np.dtype("i2" if ds.PixelRepresentation else "u2"))[0].astype(float)
    expected = np.squeeze(itk.array_from_image(itk.imread(str(path)))).astype(float)
    slope, intercept = float(ds.get("RescaleSlope", 1)), float(ds.get("RescaleIntercept", 0))
    np.testing.assert_allclose(stored * slope + intercept, expected)
