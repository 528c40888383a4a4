# SPDX-License-Identifier: Apache-2.0
"""Derived DICOM series: other voxels in the frame of the source's patient, study, geometry and display."""

from __future__ import annotations

import datetime
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from monai_n2v import __version__
from monai_n2v.io.atomic import staged
from monai_n2v.io.volume import Source, quantize

if TYPE_CHECKING:
    from pydicom import Dataset

_OF_OLD_VOXELS = (
    *("IconImageSequence", "DigitalSignaturesSequence", "MACParametersSequence"),
    *("SmallestPixelValueInSeries", "LargestPixelValueInSeries"),
)


def read_dataset(path: Path, **options: Any) -> Dataset:
    """Read a DICOM file, without pydicom's remarks on values that bend the standard, as scanners' often do.

    Args:
        path: of the file.
        options: of pydicom's ``dcmread``.
    """
    import pydicom

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(path, force=True, **options)


class DicomSource(Source):
    """A DICOM series, sorted along its slice axis.

    Args:
        paths: of the files, ``paths[volume][slice]``.
        header: of the first.
        affine: from voxel index (column, row, slice) to RAS in mm.
        scales: slope and intercept of every file, as ``paths``.
    """

    def __init__(
        self,
        paths: list[list[Path]],
        header: Dataset,
        affine: np.ndarray | None,
        scales: list[list[tuple[float, float]]],
    ) -> None:
        shape = len(paths), int(header.Columns), int(header.Rows), len(paths[0])
        stored = np.dtype(f"{'i' if header.PixelRepresentation else 'u'}{header.BitsAllocated // 8}")
        super().__init__(shape, stored, [False, True, True, True], affine)
        self.paths = paths
        self.scales = scales
        self.header = header

    def write(self, data: np.ndarray, path: Path, dtype: str = "float32") -> None:  # noqa: ARG002 - see below
        """Write a derived series into the folder ``path``, one ``.dcm`` file per image.

        Patient, study, frame of reference, geometry and VOI are kept. Voxels are rounded and clipped to the stored
        bits whatever ``dtype`` says, since DICOM's images hold whole numbers.

        Args:
            data: ``(n_volumes, *spatial)`` in the units of the series (HU in CT).
            path: of the folder.
            dtype: not used.
        """
        volumes = self.split_axes(data)
        stems = Counter(p.stem for row in self.paths for p in row)
        derivation = _Derivation(self.header)
        with staged(path) as folder:
            folder.mkdir()
            for i, row in enumerate(self.paths):
                for k, source in enumerate(row):
                    image = derivation.derive(source, self._stored_values(volumes[i, ..., k].T, *self.scales[i][k]))
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

    def derive(self, path: Path, stored: np.ndarray) -> Dataset:
        """Read an image and put other voxels into it, as an image of the new series."""
        image = read_dataset(path)
        self._refer(image)
        image.SOPInstanceUID = _new_uid()
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        image.SeriesInstanceUID = self.series_uid
        image.SeriesDescription, image.SeriesNumber = self.description, self.number
        image.ImageType = ["DERIVED", "SECONDARY", *list(image.get("ImageType", []))[2:]]
        image.InstanceCreationDate = image.ContentDate = self.now.strftime("%Y%m%d")
        image.InstanceCreationTime = image.ContentTime = self.now.strftime("%H%M%S")
        image.DerivationDescription = (
            f"Denoised by Noise2Void (monai_n2v {__version__}), a network trained on noisy images alone. "
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
        image.save_as(path, enforce_file_format=True)
