# SPDX-License-Identifier: Apache-2.0
"""Damaged and contradictory files end in a sentence: never in other voxels than were written."""

from __future__ import annotations

import gzip
import logging
import shutil
import uuid

import nibabel
import nrrd
import numpy as np
import pytest
import tifffile
from PIL import Image
from samples import metaimage, metaimage_of, nifti_of, oblique_affine

from monai_n2v.io.find import find_images
from monai_n2v.io.images import read_volume, save_volume

NOISE = np.random.default_rng(0).normal(size=(18, 17, 16)).astype(np.float32)


def flipped_bits(path, n: int = 40):
    """Copies of a file with one bit flipped, all over its second half."""
    content = path.read_bytes()
    for place in np.linspace(len(content) // 2, len(content) - 1, n).astype(int):
        changed = bytearray(content)
        changed[place] ^= 4
        copy = path.with_name(f"changed{path.name}")
        copy.write_bytes(changed)
        yield copy


def write_nifti(path):
    nibabel.save(nibabel.Nifti1Image(NOISE, np.eye(4)), path)


def write_nrrd(path):
    nrrd.write(str(path), NOISE, {"encoding": "gzip"})


def write_png(path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40), dtype=np.uint8)).save(path)


def write_tiff(path):
    tifffile.imwrite(path, NOISE, compression="zlib", photometric="minisblack")


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("x.nii.gz", write_nifti),
        ("x.mha", lambda path: metaimage(path, NOISE, oblique_affine())),
        ("x.nrrd", write_nrrd),
        ("x.png", write_png),
        ("x.tif", write_tiff),
    ],
)
def test_flipped_bit_in_compressed_voxels_never_changes_one(name, write, tmp_path):
    write(tmp_path / name)
    right = read_volume(tmp_path / name).data
    told = []
    for path in flipped_bits(tmp_path / name):
        try:
            data = read_volume(path).data
        except ValueError as error:
            told.append(str(error))
        else:
            assert np.array_equal(data, right)
    assert len(told) > 20
    assert all(str(path) in sentence for sentence in told)


HEADER = {"ObjectType": "Image", "NDims": "3", "DimSize": "4 5 6", "ElementType": "MET_SHORT"}


def mha(path, voxels: bytes = bytes(240), data_file: str = "LOCAL", **fields):
    return metaimage_of(path, voxels, **{**HEADER, **fields, "ElementDataFile": data_file})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"NDims": "-1"}, "NDims must be 2, 3 or 4, got -1"),
        ({"NDims": "99"}, "NDims must be 2, 3 or 4, got 99"),
        ({"NDims": "x"}, "NDims must be 1 number, got x"),
        ({"DimSize": "4 5"}, "DimSize must be 3 numbers, got 4 5"),
        ({"DimSize": "4 -5 6"}, "DimSize must be 3 numbers above 0"),
        ({"DimSize": "9999999 9999999 9999999"}, "must fit into memory"),
        ({"DimSize": "4 5 5"}, "more than 200 bytes of voxels"),
        ({"DimSize": "4 5 7"}, "240 of 280 bytes of voxels"),
        ({"ElementType": "MET_OTHER"}, "ElementType must be one of"),
        ({"ElementSpacing": "1 0 1"}, "voxel sides must be positive numbers, got 1, 0, 1"),
        ({"ElementSpacing": "1 nan 1"}, "ElementSpacing must be 3 numbers"),
        ({"TransformMatrix": "1 0 0 1 0 0 0 0 1"}, "affine must lead along 3 axes"),
        ({"CompressedData": "True"}, "readable MetaImage"),
        ({"CompressedData": "Perhaps"}, "CompressedData must be True or False"),
        ({"BinaryData": "False"}, "BinaryData must be True"),
        ({"ObjectType": "Mesh"}, "ObjectType must be Image, got Mesh"),
        ({"data_file": "LIST"}, "ElementDataFile must be a file beside the header, got LIST"),
        ({"data_file": "/etc/passwd"}, "beside the header, got /etc/passwd"),
        ({"data_file": "../x.raw"}, "beside the header, got ../x.raw"),
        ({"data_file": "x%03d.raw 1 6 1"}, "beside the header, got x%03d"),
    ],
)
def test_metaimage_header_is_not_trusted(fields, message, tmp_path):
    path = mha(tmp_path / "x.mha", **fields)
    with pytest.raises(ValueError, match=message) as error:
        read_volume(path)
    assert str(path) in str(error.value)


def test_metaimage_read_as_itk_reads_it(tmp_path):
    import itk

    voxels = np.arange(120, dtype=">i2")
    geometry = {"Offset": "1 2 3", "ElementSpacing": "0.5 2 3", "TransformMatrix": "0 1 0 -1 0 0 0 0 1"}
    path = mha(tmp_path / "x.mha", voxels.tobytes(), BinaryDataByteOrderMSB="True", note="größer", **geometry)
    image, volume = itk.imread(str(path)), read_volume(path)
    assert np.array_equal(volume.data[0], itk.array_from_image(image).T)
    np.testing.assert_allclose(volume.source.direction, itk.array_from_matrix(image.GetDirection()))
    np.testing.assert_allclose(volume.source.origin, image.GetOrigin())
    np.testing.assert_allclose(volume.spacing, image.GetSpacing())
    save_volume(volume.data, volume, tmp_path / "y.mha", "input")
    again = read_volume(tmp_path / "y.mha")
    assert np.array_equal(again.data, volume.data)
    np.testing.assert_allclose(again.source.affine, volume.source.affine)


def test_header_size_of_metaimage_is_skipped(tmp_path):
    (tmp_path / "x.raw").write_bytes(bytes(16) + np.arange(120, dtype="<i2").tobytes())
    for size in ("16", "-1"):
        volume = read_volume(mha(tmp_path / "x.mhd", b"", "x.raw", HeaderSize=size))
        assert volume.data[0, 1, 2, 3] == 1 + 2 * 4 + 3 * 20


@pytest.mark.parametrize(("new", "old"), [("x.nii", "x.nii.gz"), ("x.nii.gz", "x.nii")])
def test_ending_that_tells_another_compression_is_named(new, old, tmp_path):
    nibabel.save(nibabel.Nifti1Image(NOISE, np.eye(4)), tmp_path / old)
    shutil.move(tmp_path / old, tmp_path / new)
    with pytest.raises(ValueError, match=r"must (not )?end in \.gz"):
        read_volume(tmp_path / new)


def test_analyze_named(tmp_path):
    nibabel.save(nibabel.AnalyzeImage(NOISE, np.eye(4)), tmp_path / "x.hdr")
    with pytest.raises(ValueError, match=r"got Analyze 7.5 in .*does not tell left from right"):
        read_volume(tmp_path / "x.hdr")


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz", "x.npy"])
def test_bytes_after_the_voxels_refused(name, tmp_path):
    """A header that tells of fewer voxels than the file holds would shift them all."""
    path = tmp_path / name
    np.save(path, NOISE) if name == "x.npy" else write_nifti(path)
    content = path.read_bytes()
    path.write_bytes(gzip.compress(gzip.decompress(content) + bytes(4)) if name[-1] == "z" else content + bytes(4))
    with pytest.raises(ValueError, match=r"4 bytes after the (voxels|array)"):
        read_volume(path)


def spoiled_nifti(path, **fields):
    return nifti_of(path, NOISE, np.diag([1, 2, 3, 1]), **fields)


@pytest.mark.parametrize("side", [np.nan, np.inf])
def test_side_that_is_no_number_refused(side, tmp_path):
    path = spoiled_nifti(tmp_path / "x.nii", pixdim=[1, 1, side, 3, 1, 1, 1, 1])
    with pytest.raises(ValueError, match="voxel sides must be positive numbers"):
        read_volume(path)


@pytest.mark.parametrize(("side", "taken"), [(0, 1), (-2, 2)])
def test_side_that_nibabel_replaces_is_noted(side, taken, tmp_path, capfd):
    volume = read_volume(spoiled_nifti(tmp_path / "x.nii", pixdim=[1, 1, side, 3, 1, 1, 1, 1]))
    assert volume.spacing == (1, taken, 3)
    assert volume.notes == [f"pixdim[2] of the header is {side}: a voxel side of {taken} is taken."]
    assert capfd.readouterr().err == ""


def test_unknown_unit_named(tmp_path):
    with pytest.raises(ValueError, match="xyzt_units must be a code of NIfTI, got 255 for"):
        read_volume(spoiled_nifti(tmp_path / "x.nii", xyzt_units=255))


def test_affine_of_zeros_refused(tmp_path):
    path = spoiled_nifti(tmp_path / "x.nii", sform_code=1, srow_x=0, srow_y=0, srow_z=0)
    with pytest.raises(ValueError, match="affine must lead along 3 axes"):
        read_volume(path)


@pytest.mark.parametrize("logs", [True, False])
@pytest.mark.parametrize("kind", ["plain", "imagej", "one page", "shaped"])
def test_cut_stack_refused_whatever_is_logged(kind, logs, tmp_path):
    data = np.random.default_rng(0).integers(0, 99, (6, 40, 40)).astype(np.uint16)
    options = {"plain": {"metadata": None}, "shaped": {}}.get(kind, {"imagej": True})
    tifffile.imwrite(tmp_path / "x.tif", data, photometric="minisblack", **options)
    content = (tmp_path / "x.tif").read_bytes()
    if kind == "one page":  # as of a hyperstack of several GB, whose other planes lie behind it
        with tifffile.TiffFile(tmp_path / "x.tif") as file:
            page = file.pages[0]
            place = page.offset + 2 + 12 * len(page.tags)
        content = content[:place] + bytes(4) + content[place + 4 :]
    (tmp_path / "x.tif").write_bytes(content[: len(content) // 2])
    logging.disable(logging.NOTSET if logs else logging.CRITICAL)
    try:
        with pytest.raises(ValueError, match="readable TIFF file"):
            read_volume(tmp_path / "x.tif")
    finally:
        logging.disable(logging.NOTSET)


def ome_set(folder, n: int = 2) -> tuple[list, np.ndarray]:
    identities = [f"urn:uuid:{uuid.uuid4()}" for _ in range(n)]
    names = [f"set_C{k}.ome.tif" for k in range(n)]
    planes = np.random.default_rng(0).integers(1, 99, (n, 12, 16)).astype(np.uint16)
    places = "".join(
        f'<TiffData FirstC="{k}" FirstZ="0" FirstT="0" IFD="0" PlaneCount="1"><UUID FileName="{names[k]}">'
        f"{identities[k]}</UUID></TiffData>"
        for k in range(n)
    )
    for k in range(n):
        description = (
            f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="{identities[k]}">'
            f'<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="16" '
            f'SizeY="12" SizeZ="1" SizeC="{n}" SizeT="1">{places}</Pixels></Image></OME>'
        )
        tifffile.imwrite(folder / names[k], planes[k], description=description, metadata=None)
    return [folder / name for name in names], planes


def test_ome_set_is_read_once_and_whole(tmp_path):
    paths, planes = ome_set(tmp_path)
    assert find_images(tmp_path) == [{"image": str(paths[0])}]
    volume = read_volume(paths[0])
    assert np.array_equal(volume.data, planes.transpose(0, 2, 1))
    with pytest.raises(ValueError, match=r"first file of its OME set, got .*Pass set_C0"):
        read_volume(paths[1])
    save_volume(volume.data, volume, tmp_path / "out" / "set_C0.ome.tif", "input")
    assert np.array_equal(read_volume(tmp_path / "out" / "set_C0.ome.tif").data, volume.data)


def test_part_of_an_ome_set_refused(tmp_path):
    paths, _ = ome_set(tmp_path)
    paths[0].unlink()
    with pytest.raises(ValueError, match=r"complete OME set, got .*set_C1.ome.tif without set_C0.ome.tif"):
        read_volume(paths[1])


def test_renamed_ome_file_is_known_by_its_identity(tmp_path):
    paths, planes = ome_set(tmp_path, 1)
    shutil.move(paths[0], tmp_path / "mine.ome.tif")
    assert np.array_equal(read_volume(tmp_path / "mine.ome.tif").data[0], planes[0].T)


def test_two_images_in_an_ome_file_counted(tmp_path):
    with tifffile.TiffWriter(tmp_path / "x.ome.tif", ome=True) as writer:
        for _ in range(2):
            writer.write(np.zeros((12, 16), np.uint8), photometric="minisblack", metadata={"axes": "YX"})
    with pytest.raises(ValueError, match="must hold one image or stack, got 2 in"):
        read_volume(tmp_path / "x.ome.tif")


@pytest.mark.parametrize("function", [{"cf": 0}, {}])
def test_calibration_of_imagej_is_applied_once(function, tmp_path):
    hounsfield = np.random.default_rng(0).integers(-1024, 3000, (12, 14)).astype(np.int32)
    metadata = {**function, "c0": -32768.0, "c1": 1.0, "vunit": "Gray Value"}
    stored = (hounsfield + 32768).astype(np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", stored, imagej=True, metadata=metadata)
    volume = read_volume(tmp_path / "x.tif")
    assert np.array_equal(volume.data[0], hounsfield.T)
    save_volume(volume.data + 0.25, volume, tmp_path / "float.tif")
    with tifffile.TiffFile(tmp_path / "float.tif") as file:
        assert not {"c0", "c1", "cf"} & file.imagej_metadata.keys()
    assert np.array_equal(read_volume(tmp_path / "float.tif").data, volume.data + np.float32(0.25))
    save_volume(volume.data + 0.25, volume, tmp_path / "stored.tif", "input")
    assert np.array_equal(tifffile.imread(tmp_path / "stored.tif"), stored)
    assert np.array_equal(read_volume(tmp_path / "stored.tif").data, volume.data)


def test_curved_calibration_of_imagej_refused(tmp_path):
    metadata = {"cf": 4, "c0": 1.0, "c1": 2.0}
    tifffile.imwrite(tmp_path / "x.tif", np.zeros((12, 14), np.uint16), imagej=True, metadata=metadata)
    with pytest.raises(ValueError, match=r"cf=4, c0=1.0, c1=2.0, no straight line"):
        read_volume(tmp_path / "x.tif")


@pytest.mark.parametrize(
    ("mode", "found"), [("P", "palette"), ("LA", "gray and transparency"), ("1", "one-bit"), ("RGBA", "RGB")]
)
def test_png_without_gray_says_what_it_holds(mode, found, tmp_path):
    Image.fromarray(np.zeros((20, 20), np.uint8)).convert(mode).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match=f"got {found} voxels"):
        read_volume(tmp_path / "x.png")


def test_tiff_of_two_channels_says_so(tmp_path):
    options = {"planarconfig": "separate", "photometric": "minisblack", "metadata": None}
    tifffile.imwrite(tmp_path / "x.tif", np.zeros((2, 9, 9), np.uint8), **options)
    with pytest.raises(ValueError, match="got 2-channel voxels"):
        read_volume(tmp_path / "x.tif")


@pytest.mark.parametrize(("offset", "noted"), [(1e6, True), (-1e6, True), (1e4, False), (0, False)])
def test_offset_that_float32_cannot_hold_is_noted(offset, noted, tmp_path):
    np.save(tmp_path / "x.npy", offset + np.random.default_rng(0).normal(0, 0.18, (40, 40)))
    notes = read_volume(tmp_path / "x.npy").notes
    assert len(notes) == noted
    assert not noted or "rounded to steps of 0.0625 in float32, where they spread by 0.17" in notes[0]
