# SPDX-License-Identifier: Apache-2.0
"""DICOM series of single-frame images: a folder in, sorted, checked and in real units."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from monai_n2v.io.dicom_write import DicomSource, read_dataset
from monai_n2v.io.memory import check_memory
from monai_n2v.io.volume import Volume, check_kind, reading, to_affine

if TYPE_CHECKING:
    from pydicom import Dataset

# Slices whose distances agree to this fraction are evenly spaced: positions are stored as decimal text.
_EVEN = 0.01
_SUFFIXES = (".dcm", ".ima")
_STORAGE = ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation")
_PLACE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")


def _is_dicom(path: Path) -> bool:
    if not path.is_file() or path.name.startswith(".") or path.name.upper() == "DICOMDIR":
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM" or path.suffix.lower() in _SUFFIXES


def has_dicom(folder: Path) -> bool:
    """Tell whether a folder holds DICOM files itself, not only further down.

    Args:
        folder: the folder.

    Returns:
        True where one file at least is DICOM by its magic word or its ending.
    """
    return any(_is_dicom(path) for path in sorted(folder.iterdir()))


def holds_dicom_only(folder: Path) -> bool:
    """Tell whether a folder holds nothing but DICOM files, so that it may be replaced by another series."""
    return all(_is_dicom(path) for path in folder.iterdir())


def list_series(folder: Path) -> dict[str, list[tuple[Path, Dataset]]]:
    """Group the images of a folder by series.

    Args:
        folder: not searched any deeper.

    Returns:
        by Series Instance UID, the files with their headers; objects without pixels are left out.

    Raises:
        ValueError: for a file that cannot be read.
    """
    series: dict[str, list[tuple[Path, Dataset]]] = {}
    for path in sorted(folder.iterdir()):
        if not _is_dicom(path):
            continue
        with reading(path, "DICOM file"):
            header = read_dataset(path, stop_before_pixels=True)
            if "SOPClassUID" not in header:
                raise ValueError("no SOP Class UID")
            if "Rows" in header:
                series.setdefault(str(header.get("SeriesInstanceUID", "")), []).append((path, header))
    return series


def _choose(folder: Path, series: str | None) -> list[tuple[Path, Dataset]]:
    found = list_series(folder)
    if not found:
        raise ValueError(f"path must hold DICOM images, got none in {folder}. Check the path.")
    first = {uid: images[0][1] for uid, images in found.items()}
    if series is not None:
        chosen = [uid for uid, header in first.items() if series in (uid, str(header.get("SeriesNumber", "")))]
        if len(chosen) == 1:
            return found[chosen[0]]
    elif len(found) == 1:
        return next(iter(found.values()))
    listed = "; ".join(
        f"{header.get('SeriesNumber', '?')} ({header.get('SeriesDescription', 'no description')}, "
        f"{len(found[uid])} images, {uid})"
        for uid, header in first.items()
    )
    asked = "one series" if series is None else f"one series {series}"
    raise ValueError(f"path must hold {asked}, got {len(found)} in {folder}: {listed}. Choose one with --series.")


def read_dicom(folder: Path, series: str | None = None) -> Volume:
    """Read a DICOM series of single-frame images.

    Files may have any names and order. Where every position holds the same number of images (echoes, time points), each
    makes a volume of its own. A tilted gantry does no harm, since nothing is resampled; it is noted.

    Args:
        folder: that holds the files.
        series: Series Instance UID or series number, where the folder holds several.

    Returns:
        the volume, in the units that slope and intercept give (HU in CT).

    Raises:
        ValueError: for several series, colors, several frames per file, mixed sizes, or missing slices.
    """
    images = _choose(folder, series)
    for path, header in images:
        _check_image(path, header)
    first = images[0][1]
    _check_equal(folder, images)
    rows, step = _sort(folder, images)
    check_memory((int(first.Columns), int(first.Rows), len(images)), folder)
    notes = []
    if step is None and len(images) > 1:
        notes.append("The files tell no positions: the images are stacked in the order of their numbers.")
    within = np.asarray(first.get("PixelSpacing") or [1, 1], dtype=np.float64)[::-1]  # from column to column first
    affine = None
    if step is not None:
        orientation = np.asarray(first.ImageOrientationPatient, dtype=np.float64)
        right, down = orientation[:3], orientation[3:]
        steps = np.stack([right * within[0], down * within[1], step], axis=1)
        affine = to_affine(steps, rows[0][0][1].ImagePositionPatient)
        normal = np.cross(right, down)
        tilt = float(np.degrees(np.arccos(min(1.0, abs(float(step @ normal)) / (float(np.linalg.norm(step)) or 1.0)))))
        if len(rows[0]) > 1 and tilt > 0.5:
            notes.append(f"The gantry was tilted by {tilt:.1f} degrees; slices stay where they are.")
    data, scales = _read_voxels(rows)
    source = DicomSource([[path for path, _ in row] for row in rows], rows[0][0][1], affine, scales)
    between = float(np.linalg.norm(step)) if step is not None else 0.0
    return source.to_volume(data, [*within, between or 1.0], folder, notes)


def _check_image(path: Path, header: Dataset) -> None:
    if int(header.get("NumberOfFrames", 1) or 1) > 1:
        raise ValueError(f"image must have one frame per file, got several in {path}. Convert it to single frames.")
    for keyword in (*_STORAGE, "SOPInstanceUID"):
        if header.get(keyword) in (None, ""):
            raise ValueError(f"image must have {keyword}, got none for {path}. The file is damaged.")
    is_gray = header.get("PhotometricInterpretation", "MONOCHROME2") in ("MONOCHROME1", "MONOCHROME2")
    check_kind(np.dtype(np.uint8), path, "" if is_gray and int(header.get("SamplesPerPixel") or 1) == 1 else "RGB")
    syntax = header.file_meta.get("TransferSyntaxUID") if hasattr(header, "file_meta") else None
    if syntax is not None and not syntax.is_little_endian:
        raise ValueError(f"image must be stored little endian, got big endian for {path}. Convert it first.")
    if int(header.get("HighBit", header.BitsStored - 1)) != header.BitsStored - 1:
        raise ValueError(
            f"HighBit must be {header.BitsStored - 1}, one less than BitsStored, got {header.HighBit} for {path}. "
            "Convert it first."
        )
    if header.BitsAllocated not in (8, 16, 32):
        raise ValueError(
            f"image must be stored in 8, 16 or 32 bits, got {header.get('BitsAllocated')} for {path}. Convert it first."
        )
    if _scale_of(header)[0] == 0:
        raise ValueError(f"RescaleSlope must not be 0, got 0 for {path}. The file is damaged.")
    if "ModalityLUTSequence" in header:
        raise ValueError(f"image must have slope and intercept, got a modality LUT for {path}. Convert it first.")


def _scale_of(header: Dataset) -> tuple[float, float]:
    """Slope and intercept; scanners leave them out or empty where they are 1 and 0."""
    slope, intercept = header.get("RescaleSlope"), header.get("RescaleIntercept")
    return (1.0 if slope in (None, "") else float(slope)), (0.0 if intercept in (None, "") else float(intercept))


def _check_equal(folder: Path, images: Sequence[tuple[Path, Dataset]]) -> None:
    """All images must lie in one grid."""
    first_path, first = images[0]
    for path, header in images[1:]:
        for keyword in (*_STORAGE, "ImageOrientationPatient", "PixelSpacing"):
            mine, other = header.get(keyword), first.get(keyword)
            a, b = (np.asarray(value or [], dtype=np.float64) for value in (mine, other))
            if mine != other and (a.shape != b.shape or not np.allclose(a, b, atol=1e-3)):
                raise ValueError(
                    f"series must have one {keyword}, got {other} for {first_path.name} and {mine} for {path.name} in "
                    f"{folder}. Separate them."
                )


def _sort(
    folder: Path, images: Sequence[tuple[Path, Dataset]]
) -> tuple[list[list[tuple[Path, Dataset]]], np.ndarray | None]:
    """Order images as ``[volume][slice]``, and the step from slice to slice in mm (LPS), None without positions."""
    by_number = sorted(images, key=lambda image: (int(image[1].get("InstanceNumber") or 0), image[0].name))
    if not all(header.get(keyword) for _, header in images for keyword in _PLACE):
        return [by_number], None
    orientation = np.asarray(images[0][1].ImageOrientationPatient, dtype=np.float64)
    normal = np.cross(orientation[:3], orientation[3:])
    levels: dict[float, list[tuple[Path, Dataset]]] = {}
    for image in by_number:
        height = round(float(np.asarray(image[1].ImagePositionPatient, dtype=np.float64) @ normal), 3)
        levels.setdefault(height, []).append(image)
    heights = sorted(levels)
    counts = {len(level) for level in levels.values()}
    if len(counts) > 1:
        fewest = min(heights, key=lambda h: len(levels[h]))
        raise ValueError(
            f"series must have as many images at every position, got {len(levels[fewest])} at {fewest:g} mm and "
            f"{max(counts)} elsewhere in {folder}. Find the missing files, or separate the repeats."
        )
    gaps = np.diff(heights)
    worst = int(np.abs(gaps - np.median(gaps)).argmax()) if len(gaps) else 0
    if len(gaps) and abs(gaps[worst] - np.median(gaps)) > _EVEN * np.median(gaps):
        raise ValueError(
            f"series must have evenly spaced slices, got {gaps[worst]:g} mm from {heights[worst]:g} to "
            f"{heights[worst + 1]:g} mm where others are {np.median(gaps):g} mm apart in {folder}. "
            "Find the missing files, or separate the parts."
        )
    rows = [[levels[height][i] for height in heights] for i in range(counts.pop())]
    ends = [np.asarray(rows[0][k][1].ImagePositionPatient, dtype=np.float64) for k in (0, -1)]
    thickness = float(images[0][1].get("SliceThickness") or 1.0)
    step = (ends[1] - ends[0]) / (len(heights) - 1) if len(heights) > 1 else normal * thickness
    for row in rows:
        for k, (path, header) in enumerate(row):
            off = np.asarray(header.ImagePositionPatient, dtype=np.float64) - ends[0] - k * step
            if np.abs(off).max() > _EVEN * max(1.0, float(np.linalg.norm(step))):
                raise ValueError(
                    f"series must have its slices in one line, got {path.name} off by {np.linalg.norm(off):.3g} mm in "
                    f"{folder}. Separate the parts."
                )
    return rows, step


def _read_voxels(rows: list[list[tuple[Path, Dataset]]]) -> tuple[np.ndarray, list[list[tuple[float, float]]]]:
    """Voxels in real units ``(n_volumes, columns, rows, slices)``, and slope and intercept of every image."""
    header = rows[0][0][1]
    scales = [[_scale_of(h) for _, h in row] for row in rows]
    # Slices first, so that each is written where it stays.
    data = np.empty((len(rows), len(rows[0]), int(header.Rows), int(header.Columns)), dtype=np.float32)
    for i, row in enumerate(rows):
        for k, (path, _) in enumerate(row):
            with reading(path, "DICOM image"):
                stored = read_dataset(path).pixel_array
            slope, intercept = scales[i][k]
            data[i, k] = stored.astype(np.float64) * slope + intercept
    return data.transpose(0, 3, 2, 1), scales
