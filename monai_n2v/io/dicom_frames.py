# SPDX-License-Identifier: Apache-2.0
"""Frames of DICOM images: one per file in classic ones, many in enhanced ones and mosaics, alike to who sorts them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from monai_n2v.io.dicom_files import numbers_of, value_of
from monai_n2v.io.dicom_mosaic import is_mosaic, unpack_headers
from monai_n2v.io.dicom_pixels import check_syntax
from monai_n2v.io.volume import Refusal, check_kind

if TYPE_CHECKING:
    from pydicom import Dataset

_STORAGE = ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation")
# Groups that speak of other images, or in other units.
_OF_OTHERS = {"DerivationImageSequence", "ReferencedImageSequence", "RealWorldValueMappingSequence"}


@dataclass(frozen=True)
class Frame:
    """An image of one slice.

    Attributes:
        path: of its file.
        header: of its file.
        number: which frame of the file it is, from 0.
        groups: of an enhanced image, the values of this frame's functional groups, by keyword; of a mosaic those of
            this slice.
        n_tiles: along each side of a mosaic, of which the frame is a tile; 1 for no mosaic.
    """

    path: Path
    header: Dataset
    number: int = 0
    groups: dict[str, Any] = field(default_factory=dict)
    n_tiles: int = 1

    def get(self, keyword: str) -> Any:
        """A value of this frame, None where it is absent."""
        return self.groups[keyword] if keyword in self.groups else self.header.get(keyword)

    def value(self, keyword: str) -> Any:
        """See `value_of`."""
        return value_of(self, keyword, self.path)

    def numbers(self, keyword: str, n: int) -> np.ndarray | None:
        """See `numbers_of`."""
        return numbers_of(self, keyword, n, self.path)

    @property
    def position(self) -> np.ndarray:
        """Of the first voxel's center in mm, LPS."""
        position = self.numbers("ImagePositionPatient", 3)
        assert position is not None  # asked for where there is one
        return position

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        return int(self.get("Rows")), int(self.get("Columns"))

    @property
    def place(self) -> str:
        """What it is called in messages."""
        return f"frame {self.number + 1} of {self.path.name}" if self.groups else self.path.name

    @property
    def stored(self) -> np.dtype:
        """Type of the stored values."""
        return np.dtype(f"{'i' if self.header.PixelRepresentation else 'u'}{self.header.BitsAllocated // 8}")

    @property
    def scale(self) -> tuple[float, float]:
        """Slope and intercept; scanners leave them out or empty where they are 1 and 0."""
        slope, intercept = (self.numbers(keyword, 1) for keyword in ("RescaleSlope", "RescaleIntercept"))
        return (1.0 if slope is None else float(slope[0])), (0.0 if intercept is None else float(intercept[0]))


def frames_of(path: Path, header: Dataset) -> list[Frame]:
    """The frames of a file.

    Args:
        path: of the file.
        header: of the file.

    Raises:
        ValueError: for colors, several frames without a place each, or voxels stored in another way than is read here.
    """
    count = numbers_of(header, "NumberOfFrames", 1, path)
    n_frames = 1 if count is None else int(count[0])
    _check_storage(path, header)
    per_frame = list(value_of(header, "PerFrameFunctionalGroupsSequence", path) or [])
    if per_frame:
        if len(per_frame) != n_frames:
            raise Refusal(
                f"image must have a functional group per frame, got {len(per_frame)} of {n_frames} for {path}. "
                "Copy the file once more: it is damaged."
            )
        common: dict[str, Any] = {}
        for item in header.get("SharedFunctionalGroupsSequence") or []:
            common |= _flat(item)
        frames = [Frame(path, header, k, {**common, **_flat(item)}) for k, item in enumerate(per_frame)]
    elif n_frames == 1 and is_mosaic(path, header):
        n_tiles, tiles = unpack_headers(path, header)
        frames = [Frame(path, header, k, tile, n_tiles) for k, tile in enumerate(tiles)]
    elif n_frames != 1:
        raise Refusal(
            f"image must have one frame per file or be an enhanced image, got {n_frames} frames for {path}. "
            "Convert it to single frames."
        )
    else:
        frames = [Frame(path, header)]
    for frame in frames:
        if frame.scale[0] == 0:
            raise Refusal(f"RescaleSlope must not be 0, got 0 for {path}. The file is damaged.")
    return frames


def _flat(item: Dataset) -> dict[str, Any]:
    """All values of a functional group by keyword, those of its sequences included."""
    values: dict[str, Any] = {}
    for tag in list(item.keys()):
        element = item[tag]
        keyword = element.keyword or f"({tag.group:04x},{tag.element:04x})"
        if element.VR != "SQ":
            values[keyword] = element.value
        elif keyword not in _OF_OTHERS:
            for part in element.value or []:
                values |= _flat(part)
    return values


def _check_storage(path: Path, header: Dataset) -> None:
    for keyword in (*_STORAGE, "SOPInstanceUID"):
        if value_of(header, keyword, path) is None:
            raise Refusal(f"image must have {keyword}, got none for {path}. The file is damaged.")
    for keyword in _STORAGE:
        numbers_of(header, keyword, 1, path)
    is_gray = header.get("PhotometricInterpretation", "MONOCHROME2") in ("MONOCHROME1", "MONOCHROME2")
    n_samples = numbers_of(header, "SamplesPerPixel", 1, path)
    check_kind(np.dtype(np.uint8), path, "" if is_gray and (n_samples is None or n_samples[0] == 1) else "RGB")
    if header.BitsAllocated not in (8, 16, 32):
        raise Refusal(
            f"image must be stored in 8, 16 or 32 bits, got {header.BitsAllocated} for {path}. Convert it first."
        )
    if not 0 < header.BitsStored <= header.BitsAllocated or min(header.Rows, header.Columns) < 1:
        raise Refusal(
            f"image must have voxels of 1 to {header.BitsAllocated} bits, got {header.Rows} x {header.Columns} of "
            f"{header.BitsStored} for {path}. The file is damaged."
        )
    if int(header.get("HighBit", header.BitsStored - 1)) != header.BitsStored - 1:
        raise Refusal(
            f"HighBit must be {header.BitsStored - 1}, one less than BitsStored, got {header.HighBit} for {path}. "
            "Convert it first."
        )
    if "ModalityLUTSequence" in header:
        raise Refusal(f"image must have slope and intercept, got a modality LUT for {path}. Convert it first.")
    for keyword in ("FloatPixelData", "DoubleFloatPixelData"):
        if keyword in header:
            raise Refusal(f"image must hold whole numbers, got {keyword} for {path}. Convert it to NIfTI.")
    check_syntax(header, path)
