# SPDX-License-Identifier: Apache-2.0
"""Derived DICOM series: other voxels in the frame of the source's patient, study, geometry and display."""

from __future__ import annotations

import datetime
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from monai_n2v import __version__
from monai_n2v.io.atomic import staged
from monai_n2v.io.dicom_files import read_dataset
from monai_n2v.io.dicom_frames import Frame
from monai_n2v.io.dicom_mosaic import join_mosaic
from monai_n2v.io.dicom_pixels import read_stored
from monai_n2v.io.volume import Source, quantize

if TYPE_CHECKING:
    from pydicom import Dataset

_OF_OLD_VOXELS = (
    *("IconImageSequence", "DigitalSignaturesSequence", "MACParametersSequence"),
    *("SmallestPixelValueInSeries", "LargestPixelValueInSeries"),
)


class DicomSource(Source):
    """A DICOM series, sorted along its slice axis.

    Args:
        volumes: the frames, ``volumes[volume][slice]``.
        affine: from voxel index (column, row, slice) to RAS in mm.
    """

    def __init__(self, volumes: list[list[Frame]], affine: np.ndarray | None) -> None:
        self.header = volumes[0][0].header
        rows, columns = volumes[0][0].size
        shape = len(volumes), columns, rows, len(volumes[0])
        super().__init__(shape, volumes[0][0].stored, [False, True, True, True], affine)
        self.volumes = volumes

    def write(self, data: np.ndarray, path: Path, dtype: str = "float32") -> None:  # noqa: ARG002 - see below
        """Write a derived series into the folder ``path``, one ``.dcm`` file for every file of the source.

        Patient, study, frame of reference, geometry and VOI are kept. Voxels are rounded and clipped to the stored
        bits whatever ``dtype`` says, since DICOM's images hold whole numbers.

        Args:
            data: ``(n_volumes, *spatial)`` in the units of the series (HU in CT).
            path: of the folder.
            dtype: not used.
        """
        voxels = self.split_axes(data)
        files: dict[Path, dict[int, np.ndarray]] = {}
        first_of: dict[Path, tuple[int, Frame]] = {}
        for i, row in enumerate(self.volumes):
            for k, frame in enumerate(row):
                stored = self._stored_values(voxels[i, ..., k].T, *frame.scale)
                first_of.setdefault(frame.path, (i, frame))
                files.setdefault(frame.path, {})[frame.number] = stored
        stems = Counter(source.stem for source in files)
        derivation = _Derivation(self.header)
        with staged(path, self.readers) as folder:
            folder.mkdir()
            for source, frames in files.items():
                volume, first = first_of[source]
                if first.n_tiles == 1:
                    stored = np.stack([frames[number] for number in sorted(frames)])
                else:
                    mosaic = read_stored(source, 1, first.stored)[0]
                    stored = join_mosaic(frames, mosaic, first.n_tiles)[None]
                image = derivation.derive(source, stored, volume)
                stem = source.stem if stems[source.stem] == 1 else source.name.replace(".", "_")
                _save(image, folder / f"{stem}.dcm")

    def _stored_values(self, values: np.ndarray, slope: float, intercept: float) -> np.ndarray:
        n_levels = 2 ** int(self.header.BitsStored)
        low = -n_levels // 2 if self.stored.kind == "i" else 0
        stored = quantize(np.ascontiguousarray(values), self.stored, slope, intercept)
        return stored.clip(low, low + n_levels - 1)


class _Derivation:
    """What makes images one new series, derived from another.

    Args:
        header: of an image of the source.
    """

    def __init__(self, header: Dataset) -> None:
        self.series_uid = _new_uid()
        self.now = datetime.datetime.now()
        # 64 characters at most, of which the end must not get lost.
        self.description = f"{str(header.get('SeriesDescription', ''))[:51]} N2V denoised".strip()
        self.number = int(header.get("SeriesNumber") or 0) + 1000

    def derive(self, path: Path, stored: np.ndarray, volume: int) -> Dataset:
        """Read an image and put other voxels ``(frames, rows, columns)`` into it, as an image of the new series."""
        image = read_dataset(path)
        _to_little_endian(image)
        self._refer(image)
        image.SOPInstanceUID = _new_uid()
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        image.SeriesInstanceUID = self.series_uid
        image.SeriesDescription, image.SeriesNumber = self.description, self.number
        # Of an enhanced image the second value is always PRIMARY, and every frame has a type of its own.
        second = "PRIMARY" if "PerFrameFunctionalGroupsSequence" in image else "SECONDARY"
        image.ImageType = ["DERIVED", second, *list(image.get("ImageType", []))[2:]]
        _call_frames_derived(image)
        image.InstanceCreationDate = image.ContentDate = self.now.strftime("%Y%m%d")
        image.InstanceCreationTime = self.now.strftime("%H%M%S")
        # Where nothing but the time tells volumes apart, it still does.
        image.ContentTime = f"{image.InstanceCreationTime}.{volume:06d}"
        image.DerivationDescription = (
            f"Denoised by Noise2Void (monai_n2v {__version__}), a network that has seen no clean scan. "
            "Research only, not for diagnosis."
        )
        # What described the old voxels would be wrong of the new ones.
        for keyword in _OF_OLD_VOXELS:
            if keyword in image:
                del image[keyword]
        for keyword, value in {"SmallestImagePixelValue": stored.min(), "LargestImagePixelValue": stored.max()}.items():
            if keyword in image:
                image[keyword].value = int(value)
        _set_pixels(image, stored)
        return image

    def _refer(self, image: Dataset) -> None:
        """Name the source image and the program that processed it."""
        from pydicom import Dataset, Sequence

        source = Dataset()
        source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
        source.PurposeOfReferenceCodeSequence = _code("121322", "Source image for image processing operation")
        image.SourceImageSequence = Sequence([source])
        tool = Dataset()
        tool.PurposeOfReferenceCodeSequence = _code("109102", "Processing Equipment")
        tool.Manufacturer, tool.SoftwareVersions = "monai_n2v", __version__
        tool.ContributionDateTime = self.now.strftime("%Y%m%d%H%M%S")
        tool.ContributionDescription = "Noise2Void denoising"
        image.ContributingEquipmentSequence = Sequence([*image.get("ContributingEquipmentSequence", []), tool])


def _code(value: str, meaning: str) -> Any:
    from pydicom import Dataset, Sequence

    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "DCM", meaning
    return Sequence([code])


def _new_uid() -> str:
    from pydicom.uid import generate_uid

    return generate_uid(prefix=None)  # derived from a UUID, in nobody's root


def _call_frames_derived(image: Dataset) -> None:
    """Of an enhanced image, the type of every frame says that it is derived."""
    groups = [*image.get("SharedFunctionalGroupsSequence", []), *image.get("PerFrameFunctionalGroupsSequence", [])]
    for group in groups:
        for element in group:
            for item in element.value if element.VR == "SQ" else []:
                if "FrameType" in item:
                    item.FrameType = ["DERIVED", *list(item.FrameType)[1:]]


def _to_little_endian(image: Dataset) -> None:
    """Turn words that pydicom takes as bytes; numbers it turns itself when it writes."""
    from pydicom.uid import ExplicitVRBigEndian

    if image.file_meta.TransferSyntaxUID != ExplicitVRBigEndian:
        return

    def turn(_: Dataset, element: Any) -> None:
        if element.VR == "OW" and isinstance(element.value, bytes) and element.keyword != "PixelData":
            element.value = np.frombuffer(element.value, ">u2").astype("<u2").tobytes()

    image.walk(turn)


def _set_pixels(image: Dataset, stored: np.ndarray) -> None:
    """Store voxels uncompressed; the source's encoding stays where it is little endian."""
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if image.file_meta.get("TransferSyntaxUID") not in (ImplicitVRLittleEndian, ExplicitVRLittleEndian):
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.PixelData = stored.astype(stored.dtype.newbyteorder("<")).tobytes()
    if len(image.PixelData) % 2:
        image.PixelData += b"\0"
    image["PixelData"].VR = "OW"
    image["PixelData"].is_undefined_length = False


def _save(image: Dataset, path: Path) -> None:
    import pydicom
    from pydicom.uid import ImplicitVRLittleEndian

    for keyword in ("ImplementationClassUID", "ImplementationVersionName"):
        if keyword in image.file_meta:
            del image.file_meta[keyword]
    if int(pydicom.__version__.partition(".")[0]) < 3:
        image.is_little_endian = True
        image.is_implicit_VR = image.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
        image.save_as(path, write_like_original=False)
    else:
        pydicom.dcmwrite(path, image, enforce_file_format=True)
