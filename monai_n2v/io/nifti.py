# SPDX-License-Identifier: Apache-2.0
"""NIfTI-1 and NIfTI-2, one file or two: the whole header is kept, of which MONAI's writer keeps the affine only."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from monai_n2v.io.atomic import staged
from monai_n2v.io.memory import check_memory
from monai_n2v.io.volume import Refusal, Source, Volume, check_kind, quantize, reading, where

if TYPE_CHECKING:
    import nibabel

SUFFIXES = (".nii.gz", ".nii", ".hdr", ".img")

_GZIP = b"\x1f\x8b"
_HEADER_SIZES = {348, 540}  # what both versions begin with
_CHUNK = 1 << 20


class NiftiSource(Source):
    """A NIfTI image and its header: affine, sform and qform codes, units, TR, description, extensions.

    Args:
        image: as nibabel loads it.
    """

    def __init__(self, image: nibabel.Nifti1Pair) -> None:
        placed = int(image.header["sform_code"]) > 0 or int(image.header["qform_code"]) > 0
        # Without either code nobody has said where the image lies; nibabel's affine is a guess.
        affine = np.asarray(image.affine, dtype=np.float64) if placed else None
        super().__init__(image.shape, image.get_data_dtype(), affine=affine)
        self.image = image

    def to_image(
        self, data: np.ndarray, dtype: str = "float32", kind: type[nibabel.Nifti1Pair] | None = None
    ) -> nibabel.Nifti1Pair:
        """Put voxels into a copy of the image, of another ``kind`` where one is named; see `Source.write`."""
        kind = kind or type(self.image)
        values, stored = self.split_axes(data), self.stored if dtype == "input" else np.dtype(np.float32)
        header = self.image.header.copy()
        if self.is_complex:
            stored = np.result_type(stored, np.complex64)
        header.set_data_dtype(stored)
        if stored.kind not in "iu":
            return kind(values.astype(stored.newbyteorder("="), copy=False), self.image.affine, header)
        proxy: Any = self.image.dataobj
        slope, intercept = (float(proxy.slope), float(proxy.inter)) if hasattr(proxy, "slope") else (1.0, 0.0)
        image = kind(quantize(values, stored, slope, intercept), self.image.affine, header)
        # With a slope set, nibabel stores the voxels as they are.
        image.header.set_slope_inter(slope, intercept)
        return image

    def write(self, data: np.ndarray, path: Path, dtype: str = "float32") -> None:
        """See `Source.write`; a pair may be written as one file too."""
        import nibabel

        second = isinstance(self.image.header, nibabel.Nifti2Header)
        kinds = (nibabel.Nifti2Pair, nibabel.Nifti2Image) if second else (nibabel.Nifti1Pair, nibabel.Nifti1Image)
        image = self.to_image(data, dtype, kinds[path.name.lower().endswith(SUFFIXES[:2])])
        with staged(path, self.readers) as place:
            nibabel.save(image, place)


def read(path: Path) -> Volume:
    """Read a NIfTI file.

    Args:
        path: ``.nii``, ``.nii.gz``, or either file of a ``.hdr`` and ``.img`` pair; 2D, 3D, or with further volumes
            along further axes.

    Returns:
        the volume, intensities scaled by the header's slope and intercept.

    Raises:
        ValueError: where it cannot be read or is not an image of numbers.
    """
    import nibabel

    _check_name(path)
    with reading(path, "NIfTI file"):
        with _without_remarks():
            image = nibabel.load(path)
        if not isinstance(image, nibabel.Nifti1Pair):  # single files and NIfTI-2 are subclasses
            raise _other_kind(path, type(image).__name__)
    return to_volume(image, path, _raw_sides(image))


def _check_name(path: Path) -> None:
    """Refuse a good file whose ending says another compression than its first bytes."""
    with path.open("rb") as file:
        start = file.read(4)
    named = path.name.lower().endswith(".gz")
    if start[:2] == _GZIP and not named:
        raise Refusal(
            f"a name must end in .gz where the file holds gzip data, got {path}. Rename it to {path.name}.gz."
        )
    if named and {int.from_bytes(start, order) for order in ("little", "big")} & _HEADER_SIZES:
        raise Refusal(f"a name must not end in .gz where the file is not compressed, got {path}. Take away the .gz.")


def _other_kind(path: Path, kind: str) -> Refusal:
    if "Analyze" in kind:
        return Refusal(
            f"path must be a NIfTI file, got Analyze 7.5 in {path}, which does not tell left from right. "
            "Convert it to NIfTI by a program that knows how it was written."
        )
    return Refusal(f"path must be a NIfTI file, got {kind} in {path}. Convert it to NIfTI.")


@contextlib.contextmanager
def _without_remarks() -> Iterator[None]:
    """Nibabel tells of small faults by its own logger; what matters becomes a note or a refusal."""
    from nibabel import imageglobals

    level = imageglobals.logger.level
    imageglobals.logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        imageglobals.logger.setLevel(level)


def _raw_sides(image: nibabel.Nifti1Pair) -> list[float]:
    """The voxel sides as they stand in the file: nibabel replaces those that are not positive."""
    holder = image.file_map.get("header", image.file_map["image"])
    with holder.get_prepare_fileobj("rb") as file:
        header = type(image.header).from_fileobj(file, check=False)
    return [float(side) for side in header["pixdim"][1 : 1 + min(3, len(image.shape))]]


def _read_voxels(image: nibabel.Nifti1Pair, kind: type) -> np.ndarray:
    """The voxels of an image, of a file up to its last byte: only there stand gzip's checksum and length."""
    from nibabel.arrayproxy import ArrayProxy

    proxy: Any = image.dataobj
    holder = image.file_map["image"]
    if holder.filename is None or not isinstance(proxy, ArrayProxy):
        return np.asarray(proxy, dtype=kind)
    spec = proxy.shape, proxy.dtype, proxy.offset, proxy.slope, proxy.inter
    n_bytes = int(np.prod([*map(int, proxy.shape)], dtype=object)) * proxy.dtype.itemsize
    with holder.get_prepare_fileobj("rb") as file:
        values: np.ndarray = np.asarray(ArrayProxy(file, spec, mmap=False), dtype=kind)
        file.seek(proxy.offset + n_bytes)
        excess = 0
        while chunk := file.read(_CHUNK):
            excess += len(chunk)
    if excess:
        raise ValueError(f"{excess} bytes after the voxels")
    return values


def to_volume(image: nibabel.Nifti1Pair, name: object = "", raw_sides: Sequence[float] = ()) -> Volume:
    """Take the voxels of a NIfTI image, further axes than three merged into volumes; of complex ones both parts.

    Args:
        image: the image.
        name: of its file, for messages.
        raw_sides: voxel sides as they stand in the file.

    Returns:
        the volume.

    Raises:
        ValueError: where it cannot be read, for RGB voxels, or fewer than two spatial axes.
    """
    source = NiftiSource(image)
    check_kind(np.dtype(np.float32) if source.is_complex else source.stored, name)
    check_memory(source.shape, name)
    with reading(name, "NIfTI file"):
        values = _read_voxels(image, np.complex64 if source.is_complex else np.float32)
    notes = []
    for axis, side in enumerate(raw_sides):
        if side <= 0 and image.shape[axis] > 1:
            instead = image.header.get_zooms()[axis]
            notes.append(f"pixdim[{axis + 1}] of the header is {side:g}: a voxel side of {instead:g} is taken.")
    try:
        named = image.header.get_xyzt_units()[0]
    except KeyError:
        got = int(image.header["xyzt_units"])
        raise Refusal(f"xyzt_units must be a code of NIfTI, got {got}{where(name)}. Correct the header.") from None
    unit = {"meter": 1e3, "micron": 1e-3}.get(named, 1.0)
    return source.to_volume(values, [float(zoom) * unit for zoom in image.header.get_zooms()], name, notes)


def save_as_nifti(data: np.ndarray, source: Source, path: Path, dtype: str = "float32") -> None:
    """Write voxels of another format as a NIfTI-1 file with its geometry.

    Args:
        data: ``(n_volumes, *spatial)``.
        source: of three spatial axes, with an affine.
        path: ``.nii`` or ``.nii.gz``.
        dtype: ``"float32"``, or ``"input"`` for whole numbers where the source stores whole numbers.
    """
    import nibabel

    shape = source.spatial_shape
    values = np.moveaxis(data.reshape(-1, *shape), 0, -1)
    if dtype == "input" and source.stored.kind in "iub":
        fits = np.iinfo(np.int16).min <= data.min() and data.max() <= np.iinfo(np.int16).max
        values = quantize(values, np.dtype(np.int16 if fits else np.int32))
    image = nibabel.Nifti1Image(values[..., 0] if values.shape[-1] == 1 else values, source.affine)
    image.header.set_xyzt_units("mm")
    with staged(path, source.readers) as place:
        nibabel.save(image, place)
