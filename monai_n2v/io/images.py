# SPDX-License-Identifier: Apache-2.0
"""Images in and out: one way to read and write them, whatever the format."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from monai_n2v.io import dicom_read, metaimage, nifti, npy, nrrd, png, tiff
from monai_n2v.io.atomic import readers_of
from monai_n2v.io.volume import Volume

_FORMATS = (nifti, nrrd, metaimage, tiff, png, npy)
_READERS: dict[tuple[str, ...], Callable[[Path], Volume]] = {one.SUFFIXES: one.read for one in _FORMATS}
# The endings of all files that can be read; a DICOM series is a folder.
SUFFIXES = tuple(suffix for family in _READERS for suffix in family)
_NIFTI_FILES = (".nii.gz", ".nii")
# Formats that know where their voxels lie, and so can be written as NIfTI.
_WITH_GEOMETRY = (*nrrd.SUFFIXES, *metaimage.SUFFIXES)


def split_name(path: str | Path) -> tuple[str, str]:
    """Split a file name into stem and image suffix; the suffix of a folder or of an unknown kind is empty."""
    name = Path(path).name
    n_suffix = next((len(s) for s in SUFFIXES if name.lower().endswith(s) and len(name) > len(s)), 0)
    return name[: len(name) - n_suffix], name[len(name) - n_suffix :]


def _family(suffix: str) -> tuple[str, ...]:
    return next((family for family in _READERS if suffix.lower() in family), ())


def read_volume(path: str | Path, series: str | None = None) -> Volume:
    """Read an image or a DICOM series.

    Args:
        path: a file of a known kind, or a folder with the files of a DICOM series.
        series: of a folder with several series, the Series Instance UID or number to read.

    Returns:
        the volume; nothing is resampled or turned.

    Raises:
        FileNotFoundError: where there is no such path.
        ValueError: where it cannot be read, or holds something else than an image of real numbers.
    """
    path = Path(path)
    check_source(path)
    if path.is_dir():
        return _placed(dicom_read.read_dicom(path, series), path)
    if series is not None:
        raise ValueError(f"series must come with a folder of DICOM files, got the file {path}. Leave it out.")
    return _placed(_READERS[_family(split_name(path)[1])](path), path)


def _placed(volume: Volume, path: Path) -> Volume:
    """Tell of the volume where it was read, and of its source who may."""
    volume.source.readers = readers_of(path)
    if path.is_dir():
        volume.source.readers &= readers_of(next(one for one in sorted(path.iterdir()) if one.is_file()))
    return replace(volume, path=str(path))


def check_source(path: Path) -> None:
    """Refuse what cannot be an image, without reading it.

    Args:
        path: a file or folder.

    Raises:
        FileNotFoundError: where there is none.
        ValueError: for a file of an unknown kind or an empty one.
    """
    if not path.exists():
        raise FileNotFoundError(f"path must be an existing file, got {path}. Check the path.")
    if path.is_dir():
        return
    if not _family(split_name(path)[1]):
        raise ValueError(
            f"path must end in {', '.join(SUFFIXES)}, or be a folder with a DICOM series, got {path}. Convert it first."
        )
    if not path.is_file():
        raise ValueError(f"path must be a regular file, got {path}. Copy it to a file first.")
    if path.stat().st_size == 0:
        raise ValueError(f"path must be a readable file, got {path}, which is empty. Check that it is complete.")


def save_volume(data: np.ndarray, volume: Volume, path: str | Path, dtype: str = "float32") -> None:
    """Write denoised voxels in the manner of the volume they came from, whole or not at all.

    Args:
        data: ``(n_volumes, *spatial)`` like ``volume.data``.
        volume: what was denoised.
        path: of the file, or of the folder for a DICOM series; as `check_target` allows. A format with geometry may
            be written as NIfTI too.
        dtype: ``"float32"``, or ``"input"`` for the stored type, rounded and clipped. PNG and DICOM hold whole numbers
            and are always written in the stored type.

    Raises:
        OSError: where it cannot be written.
        ValueError: for a NIfTI target of an image without geometry.
    """
    path = Path(path)
    check_geometry(volume, path)
    suffix = split_name(path)[1].lower()
    if suffix in _NIFTI_FILES and not isinstance(volume.source, nifti.NiftiSource):
        nifti.save_as_nifti(data, volume.source, path, dtype)
    elif suffix in tiff.SUFFIXES and isinstance(volume.source, png.PngSource):
        tiff.save_plain(data, volume.source, path)
    else:
        volume.source.write(data, path, dtype)


def check_geometry(volume: Volume, target: Path) -> None:
    """Refuse a NIfTI target of an image that does not tell where it lies, before any work is done.

    Args:
        volume: as read.
        target: where voxels of it are to be written.

    Raises:
        ValueError: where the source has no place in space.
    """
    is_nifti = split_name(target)[1].lower() in _NIFTI_FILES
    if is_nifti and volume.source.affine is None and not isinstance(volume.source, nifti.NiftiSource):
        raise ValueError(
            f"output must be of the input's kind, got {target}: the input does not tell where it lies. "
            "Choose another suffix, and leave residual and noise map of such a DICOM series out."
        )


def targets_of(path: str | Path) -> tuple[str, ...]:
    """The endings a result of an image may have; ``""`` stands for a folder, for a DICOM series."""
    path = Path(path)
    suffix = split_name(path)[1].lower()
    if path.is_dir():
        return ("", *_NIFTI_FILES)
    if suffix in png.SUFFIXES:
        return (*png.SUFFIXES, *tiff.SUFFIXES)  # for those who want more than whole numbers
    return (*_family(suffix), *(_NIFTI_FILES if suffix in _WITH_GEOMETRY else ()))


def float_suffix(source: str | Path, suffix: str) -> str:
    """The ending under which values of any kind can be kept beside a result with ``suffix``.

    Args:
        source: the noisy image.
        suffix: ending of the denoised one.

    Returns:
        ``suffix``, or that of another format where it holds whole numbers only.
    """
    if Path(source).is_dir():
        return ".nii.gz"
    return ".tif" if suffix.lower() in png.SUFFIXES else suffix


def partners_of(path: Path) -> list[Path]:
    """The files that are written along with one of a two-file format."""
    stem, suffix = split_name(path)
    others = {".hdr": [".img"], ".img": [".hdr"], ".mhd": [".raw", ".zraw"]}.get(suffix.lower(), [])
    return [path.with_name(stem + other) for other in others]


def voxel_files_of(path: Path) -> list[Path]:
    """The files that hold the voxels of an image whose own file holds its header only."""
    if path.suffix.lower() == ".mhd" and path.is_file():
        return metaimage.voxel_files_of(path)
    return partners_of(path)


def default_target(path: str | Path, folder: str | Path | None = None) -> Path:
    """Where the result of an image goes by default: of the same kind, named after it.

    Args:
        path: the noisy image.
        folder: where; beside ``path`` by default.

    Returns:
        ``<folder>/<stem>_denoised<suffix>``.
    """
    path = Path(path)
    stem, suffix = split_name(path) if not path.is_dir() else (path.resolve().name, "")
    return (path.parent if folder is None else Path(folder)) / f"{stem}_denoised{suffix}"


def check_target(target: Path, source: Path) -> None:
    """Refuse a place where the result of an image cannot be written, before any work is done.

    Args:
        target: of the file to write, or of the folder for a DICOM series.
        source: the noisy image.

    Raises:
        ValueError: for a suffix that does not suit the source.
        IsADirectoryError: for a folder where a file is to be.
        PermissionError: where the folder, or the nearest above that exists, may not be written to.
    """
    allowed = targets_of(source)
    suffix = split_name(target)[1].lower()
    if suffix not in allowed or (suffix == "" and target.suffix):
        kinds = ", ".join(s or "a folder name" for s in allowed)
        raise ValueError(
            f"output must be of the input's kind ({kinds}), got {target}. Name it {default_target(source).name}."
        )
    if target.is_dir() and suffix:
        raise IsADirectoryError(f"output must be a file, got the folder {target}. Name the file in it.")
    check_writable(target, "output")


def check_writable(target: Path, argument: str) -> None:
    """Refuse a place that cannot be written to: in a folder without permission, or below a file.

    Args:
        target: of the file or folder to make.
        argument: what it is called in messages.

    Raises:
        PermissionError: where the nearest folder above that exists may not be written to.
    """
    folder = target.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{argument} must be writable, got {target}. Choose a folder you may write to.")
