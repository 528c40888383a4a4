# SPDX-License-Identifier: Apache-2.0
"""DICOM series of classic and enhanced images and mosaics: a folder in, sorted, checked and in real units."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from monai_n2v.io.dicom_files import list_series, value_of
from monai_n2v.io.dicom_frames import Frame, frames_of
from monai_n2v.io.dicom_mosaic import split_mosaic
from monai_n2v.io.dicom_pixels import read_stored
from monai_n2v.io.dicom_sort import Volumes, check_alike, sort_frames
from monai_n2v.io.dicom_write import DicomSource
from monai_n2v.io.memory import check_memory
from monai_n2v.io.volume import Refusal, Volume, reading, to_affine

if TYPE_CHECKING:
    from pydicom import Dataset


def _choose(folder: Path, series: str | None) -> list[tuple[Path, Dataset]]:
    found = list_series(folder)
    if not found:
        raise Refusal(f"path must hold DICOM images, got none in {folder}. Check the path.")
    first = {uid: images[0] for uid, images in found.items()}
    if series is not None:
        names = {uid: str(value_of(header, "SeriesNumber", path)) for uid, (path, header) in first.items()}
        chosen = [uid for uid, number in names.items() if series in (uid, number)]
        if len(chosen) == 1:
            return found[chosen[0]]
    elif len(found) == 1:
        return next(iter(found.values()))
    listed = "; ".join(
        f"{value_of(header, 'SeriesNumber', path) or '?'} "
        f"({value_of(header, 'SeriesDescription', path) or 'no description'}, {len(found[uid])} images, {uid})"
        for uid, (path, header) in first.items()
    )
    asked = "one series" if series is None else f"one series {series}"
    raise Refusal(f"path must hold {asked}, got {len(found)} in {folder}: {listed}. Choose one with --series.")


def read_dicom(folder: Path, series: str | None = None) -> Volume:
    """Read a DICOM series of classic or enhanced images, or of Siemens mosaics.

    Files may have any names and order. Where every position holds the same number of images, each makes a volume of its
    own with those of its kind: of one echo, b value, time and so on. A tilted gantry does no harm, since nothing is
    resampled; it is noted.

    Args:
        folder: that holds the files.
        series: Series Instance UID or series number, where the folder holds several.

    Returns:
        the volume, in the units that slope and intercept give (HU in CT).

    Raises:
        ValueError: for several series, colors, mixed sizes, missing slices, or images that nothing tells apart.
    """
    frames: list[Frame] = []
    for path, header in _choose(folder, series):
        with reading(path, "DICOM file"):
            frames += frames_of(path, header)
    check_alike(folder, frames)
    rows, columns = frames[0].size
    check_memory((columns, rows, len(frames)), folder)
    volumes, step, notes = sort_frames(folder, frames)
    top = volumes[0][0]
    sides = top.numbers("PixelSpacing", 2)
    within = np.ones(2) if sides is None else sides[::-1]  # from column to column first
    affine = None
    if step is not None:
        orientation = top.numbers("ImageOrientationPatient", 6)
        assert orientation is not None
        right, down = orientation[:3], orientation[3:]
        affine = to_affine(np.stack([right * within[0], down * within[1], step], axis=1), top.position)
        normal = np.cross(right, down)
        tilt = float(np.degrees(np.arccos(min(1.0, abs(float(step @ normal)) / (float(np.linalg.norm(step)) or 1.0)))))
        if len(volumes[0]) > 1 and tilt > 0.5:
            notes.append(f"The gantry was tilted by {tilt:.1f} degrees; slices stay where they are.")
    data = _read_voxels(volumes)
    # Without positions nobody says how far apart slices are: 1, as other formats without a unit have it.
    between = float(np.linalg.norm(step)) if step is not None else 1.0
    return DicomSource(volumes, affine).to_volume(data, [*within, between], folder, notes)


def _read_voxels(volumes: Volumes) -> np.ndarray:
    """Voxels in real units, ``(n_volumes, columns, rows, slices)``."""
    # Slices first, so that each is written where it stays.
    data = np.empty((len(volumes), len(volumes[0]), *volumes[0][0].size), dtype=np.float32)
    places: dict[Path, list[tuple[Frame, int, int]]] = {}
    for i, row in enumerate(volumes):
        for k, frame in enumerate(row):
            places.setdefault(frame.path, []).append((frame, i, k))
    for path, found in places.items():
        first = found[0][0]
        with reading(path, "DICOM image"):
            stored = read_stored(path, len(found) if first.n_tiles == 1 else 1, first.stored)
        stored = stored if first.n_tiles == 1 else split_mosaic(stored[0], first.n_tiles)
        for frame, i, k in found:
            slope, intercept = frame.scale
            data[i, k] = stored[frame.number].astype(np.float64) * slope + intercept
    return data.transpose(0, 3, 2, 1)
