# SPDX-License-Identifier: Apache-2.0
"""Siemens mosaics: all slices of a volume side by side in one DICOM image, as scanners store EPI."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from monai_n2v.io.dicom_files import numbers_of, value_of
from monai_n2v.io.volume import Refusal

if TYPE_CHECKING:
    from pydicom import Dataset

_NUMBER = (0x0019, 0x100A)  # NumberOfImagesInMosaic, where the CSA header was taken out


def is_mosaic(path: Path, header: Dataset) -> bool:
    """Whether an image is a mosaic, by its type."""
    kinds = value_of(header, "ImageType", path) or []
    return "MOSAIC" in ([kinds] if isinstance(kinds, str) else list(kinds))


def unpack_headers(path: Path, header: Dataset) -> tuple[int, list[dict[str, Any]]]:
    """Read where the slices of a mosaic lie.

    The header tells the position that an image as large as the mosaic would have around the same center ([1]_). Slices
    follow each other along the normal of the CSA header, or else that of the orientation.

    Args:
        path: of the file.
        header: of the file.

    Returns:
        how many tiles lie along each side; and of every slice its ``Rows``, ``Columns`` and ``ImagePositionPatient``.

    Raises:
        ValueError: where number or place of the slices are not told.

    References:
        .. [1] "Siemens mosaic format", documentation of NiBabel.
    """
    csa = _read_csa(header)
    n_slices = _number_of_slices(csa, header)
    if not n_slices:
        raise Refusal(
            f"image must tell how many slices its mosaic holds, got no NumberOfImagesInMosaic for {path}. Convert the "
            "series to NIfTI, for example with dcm2niix."
        )
    n_tiles = math.ceil(math.sqrt(n_slices))
    slab = np.array([header.Rows, header.Columns], dtype=int)
    if (slab % n_tiles).any():
        raise Refusal(
            f"image must have sides of {n_tiles} slices each for a mosaic of {n_slices}, got {slab[0]} x {slab[1]} "
            f"for {path}. The file is damaged."
        )
    size = slab // n_tiles
    sizes = {"ImageOrientationPatient": 6, "ImagePositionPatient": 3, "PixelSpacing": 2}
    orientation, position, spacing = (numbers_of(header, keyword, n, path) for keyword, n in sizes.items())
    steps = [numbers_of(header, keyword, 1, path) for keyword in ("SpacingBetweenSlices", "SliceThickness")]
    step = next((float(one[0]) for one in steps if one is not None and one[0] > 0), None)
    if orientation is None or position is None or spacing is None or step is None:
        raise Refusal(
            f"image must tell the place of its mosaic's slices, got one of {', '.join(sizes)} and SliceThickness "
            f"missing for {path}. Export the series again with positions."
        )
    right, down = orientation[:3], orientation[3:]
    position = position + (down * spacing[0] * (slab - size)[0] + right * spacing[1] * (slab - size)[1]) / 2
    normal = np.asarray(csa.get("SliceNormalVector", ()), dtype=np.float64)
    normal = normal if normal.shape == (3,) and np.linalg.norm(normal) > 0.5 else np.cross(right, down)
    return n_tiles, [
        {"Rows": int(size[0]), "Columns": int(size[1]), "ImagePositionPatient": (position + k * step * normal).tolist()}
        for k in range(n_slices)
    ]


def split_mosaic(slab: np.ndarray, n_tiles: int) -> np.ndarray:
    """Cut a mosaic ``(rows, columns)`` into its tiles ``(n_tiles ** 2, rows, columns)``; a view where possible."""
    rows, columns = (side // n_tiles for side in slab.shape)
    return slab.reshape(n_tiles, rows, n_tiles, columns).swapaxes(1, 2).reshape(-1, rows, columns)


def join_mosaic(tiles: Mapping[int, np.ndarray], slab: np.ndarray, n_tiles: int) -> np.ndarray:
    """Put tiles by number into a copy of the mosaic that they come from."""
    parts = np.array(split_mosaic(slab, n_tiles))
    for number, tile in tiles.items():
        parts[number] = tile
    rows, columns = parts.shape[1:]
    return parts.reshape(n_tiles, n_tiles, rows, columns).swapaxes(1, 2).reshape(slab.shape)


def _read_csa(header: Dataset) -> dict[str, list[Any]]:
    """Values of Siemens' private header by name; empty where it is missing or unreadable, as after anonymizing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NiBabel's, that its DICOM readers are young
        from nibabel.nicom import csareader
    try:
        found = csareader.get_csa_header(header)
    except Exception:  # noqa: BLE001 - whatever the bytes may be
        found = None
    return {} if found is None else {str(name): tag["items"] for name, tag in found["tags"].items()}


def _number_of_slices(csa: Mapping[str, list[Any]], header: Dataset) -> int:
    items = csa.get("NumberOfImagesInMosaic") or []
    element = header.get(_NUMBER)
    value = items[0] if items else None if element is None else element.value
    if isinstance(value, bytes):  # of a private block without its dictionary
        value = int.from_bytes(value[:2], "little")
    try:
        return max(0, int(str(value)))
    except ValueError:
        return 0
