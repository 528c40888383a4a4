# SPDX-License-Identifier: Apache-2.0
"""Files that are damaged, contradictory or of another kind, and what is said of each: docs/reference/errors.md."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import nrrd
import numpy as np
import pydicom
import tifffile
from conftest import phantom
from PIL import Image
from samples import dicom_series, enhanced_image, metaimage, metaimage_of, nifti_of, oblique_affine


class Case(NamedTuple):
    """A row of the table."""

    what: str  # the first column of docs/reference/errors.md
    code: int
    message: str  # what the last line says, after "error: "; the third column
    make: Callable[[Path], list]  # makes the files in a folder, returns options in place of -i IN -o OUT
    command: tuple[str, ...] = ("denoise", "--device", "cpu")
    of_a_file: bool = True  # whether the line names one


DATA = phantom((12, 11, 10))[1]
ZIPPED = gzip.compress(b"no image")


def nifti(folder: Path, data: np.ndarray, name: str = "in.nii.gz") -> Path:
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), folder / name)
    return folder / name


def changed(voxel: float) -> np.ndarray:
    data = DATA.copy()
    data[3, 3, 3] = voxel
    return data


def io(path: Path, out: str | None = None) -> list:
    suffix = "".join(Path(path.name).suffixes[-2:]) if path.name.endswith(".gz") else path.suffix
    return ["-i", path, "-o", path.parent / (out or f"out{suffix}")]


def cut(path: Path, part: float = 0.5) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    return path


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def rgb_nifti(folder: Path) -> list:
    colors = np.zeros((9, 9, 9), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    return io(nifti(folder, colors))


def huge_nifti(folder: Path) -> list:
    path = nifti(folder, np.zeros((2, 2, 2), np.float32), "in.nii")
    content = bytearray(path.read_bytes())
    content[42:48] = np.array([30000, 30000, 30000], "<i2").tobytes()
    path.write_bytes(content)
    return io(path)


def lonely_header(folder: Path) -> list:
    nibabel.save(nibabel.Nifti1Pair(DATA, np.eye(4)), folder / "in.hdr")
    (folder / "in.img").unlink()
    return io(folder / "in.hdr")


def nrrd_file(folder: Path, **header) -> Path:
    nrrd.write(str(folder / "in.nrrd"), DATA, {"encoding": "raw", **header})
    return folder / "in.nrrd"


def color_nrrd(folder: Path) -> list:
    nrrd.write(str(folder / "in.nrrd"), np.zeros((3, 9, 9), np.uint8), {"kinds": ["RGB-color", "domain", "domain"]})
    return io(folder / "in.nrrd")


def mha(folder: Path, name: str = "in.mha") -> Path:
    metaimage(folder / name, DATA, oblique_affine())
    return folder / name


def lonely_mhd(folder: Path) -> list:
    path = mha(folder, "in.mhd")
    for raw in folder.glob("*raw"):
        raw.unlink()
    return io(path)


def vector_mha(folder: Path) -> list:
    text = "ObjectType = Image\nNDims = 2\nDimSize = 8 8\nElementType = MET_UCHAR\nElementNumberOfChannels = 3\n"
    content = text.encode() + b"ElementDataFile = LOCAL\n" + bytes(192)
    return io(written(folder / "in.mha", content))


def tiff(folder: Path, data: np.ndarray = DATA, **options) -> Path:
    tifffile.imwrite(folder / "in.tif", data, **options)
    return folder / "in.tif"


def mixed_tiff(folder: Path) -> list:
    with tifffile.TiffWriter(folder / "in.tif") as writer:
        for shape in ((9, 9), (12, 8)):
            writer.write(np.zeros(shape, np.uint8), photometric="minisblack", metadata=None)
    return io(folder / "in.tif")


def png(folder: Path, mode: str = "L") -> Path:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 20), dtype=np.uint8)).convert(mode).save(
        folder / "in.png"
    )
    return folder / "in.png"


def npy(folder: Path, data: np.ndarray, **options) -> list:
    np.save(folder / "in.npy", data, **options)
    return io(folder / "in.npy")


def series(folder: Path, spoil: Callable[[list[Path]], object] = lambda paths: None) -> list:
    data = np.random.default_rng(0).integers(0, 99, (12, 11, 8)).astype(np.int16)
    spoil(dicom_series(folder / "in", data, oblique_affine()))
    return ["-i", folder / "in", "-o", folder / "out"]


def edited(**values) -> Callable[[list[Path]], None]:
    def edit(paths: list[Path]) -> None:
        ds = pydicom.dcmread(paths[2])
        for keyword, value in values.items():
            setattr(ds, keyword, value)
        ds.save_as(paths[2])

    return edit


def mha_text(folder: Path, voxels: bytes = bytes(1024), **fields: str) -> list:
    """A MetaImage of 8 x 8 x 8 voxels with some fields of its header changed."""
    known = {"ObjectType": "Image", "NDims": "3", "DimSize": "8 8 8", "ElementType": "MET_SHORT"}
    return io(metaimage_of(folder / "in.mha", voxels, **{**known, **fields}))


def raw_nifti(folder: Path, name: str = "in.nii", **fields: Any) -> list:
    return io(nifti_of(folder / name, DATA, np.eye(4), **fields))


def raw_nrrd(folder: Path, changes: str = "", n_bytes: int = 1024, directions: str = "(1,0,0) (0,1,0) (0,0,1)") -> list:
    text = "NRRD0004\ntype: short\ndimension: 3\nsizes: 8 8 8\nspace: left-posterior-superior\n"
    text += f"space directions: {directions}\nencoding: raw\nendian: little\n{changes}\n"
    return io(written(folder / "in.nrrd", text.encode() + bytes(n_bytes)))


def renamed(path: Path, name: str) -> list:
    return io(path.rename(path.with_name(name)))


def changed_byte(path: Path, place: float = 0.7) -> list:
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 4
    path.write_bytes(content)
    return io(path)


def longer(path: Path) -> list:
    path.write_bytes(path.read_bytes() + bytes(4))
    return io(path)


def analyze(folder: Path) -> list:
    nibabel.save(nibabel.AnalyzeImage(DATA, np.eye(4)), folder / "in.hdr")
    return io(folder / "in.hdr")


def all_of(folder: Path, **values: Any) -> list:
    """A series whose images all have some values changed."""

    def edit(paths: list[Path]) -> None:
        for path in paths:
            ds = pydicom.dcmread(path)
            for keyword, value in values.items():
                if value is None:
                    delattr(ds, keyword)
                else:
                    setattr(ds, keyword, value)
            ds.save_as(path)

    return series(folder, edit)


def twice(paths: list[Path]) -> None:
    (paths[0].parent / "copy").write_bytes(paths[0].read_bytes())


def mixed(paths: list[Path]) -> None:
    """Two images at every position that nothing tells apart."""
    for path in paths:
        ds = pydicom.dcmread(path)
        ds.SOPInstanceUID = pydicom.uid.generate_uid()
        ds.save_as(path.with_name(f"more{path.name}"))


def cut_before_its_size(paths: list[Path]) -> None:
    content = paths[-1].read_bytes()
    paths[-1].write_bytes(content[: content.index(b"\x28\x00\x10\x00")])


def syntax(uid: str) -> Callable[[list[Path]], None]:
    def edit(paths: list[Path]) -> None:
        for path in paths:
            ds = pydicom.dcmread(path)
            ds.file_meta.TransferSyntaxUID = pydicom.uid.UID(uid)
            ds.PixelData = pydicom.encaps.encapsulate([bytes(20)])
            ds["PixelData"].is_undefined_length, ds["PixelData"].VR = True, "OB"
            ds.save_as(path)

    return edit


def enhanced(folder: Path, spoil: Callable[[pydicom.Dataset], object]) -> list:
    path = enhanced_image(folder / "in" / "IM1", np.zeros((9, 9, 8, 1), np.uint16), oblique_affine())
    ds = pydicom.dcmread(path)
    spoil(ds)
    ds.save_as(path)
    return ["-i", folder / "in", "-o", folder / "out"]


def ome(folder: Path, text: str) -> list:
    start = '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:1">'
    if not text.startswith("<Binary"):
        text = (
            '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="12" SizeY="11" '
            f'SizeZ="1" SizeC="2" SizeT="1">{text}</Pixels></Image>'
        )
    data = np.ones((11, 12), np.uint16)
    tifffile.imwrite(folder / "in.ome.tif", data, description=f"{start}{text}</OME>", metadata=None)
    return io(folder / "in.ome.tif", "out.ome.tif")


def plane(name: str, uuid: int, channel: int = 0) -> str:
    identity = f'<UUID FileName="{name}">urn:uuid:{uuid}</UUID>'
    return f'<TiffData FirstC="{channel}" IFD="0" PlaneCount="1">{identity}</TiffData>'


def ome_partner(folder: Path) -> list:
    tifffile.imwrite(folder / "first.ome.tif", np.ones((11, 12), np.uint16))
    return ome(folder, plane("first.ome.tif", 2) + plane("in.ome.tif", 1, 1))


def two_images(folder: Path) -> list:
    with tifffile.TiffWriter(folder / "in.ome.tif", ome=True) as writer:
        for _ in range(2):
            writer.write(np.zeros((9, 9), np.uint8), photometric="minisblack", metadata={"axes": "YX"})
    return io(folder / "in.ome.tif", "out.ome.tif")


def animated(folder: Path) -> list:
    frames = [Image.fromarray(np.full((9, 9), k, np.uint8)) for k in range(3)]
    frames[0].save(folder / "in.png", save_all=True, append_images=frames[1:])
    return io(folder / "in.png")


def dangling(folder: Path) -> list:
    (folder / "out.nii.gz").symlink_to(folder / "nowhere")
    return io(nifti(folder, DATA))


RGBA = {"photometric": "rgb", "extrasamples": ["unassalpha"]}
WHITE = {"photometric": "minisblack", "metadata": None}
JUNK = b"\x93NUMPY no array " * 9


FILE_CASES = [
    Case("OUT is a link to nowhere", 2, "OUT must not exist yet", dangling),
    Case("gzip named .nii", 1, "must end in .gz where", lambda f: renamed(nifti(f, DATA), "in.nii")),
    Case(
        "NIfTI named .nii.gz", 1, "must not end in .gz where", lambda f: renamed(nifti(f, DATA, "a.nii"), "in.nii.gz")
    ),
    Case("flipped bit in .nii.gz", 1, "readable NIfTI file", lambda f: changed_byte(nifti(f, DATA))),
    Case("bytes after the voxels of .nii", 1, "4 bytes after the voxels", lambda f: longer(nifti(f, DATA, "in.nii"))),
    Case("Analyze 7.5", 1, "got Analyze 7.5", analyze),
    Case(
        "NIfTI with a side of NaN",
        1,
        "voxel sides must be positive",
        lambda f: raw_nifti(f, pixdim=[1, np.nan, *[1] * 6]),
    ),
    Case(
        "NIfTI with an endless side",
        1,
        "voxel sides must be positive",
        lambda f: raw_nifti(f, pixdim=[1, np.inf, *[1] * 6]),
    ),
    Case(
        "NIfTI with an affine of zeros",
        1,
        "affine must lead along 3 axes",
        lambda f: raw_nifti(f, sform_code=1, srow_x=0, srow_y=0, srow_z=0),
    ),
    Case("NIfTI with an unknown unit", 1, "xyzt_units must be a code of NIfTI", lambda f: raw_nifti(f, xyzt_units=255)),
    Case("NIfTI of an unknown type", 1, "readable NIfTI file", lambda f: raw_nifti(f, datatype=9999)),
    Case("NIfTI of no axes", 1, "readable NIfTI file", lambda f: raw_nifti(f, dim=0)),
    Case("NIfTI with a negative size", 1, "NIfTI file", lambda f: raw_nifti(f, dim=[3, -5, 5, 5, 1, 1, 1, 1])),
    Case(
        "NIfTI of more voxels than it holds", 1, "NIfTI file", lambda f: raw_nifti(f, dim=[3, 12, 11, 12, 1, 1, 1, 1])
    ),
    Case(
        "NIfTI of fewer voxels than it holds",
        1,
        "after the voxels",
        lambda f: raw_nifti(f, dim=[3, 12, 11, 9, 1, 1, 1, 1]),
    ),
    Case("NRRD of zero bytes", 1, "which is empty", lambda f: io(written(f / "in.nrrd", b""))),
    Case("text named .nrrd", 1, "readable NRRD file", lambda f: io(written(f / "in.nrrd", b"no image"))),
    Case(
        "NRRD with a direction of zeros",
        1,
        "voxel sides must be positive",
        lambda f: raw_nrrd(f, "", 1024, "(1,0,0) (0,0,0) (0,0,1)"),
    ),
    Case(
        "NRRD with two like directions",
        1,
        "affine must lead along 3 axes",
        lambda f: raw_nrrd(f, "", 1024, "(1,0,0) (1,0,0) (0,0,1)"),
    ),
    Case(
        "NRRD with two directions for three axes",
        1,
        "readable NRRD file",
        lambda f: raw_nrrd(f, "", 1024, "(1,0,0) (0,1,0)"),
    ),
    Case(
        "NRRD whose voxels lie elsewhere",
        1,
        "data file must be a file beside",
        lambda f: raw_nrrd(f, "data file: ../x.raw\n"),
    ),
    Case("NRRD of fewer voxels than it holds", 1, "Size of the data does not equal", lambda f: raw_nrrd(f, "", 1028)),
    Case("NRRD of more voxels than it holds", 1, "readable NRRD file", lambda f: raw_nrrd(f, "", 1000)),
    Case(
        "flipped bit in compressed NRRD", 1, "readable NRRD file", lambda f: changed_byte(nrrd_file(f, encoding="gzip"))
    ),
    Case("flipped bit in compressed MHA", 1, "readable MetaImage", lambda f: changed_byte(mha(f))),
    Case("text named .mha", 1, "readable MetaImage", lambda f: io(written(f / "in.mha", b"no image"))),
    Case("MHA of -1 axes", 1, "NDims must be 2, 3 or 4, got -1", lambda f: mha_text(f, NDims="-1")),
    Case("MHA of 99 axes", 1, "NDims must be 2, 3 or 4, got 99", lambda f: mha_text(f, NDims="99")),
    Case("MHA without a number of axes", 1, "NDims must be 2, 3 or 4, got none", lambda f: mha_text(f, NDims="")),
    Case("MHA of two sizes for three axes", 1, "DimSize must be 3 numbers", lambda f: mha_text(f, DimSize="8 8")),
    Case("MHA with a negative size", 1, "DimSize must be 3 numbers above 0", lambda f: mha_text(f, DimSize="8 -8 8")),
    Case("MHA of terabytes", 1, "image must fit into memory", lambda f: mha_text(f, DimSize="90000 90000 90000")),
    Case("MHA of fewer voxels than it holds", 1, "more than 896 bytes", lambda f: mha_text(f, DimSize="8 8 7")),
    Case("MHA of more voxels than it holds", 1, "1024 of 1152 bytes", lambda f: mha_text(f, DimSize="8 8 9")),
    Case("MHA of an unknown type", 1, "ElementType must be one of", lambda f: mha_text(f, ElementType="MET_LONG")),
    Case("MHA with a side of 0", 1, "voxel sides must be positive", lambda f: mha_text(f, ElementSpacing="1 0 1")),
    Case(
        "MHA with a side that is no number",
        1,
        "ElementSpacing must be 3 numbers",
        lambda f: mha_text(f, ElementSpacing="1 x 1"),
    ),
    Case("MHA with like directions", 1, "affine must lead", lambda f: mha_text(f, TransformMatrix="1 0 0 1 0 0 0 0 1")),
    Case("MHA that says compressed and is not", 1, "readable MetaImage", lambda f: mha_text(f, CompressedData="True")),
    Case("MHA of text", 1, "BinaryData must be True", lambda f: mha_text(f, BinaryData="False")),
    Case(
        "MHA with an offset",
        1,
        "got a slope or an offset",
        lambda f: mha_text(f, ElementToIntensityFunctionOffset="-1000"),
    ),
    Case(
        "MHA of a list of files",
        1,
        "ElementDataFile must be a file beside",
        lambda f: mha_text(f, ElementDataFile="LIST"),
    ),
    Case(
        "MHA whose voxels lie elsewhere",
        1,
        "ElementDataFile must be a file beside",
        lambda f: mha_text(f, ElementDataFile="/dev/zero"),
    ),
    Case("MHA of another object", 1, "ObjectType must be Image", lambda f: mha_text(f, ObjectType="Mesh")),
    Case("text named .tif", 1, "readable TIFF file", lambda f: io(written(f / "in.tif", b"no image"))),
    Case("TIFF stack cut in half", 1, "readable TIFF file", lambda f: io(cut(tiff(f, **WHITE)))),
    Case(
        "TIFF of two channels",
        1,
        "got 2-channel voxels",
        lambda f: io(tiff(f, np.zeros((2, 9, 9), np.uint8), planarconfig="separate", **WHITE)),
    ),
    Case("TIFF with transparency", 1, "got RGB voxels", lambda f: io(tiff(f, np.zeros((9, 9, 4), np.uint8), **RGBA))),
    Case(
        "TIFF of a palette",
        1,
        "got PALETTE voxels",
        lambda f: io(
            tiff(f, np.zeros((9, 9), np.uint8), photometric="palette", colormap=np.zeros((3, 256), np.uint16))
        ),
    ),
    Case(
        "OME set without its partner",
        1,
        "complete OME set, got",
        lambda f: ome(f, plane("in.ome.tif", 1) + plane("no.ome.tif", 2, 1)),
    ),
    Case("second file of an OME set", 1, "first file of its OME set", ome_partner),
    Case(
        "OME set in several folders",
        1,
        "OME set in one folder",
        lambda f: ome(f, plane("in.ome.tif", 1) + plane("../no.ome.tif", 2, 1)),
    ),
    Case(
        "OME description in another file",
        1,
        "must hold its own OME description",
        lambda f: ome(f, '<BinaryOnly MetadataFile="a.companion.ome" UUID="urn:uuid:3"/>'),
    ),
    Case("OME file of two images", 1, "one image or stack, got 2", two_images),
    Case(
        "curved calibration of ImageJ",
        1,
        "no straight line",
        lambda f: io(tiff(f, np.zeros((9, 9), np.uint16), imagej=True, metadata={"cf": 4, "c0": 1.0, "c1": 2.0})),
    ),
    Case("flipped bit in PNG", 1, "readable PNG image", lambda f: changed_byte(png(f))),
    Case("text named .png", 1, "readable PNG image", lambda f: io(written(f / "in.png", b"no image"))),
    Case("PNG of gray and transparency", 1, "got gray and transparency voxels", lambda f: io(png(f, "LA"))),
    Case("PNG of one bit", 1, "got one-bit voxels", lambda f: io(png(f, "1"))),
    Case("PNG of several frames", 1, "got 3 frames", animated),
    Case("text named .npy", 1, "readable NumPy array", lambda f: io(written(f / "in.npy", JUNK))),
    Case(
        "truncated NPY",
        1,
        "readable NumPy array",
        lambda f: [*npy(f, DATA)[:1], cut(f / "in.npy"), "-o", f / "out.npy"],
    ),
    Case(
        "NPY of fewer voxels than it holds",
        1,
        "4 bytes after the array",
        lambda f: [*npy(f, DATA)[:1], longer(f / "in.npy")[1], "-o", f / "out.npy"],
    ),
    Case("NPY of five axes", 1, "2 or 3 spatial axes", lambda f: npy(f, np.zeros((3, 3, 3, 3, 0), np.float32))),
    Case(
        "folder of text named .dcm",
        1,
        "readable DICOM file",
        lambda f: series(f, lambda p: written(p[0].parent / "x.dcm", b"no")),
    ),
    Case("DICOM cut before its size", 1, "image must have Rows, got none", lambda f: series(f, cut_before_its_size)),
    Case("DICOM image that is there twice", 1, "series must hold every image once", lambda f: series(f, twice)),
    Case("DICOM images that nothing tells apart", 1, "nothing that differs between", lambda f: series(f, mixed)),
    Case(
        "one DICOM image without position",
        1,
        "7 images with and 1 without",
        lambda f: series(f, edited(ImagePositionPatient=None)),
    ),
    Case(
        "DICOM without positions and numbers",
        1,
        "one InstanceNumber or none",
        lambda f: all_of(f, ImagePositionPatient=None, InstanceNumber=None),
    ),
    Case(
        "DICOM of mixed orientations",
        1,
        "series must have one ImageOrientationPatient",
        lambda f: series(f, edited(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])),
    ),
    Case(
        "DICOM of mixed spacings",
        1,
        "series must have one PixelSpacing",
        lambda f: series(f, edited(PixelSpacing=[3, 3])),
    ),
    Case(
        "DICOM with one number as spacing", 1, "PixelSpacing must be 2 numbers", lambda f: all_of(f, PixelSpacing=[1])
    ),
    Case("DICOM with a spacing of 0", 1, "voxel sides must be positive", lambda f: all_of(f, PixelSpacing=[0, 0])),
    Case(
        "DICOM with two numbers as position",
        1,
        "ImagePositionPatient must be 3 numbers",
        lambda f: all_of(f, ImagePositionPatient=[1, 2]),
    ),
    Case(
        "DICOM with skewed directions",
        1,
        "two directions at right angles",
        lambda f: all_of(f, ImageOrientationPatient=[1, 0, 0, 1, 0, 0]),
    ),
    Case("DICOM with a slope of 0", 1, "RescaleSlope must not be 0", lambda f: series(f, edited(RescaleSlope=0))),
    Case(
        "DICOM of 64 bits",
        1,
        "stored in 8, 16 or 32 bits, got 64",
        lambda f: all_of(f, BitsAllocated=64, BitsStored=64, HighBit=63),
    ),
    Case("DICOM with bits in the middle", 1, "HighBit must be 11", lambda f: all_of(f, BitsStored=12)),
    Case("DICOM with too few voxels", 1, "PixelData holds 20 bytes", lambda f: series(f, edited(PixelData=bytes(20)))),
    Case(
        "DICOM with too many voxels",
        1,
        "PixelData holds 528 bytes of 264",
        lambda f: series(f, edited(PixelData=b"x" * 528)),
    ),
    Case(
        "Siemens mosaic that tells no number of slices",
        1,
        "image must tell how many slices its mosaic holds",
        lambda f: all_of(f, ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"]),
    ),
    Case("DICOM of a palette", 1, "got RGB voxels", lambda f: all_of(f, PhotometricInterpretation="PALETTE COLOR")),
    Case(
        "DICOM of a film",
        1,
        "TransferSyntaxUID must be one that is read",
        lambda f: series(f, syntax("1.2.840.10008.1.2.4.102")),
    ),
    Case("damaged JPEG-LS in DICOM", 1, "readable DICOM image", lambda f: series(f, syntax("1.2.840.10008.1.2.4.80"))),
    Case(
        "damaged JPEG 2000 in DICOM", 1, "readable DICOM image", lambda f: series(f, syntax("1.2.840.10008.1.2.4.90"))
    ),
    Case(
        "damaged lossless JPEG in DICOM",
        1,
        "readable DICOM image",
        lambda f: series(f, syntax("1.2.840.10008.1.2.4.70")),
    ),
    Case(
        "enhanced DICOM without a group per frame",
        1,
        "a functional group per frame, got 7 of 8",
        lambda f: enhanced(f, lambda ds: ds.PerFrameFunctionalGroupsSequence.pop()),
    ),
    Case(
        "enhanced DICOM without a position",
        1,
        "7 images with and 1 without",
        lambda f: enhanced(f, lambda ds: delattr(ds.PerFrameFunctionalGroupsSequence[2], "PlanePositionSequence")),
    ),
    Case(
        "--series that is not there", 1, "path must hold one series 9, got 1", lambda f: [*series(f), "--series", "9"]
    ),
]
