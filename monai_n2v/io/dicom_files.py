# SPDX-License-Identifier: Apache-2.0
"""Which files of a folder are DICOM, and the values of their headers."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from monai_n2v.io.volume import Refusal, reading

if TYPE_CHECKING:
    from pydicom import Dataset

_SUFFIXES = (".dcm", ".ima")
_DIRECTORY = "1.2.840.10008.1.3.10"  # of a medium, whatever its file is called
# The first element of a file without the magic word: group 2 or 8, then a representation or a short length.
_BARE = re.compile(
    rb"[\x02\x08]\x00[\x00-\x20]\x00([A-Z]{2}|..\x00\x00)|\x00[\x02\x08]\x00[\x00-\x20]([A-Z]{2}|\x00\x00..)", re.DOTALL
)


def is_dicom(path: Path) -> bool:
    """Tell whether a file is DICOM, by its magic word, its first element or its ending; a medium's directory is none.

    Args:
        path: of a file or folder.

    Raises:
        OSError: where it cannot be read.
    """
    if not path.is_file() or path.name.startswith(".") or path.name.upper() == "DICOMDIR":
        return False
    with path.open("rb") as file:
        start = file.read(512)
    if start[128:132] != b"DICM":
        return path.suffix.lower() in _SUFFIXES or _BARE.match(start) is not None
    # UIDs of an even length end in a zero byte.
    return _DIRECTORY.encode() not in start or _DIRECTORY.encode() + b"." in start


def has_dicom(folder: Path) -> bool:
    """Tell whether a folder holds DICOM files itself, not only further down; what cannot be read counts as none.

    Args:
        folder: the folder.
    """
    return any(_is_readable_dicom(path) for path in sorted(folder.iterdir()))


def _is_readable_dicom(path: Path) -> bool:
    try:
        return is_dicom(path)
    except OSError:
        return False


def holds_dicom_only(folder: Path) -> bool:
    """Tell whether a folder holds nothing but DICOM files, so that it may be replaced by another series."""
    return all(_is_readable_dicom(path) for path in folder.iterdir())


def read_dataset(path: Path, **options: Any) -> Dataset:
    """Read a DICOM file, without pydicom's remarks on values that bend the standard, as scanners' often do.

    Args:
        path: of the file.
        options: of pydicom's ``dcmread``.

    Returns:
        the dataset; of a file without a meta header, with the transfer syntax that it was read by.
    """
    import pydicom
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(path, force=True, **options)
        if not dataset.file_meta.get("TransferSyntaxUID"):
            encoding = getattr(dataset, "original_encoding", None)
            if encoding is None:  # pydicom 2
                encoding = dataset.is_implicit_VR, dataset.is_little_endian
            implicit, little = map(bool, encoding)
            known = {(True, True): ImplicitVRLittleEndian, (False, False): ExplicitVRBigEndian}
            dataset.file_meta.TransferSyntaxUID = known.get((implicit, little), ExplicitVRLittleEndian)
        return dataset


def list_series(folder: Path) -> dict[str, list[tuple[Path, Dataset]]]:
    """Group the images of a folder by series.

    Args:
        folder: not searched any deeper.

    Returns:
        by Series Instance UID, the files with their headers; objects without pixels are left out.

    Raises:
        ValueError: for a file that cannot be read, and for one that is an image by its class and ends before its size.
    """
    series: dict[str, list[tuple[Path, Dataset]]] = {}
    for path in sorted(folder.iterdir()):
        if not is_dicom(path):
            continue
        with reading(path, "DICOM file"):
            header = read_dataset(path, stop_before_pixels=True)
            if "SOPClassUID" not in header:
                raise ValueError("no SOP Class UID")
            name = getattr(header.SOPClassUID, "name", "")
            uid = str(header.get("SeriesInstanceUID", ""))
        if "Rows" in header:
            series.setdefault(uid, []).append((path, header))
        elif "Image Storage" in name:
            raise Refusal(f"image must have Rows, got none for {path}, of {name}. Copy the file once more: it is cut.")
    return series


def value_of(header: Any, keyword: str, path: Path) -> Any:
    """A value of a header, None where it is absent or empty.

    Args:
        header: dataset, or whatever has ``get``.
        keyword: of the element.
        path: of the file, for the message.

    Raises:
        ValueError: for text where a number belongs.
    """
    try:
        value = header.get(keyword)
    except Exception as error:  # noqa: BLE001 - whatever the bytes may be
        reason = " ".join(str(error).split())[:100]
        raise Refusal(f"{keyword} must be readable, got {reason} for {path}. The file is damaged.") from None
    return None if value is None or str(value) == "" else value


def numbers_of(header: Any, keyword: str, n: int, path: Path) -> np.ndarray | None:
    """The numbers of an element, None where it is absent or empty.

    Args:
        header: see `value_of`.
        keyword: of the element.
        n: how many it must hold.
        path: of the file, for the message.

    Raises:
        ValueError: for another number of values, and for what is no finite number.
    """
    value = value_of(header, keyword, path)
    if value is None:
        return None
    try:
        numbers = np.atleast_1d(np.asarray(value, dtype=np.float64))
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if numbers.shape != (n,) or not np.isfinite(numbers).all():
        rule = "a number" if n == 1 else f"{n} numbers"
        raise Refusal(f"{keyword} must be {rule}, got {value} for {path}. The file is damaged.")
    return numbers
