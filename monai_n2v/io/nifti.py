# SPDX-License-Identifier: Apache-2.0
"""NIfTI-1 and NIfTI-2, one file or two: the whole header is kept, of which MONAI's writer keeps the affine only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from monai_n2v.io.atomic import staged
from monai_n2v.io.memory import check_memory
from monai_n2v.io.volume import Source, Volume, check_kind, quantize, reading

if TYPE_CHECKING:
    import nibabel

SUFFIXES = (".nii.gz", ".nii", ".hdr", ".img")


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
        with staged(path) as place:
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

    with reading(path, "NIfTI file"):
        image = nibabel.load(path)
        if not isinstance(image, nibabel.Nifti1Pair):  # single files and NIfTI-2 are subclasses
            raise TypeError(f"{type(image).__name__}, not NIfTI")
    return to_volume(image, path)


def to_volume(image: nibabel.Nifti1Pair, name: object = "") -> Volume:
    """Take the voxels of a NIfTI image, further axes than three merged into volumes; of complex ones both parts.

    Args:
        image: the image.
        name: of its file, for messages.

    Returns:
        the volume.

    Raises:
        ValueError: where it cannot be read, for RGB voxels, or fewer than two spatial axes.
    """
    source = NiftiSource(image)
    check_kind(np.dtype(np.float32) if source.is_complex else source.stored, name)
    check_memory(source.shape, name)
    with reading(name, "NIfTI file"):
        values = np.asarray(image.dataobj, dtype=np.complex64 if source.is_complex else np.float32)
    unit = {"meter": 1e3, "micron": 1e-3}.get(image.header.get_xyzt_units()[0], 1.0)
    return source.to_volume(values, [float(zoom) * unit for zoom in image.header.get_zooms()], name)


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
    with staged(path) as place:
        nibabel.save(image, place)
