# SPDX-License-Identifier: Apache-2.0
"""MetaImage (MHA, and MHD with its raw file) by ITK, geometry and fields kept."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from monai_n2v.io.atomic import staged
from monai_n2v.io.memory import check_memory
from monai_n2v.io.volume import Source, Volume, reading, to_affine

SUFFIXES = (".mha", ".mhd")

_KINDS = ("unsigned_char", "short", "unsigned_short", "int", "unsigned_int", "float", "double")
_MAX_FIELDS = 1000
# What ITK itself puts into the dictionary of fields.
_OWN_FIELDS = {"ITK_InputFilterName", "origin", "spacing", "direction"}


class MetaImageSource(Source):
    """Geometry and fields of a MetaImage.

    Args:
        image: as ITK reads it.
        compressed: whether the file's voxels were compressed.
    """

    def __init__(self, image: Any, compressed: bool) -> None:
        import itk

        view = itk.array_view_from_image(image)
        super().__init__(view.shape[::-1], view.dtype)  # ITK's arrays have the slowest axis first
        self.origin, self.sides = (np.asarray(v, dtype=np.float64) for v in (image.GetOrigin(), image.GetSpacing()))
        self.direction = itk.array_from_matrix(image.GetDirection())
        if view.ndim >= 3:  # in ITK's own space, LPS
            self.affine = to_affine((self.direction * self.sides)[:3, :3], self.origin[:3])
        self.fields = {key: image[key] for key in image.keys() if key not in _OWN_FIELDS}  # noqa: SIM118 - no dict
        self.compressed = compressed

    def write(self, data: np.ndarray, path: Path, dtype: str = "float32") -> None:
        """See `Source.write`."""
        import itk

        image = itk.image_from_array(np.ascontiguousarray(self.to_array(data, dtype).T))
        image.SetOrigin(self.origin.tolist())
        image.SetSpacing(self.sides.tolist())
        image.SetDirection(itk.matrix_from_array(self.direction))
        for key, value in self.fields.items():
            image[key] = value
        with staged(path) as place:
            itk.imwrite(image, str(place), compression=self.compressed)


def read(path: Path) -> Volume:
    """Read a MetaImage.

    Args:
        path: ``.mha``, or ``.mhd`` with its raw file beside it; 2D to 4D.

    Returns:
        the volume; the fourth axis is merged into volumes.

    Raises:
        ValueError: where it cannot be read or is not an image of real numbers.
    """
    import itk

    header = _header_of(path)
    with reading(path, "MetaImage"):
        _check_header(path, header)
        image = itk.imread(str(path))
        source = MetaImageSource(image, header.get("CompressedData", "False").lower() == "true")
    return source.to_volume(itk.array_view_from_image(image).T, source.sides, path)


def _check_header(path: Path, header: Mapping[str, str]) -> None:
    """Refuse what is too large, and colors and vectors, for which ITK's Python has few types and a page of an error."""
    import itk

    io: Any = itk.MetaImageIO.New()
    io.SetFileName(str(path))
    io.ReadImageInformation()
    n_components, kind = io.GetNumberOfComponents(), io.GetComponentTypeAsString(io.GetComponentType())
    check_memory([io.GetDimensions(axis) for axis in range(io.GetNumberOfDimensions())], path)
    if n_components != 1:
        raise ValueError(
            f"image must hold one real number per voxel, got {n_components} components for {path}. Convert it first."
        )
    if kind not in _KINDS:
        kinds = ", ".join(_KINDS)
        raise ValueError(f"image must be of a type ITK reads here ({kinds}), got {kind} for {path}. Convert it first.")
    slope, offset = (header.get(f"ElementToIntensityFunction{name}") for name in ("Slope", "Offset"))
    if float(slope or 1) != 1 or float(offset or 0) != 0:
        raise ValueError(f"image must be stored as it is, got a slope or an offset for {path}. Apply it first.")


def _header_of(path: Path) -> dict[str, str]:
    """The fields of a MetaImage as they stand in its header."""
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        for line in file:
            name, _, value = line.decode("latin-1").partition("=")
            fields[name.strip()] = value.strip()
            if name.strip() == "ElementDataFile" or len(fields) > _MAX_FIELDS:
                break
    return fields


def voxel_files_of(path: Path) -> list[Path]:
    """The file that holds the voxels of an ``.mhd`` header.

    Args:
        path: of the header.

    Returns:
        its path, where the header names one.
    """
    name = _header_of(path).get("ElementDataFile", "LOCAL")
    return [] if name.startswith(("LOCAL", "LIST")) else [path.parent / name]
