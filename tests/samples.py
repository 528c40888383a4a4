# SPDX-License-Identifier: Apache-2.0
"""Files of every format with everything they can carry, for round trips."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel
import nrrd
import numpy as np
import pydicom
import tifffile
import torch
from conftest import phantom
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)


def oblique_affine(spacing: tuple[float, ...] = (0.9, 1.1, 2.5), left_handed: bool = True) -> np.ndarray:
    """RAS affine, rotated about two axes."""
    c, s = np.cos(0.3), np.sin(0.3)
    rotation = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([-spacing[0] if left_handed else spacing[0], *spacing[1:]])
    affine[:3, 3] = [12.5, -30.25, 7.0]
    return affine


def nifti(path: Path, data: np.ndarray, affine: np.ndarray) -> None:
    pair = path.suffix in (".hdr", ".img")
    image = (nibabel.Nifti1Pair if pair else nibabel.Nifti1Image)(data, affine)
    image.header["descrip"] = b"a phantom"
    nibabel.save(image, path)


def nrrd_file(path: Path, data: np.ndarray, affine: np.ndarray) -> None:
    header = {
        "space": "left-posterior-superior",
        "space directions": (np.diag([-1, -1, 1]) @ affine[:3, :3]).T.tolist(),
        "space origin": (np.diag([-1, -1, 1]) @ affine[:3, 3]).tolist(),
        "kinds": ["domain"] * 3,
        "content": "a phantom",
        "DWMRI_b-value": "1000",
        "encoding": "gzip",
    }
    if data.ndim == 4:
        data = np.moveaxis(data, -1, 0)
        header["kinds"] = ["list", *header["kinds"]]
        header["space directions"] = [[np.nan] * 3, *header["space directions"]]
    nrrd.write(str(path), data, header)


def metaimage(path: Path, data: np.ndarray, affine: np.ndarray) -> None:
    import itk

    image = itk.image_from_array(np.ascontiguousarray(data.T))
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    n = data.ndim
    direction, sides, origin = np.eye(n), np.ones(n), np.zeros(n)
    if n >= 3:
        direction[:3, :3] = np.diag([-1, -1, 1]) @ affine[:3, :3] / spacing
        sides[:3], origin[:3] = spacing, np.diag([-1, -1, 1]) @ affine[:3, 3]
    image.SetDirection(itk.matrix_from_array(direction))
    image.SetSpacing(sides.tolist())
    image.SetOrigin(origin.tolist())
    image["note"] = "a phantom"
    itk.imwrite(image, str(path), compression=True)


def metaimage_of(path: Path, voxels: bytes, **fields: str) -> Path:
    """A MetaImage of a header as it is given, whatever it means; an empty field is left out."""
    lines = [f"{name} = {value}" for name, value in {"ElementDataFile": "LOCAL", **fields}.items() if value]
    lines.sort(key=lambda line: line.startswith("ElementDataFile"))  # the last one by the format's rule
    path.write_bytes("\n".join([*lines, ""]).encode() + voxels)
    return path


def nifti_of(path: Path, data: np.ndarray, affine: np.ndarray, **fields: Any) -> Path:
    """A NIfTI file with some fields of its header changed, whatever nibabel thinks of them."""
    image = nibabel.Nifti1Image(data, affine)
    image.header["qform_code"] = image.header["sform_code"] = 0
    content = bytearray(image.to_bytes())
    header = np.frombuffer(content, image.header.template_dtype, 1).copy()
    for field, value in fields.items():
        header[field] = value
    content[: header.nbytes] = header.tobytes()
    path.write_bytes(content)
    return path


def tiff_plain(path: Path, data: np.ndarray, affine: np.ndarray) -> None:
    options = {"description": "a phantom", "metadata": None, "resolution": (200, 100), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, np.ascontiguousarray(data.T), photometric="minisblack", compression="lzw", **options)


def tiff_imagej(path: Path, data: np.ndarray, affine: np.ndarray) -> None:
    metadata = {"axes": "TZYX"[-data.ndim :], "spacing": 1.5, "unit": "um", "Info": "a phantom", "finterval": 2.0}
    values = np.ascontiguousarray(data.T)
    tifffile.imwrite(path, values, imagej=True, resolution=(1 / 0.3, 1 / 0.4), metadata=metadata)


def tiff_ome(path: Path, data: np.ndarray, affine: np.ndarray) -> None:
    metadata = {"axes": "TZYX"[-data.ndim :], "Name": "a phantom ünder µscope"}
    metadata |= {f"PhysicalSize{a}{k}": v for a in "XYZ" for k, v in (("", 0.25), ("Unit", "µm"))}
    options = {"metadata": metadata, "compression": "zlib", "photometric": "minisblack"}
    tifffile.imwrite(path, np.ascontiguousarray(data.T), ome=True, **options)


def png(path: Path, data: np.ndarray, affine: np.ndarray) -> None:
    text = PngInfo()
    text.add_text("Comment", "a phantom")
    Image.fromarray(np.ascontiguousarray(data.T)).save(path, pnginfo=text, dpi=(100, 50))


def npy(path: Path, data: np.ndarray, affine: np.ndarray) -> None:
    np.save(path, data)


# Suffix, writer, stored types, numbers of axes.
FORMATS: dict[str, tuple[str, Callable[[Path, np.ndarray, np.ndarray], None], tuple[str, ...], tuple[int, ...]]] = {
    "nifti": (".nii.gz", nifti, ("uint8", "int16", "uint16", "int32", "float32", "float64"), (2, 3, 4)),
    "nifti pair": (".hdr", nifti, ("int16", "float32"), (3,)),
    "nrrd": (".nrrd", nrrd_file, ("int8", "uint8", "int16", "uint16", "int32", "float32", "float64"), (3, 4)),
    "mha": (".mha", metaimage, ("uint8", "int16", "uint16", "int32", "float32", "float64"), (2, 3, 4)),
    "mhd": (".mhd", metaimage, ("uint8", "int16", "float32"), (3,)),
    "tiff": (".tif", tiff_plain, ("uint8", "int16", "uint16", "float32"), (2, 3)),
    "imagej": (".tif", tiff_imagej, ("uint8", "uint16", "float32"), (2, 3, 4)),
    "ome": (".ome.tif", tiff_ome, ("uint8", "int16", "uint16", "float32"), (2, 3, 4)),
    "png": (".png", png, ("uint8", "uint16"), (2,)),
    "npy": (".npy", npy, ("uint8", "int16", "int64", "float32", "float64"), (2, 3, 4)),
}


def dicom_series(
    folder: Path,
    data: np.ndarray,
    affine: np.ndarray,
    *,
    slope: float = 1.0,
    intercept: float = 0.0,
    bits_stored: int | None = None,
    series_number: int = 3,
    tilt: float = 0.0,
) -> list[Path]:
    """Write stored values ``(columns, rows, slices)`` as an MR series with shuffled names; returns the files in order.

    ``tilt`` shears the slices by that many mm per slice along the rows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lps = np.diag([-1, -1, 1, 1]) @ affine
    sides = np.linalg.norm(lps[:3, :3], axis=0)
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    names = np.random.default_rng(0).permutation(data.shape[2])
    paths = []
    for k in range(data.shape[2]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MRImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        ds.SOPClassUID, ds.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, frame
        ds.PatientName, ds.PatientID, ds.Modality = "Phantom^A", "1", "MR"
        ds.StudyDate, ds.StudyTime, ds.AccessionNumber, ds.StudyID = "20200101", "120000", "", "1"
        ds.SeriesNumber, ds.SeriesDescription, ds.InstanceNumber = series_number, "T1 phantom", k + 1
        ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "NORM"]
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.Columns, ds.Rows = data.shape[0], data.shape[1]
        ds.BitsAllocated = data.dtype.itemsize * 8
        ds.BitsStored = bits_stored or ds.BitsAllocated
        ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, int(data.dtype.kind == "i")
        ds.ImageOrientationPatient = [f"{v:.12g}"[:16] for v in (*lps[:3, 0] / sides[0], *lps[:3, 1] / sides[1])]
        position = lps[:3, 3] + k * (lps[:3, 2] + tilt * lps[:3, 1] / sides[1])
        ds.ImagePositionPatient = [f"{v:.12g}"[:16] for v in position]
        ds.PixelSpacing, ds.SliceThickness = [f"{sides[1]:.10g}", f"{sides[0]:.10g}"], f"{sides[2]:.10g}"
        ds.RescaleSlope, ds.RescaleIntercept = f"{slope:g}", f"{intercept:g}"
        ds.WindowCenter, ds.WindowWidth = 40, 400
        ds.PixelData = np.ascontiguousarray(data[:, :, k].T).astype(data.dtype.newbyteorder("<")).tobytes()
        path = folder / f"IM{names[k]:04d}"
        save_dicom(ds, path)
        paths.append(path)
    return paths


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
    elif kind == "rgb":
        rgb = np.zeros((9, 9, 9), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
        nibabel.save(nibabel.Nifti1Image(rgb, np.eye(4)), path)


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


def random_network(network: torch.nn.Module) -> torch.nn.Module:
    """Batch norm with statistics as after training, so that evaluation is no identity."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, (torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)):
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.3, 1.5, generator=generator)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            torch.nn.init.normal_(module.bias, 0, 0.2, generator=generator)
    return network.eval()


SHAPES = [(112, 120), (48, 52, 56)]


def with_air(shape: tuple[int, ...]) -> np.ndarray:
    """The phantom inside a ball, air of value 0 around it."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return np.where(sum(a**2 for a in axes) < 0.6, phantom(shape)[0] + 40, 0).astype(np.float32)


def white(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def head(spatial_dims: int) -> np.ndarray:
    """The phantom's inner part, and air around it, 0."""
    clean = phantom({2: (144, 160), 3: (56, 60, 52)}[spatial_dims])[0]
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in clean.shape), indexing="ij")
    return np.where(np.sqrt(sum(a**2 for a in axes)) < 0.7, clean, 0).astype(np.float32)


def magnitude(clean: np.ndarray, sigma: float, n_coils: int = 1, seed: int = 0) -> np.ndarray:
    """The same with the noise of a magnitude image, Rician for one coil."""
    rng = np.random.default_rng(seed)
    parts = sigma * rng.normal(size=(2 * n_coils, *clean.shape))
    parts[0] += clean
    return np.sqrt((parts**2).sum(0)).astype(np.float32)


def enhanced_image(
    path: Path,
    data: np.ndarray,
    affine: np.ndarray,
    *,
    scales: Sequence[tuple[float, float]] = ((1.0, 0.0),),
    echo_times: Sequence[float] = (10.0,),
    ct: bool = False,
) -> Path:
    """Write stored values ``(columns, rows, slices, echoes)`` as one enhanced MR or CT image, its frames shuffled.

    ``scales`` are slope and intercept of the frames in turn.
    """
    lps = np.diag([-1, -1, 1, 1]) @ affine
    sides = np.linalg.norm(lps[:3, :3], axis=0)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = EnhancedCTImageStorage if ct else EnhancedMRImageStorage
    meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID = generate_uid(), ExplicitVRLittleEndian
    ds = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = generate_uid(), generate_uid(), generate_uid()
    ds.PatientName, ds.PatientID, ds.Modality = "Phantom^A", "1", "CT" if ct else "MR"
    ds.SeriesNumber, ds.SeriesDescription, ds.InstanceNumber = 3, "enhanced phantom", 1
    ds.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Columns, ds.Rows, ds.NumberOfFrames = data.shape[0], data.shape[1], data.shape[2] * data.shape[3]
    ds.BitsAllocated = ds.BitsStored = data.dtype.itemsize * 8
    ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, int(data.dtype.kind == "i")
    ds.SharedFunctionalGroupsSequence = [
        group(
            PixelMeasuresSequence={
                "PixelSpacing": [f"{sides[1]:.10g}", f"{sides[0]:.10g}"], "SliceThickness": f"{sides[2]:.10g}"
            },
            PlaneOrientationSequence={
                "ImageOrientationPatient": [
                    f"{v:.12g}"[:16] for v in (*lps[:3, 0] / sides[0], *lps[:3, 1] / sides[1])
                ]
            },
        )
    ]  # fmt: skip
    frames, planes = [], []
    for n in np.random.default_rng(0).permutation(int(ds.NumberOfFrames)):
        k, echo = divmod(int(n), data.shape[3])
        slope, intercept = scales[len(frames) % len(scales)]
        frame = {
            "PlanePositionSequence": {"ImagePositionPatient": [f"{v:.12g}"[:16] for v in lps[:3, 3] + k * lps[:3, 2]]},
            "PixelValueTransformationSequence": {
                "RescaleSlope": f"{slope:g}", "RescaleIntercept": f"{intercept:g}", "RescaleType": "US"
            },
            f"{'CT' if ct else 'MR'}ImageFrameTypeSequence": {"FrameType": ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]},
        }  # fmt: skip
        if not ct:
            frame["MREchoSequence"] = {"EffectiveEchoTime": echo_times[echo]}
        frames.append(group(**frame))
        planes.append(np.ascontiguousarray(data[:, :, k, echo].T))
    ds.PerFrameFunctionalGroupsSequence = frames
    ds.PixelData = np.stack(planes).astype(data.dtype.newbyteorder("<")).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_dicom(ds, path)
    return path


def group(**macros: dict) -> Dataset:
    """A functional group: sequences of one item by keyword."""
    out = Dataset()
    for keyword, values in macros.items():
        item = Dataset()
        for name, value in values.items():
            setattr(item, name, value)
        setattr(out, keyword, [item])
    return out


def save_dicom(ds: FileDataset, path: Path) -> None:
    """Write in the transfer syntax of the meta header, by either version of pydicom."""
    syntax = ds.file_meta.TransferSyntaxUID
    if int(pydicom.__version__.partition(".")[0]) < 3:
        ds.is_little_endian, ds.is_implicit_VR = syntax.is_little_endian, syntax.is_implicit_VR
        ds.save_as(path, write_like_original=False)
    else:
        pydicom.dcmwrite(path, ds, enforce_file_format=True)


def mount_groups(folder: Path, monkeypatch: Any, files: dict[str, str], of_process: str) -> None:
    """Show the package a tree of control groups with these files, and this text of ``/proc/self/cgroup``."""
    for name, text in files.items():
        (folder / "sys" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "sys" / name).write_text(text)
    (folder / "cgroup").write_text(of_process)
    monkeypatch.setattr("monai_n2v.io.control_groups.ROOT", folder / "sys")
    monkeypatch.setattr("monai_n2v.io.control_groups.OF_PROCESS", folder / "cgroup")
