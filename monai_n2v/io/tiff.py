# SPDX-License-Identifier: Apache-2.0
"""TIFF images and stacks: ImageJ's and OME's axes, spacing and descriptions where they are, plain tags otherwise."""

from __future__ import annotations

import contextlib
import logging
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from monai_n2v.io.atomic import staged
from monai_n2v.io.memory import check_memory
from monai_n2v.io.volume import Source, Volume, check_kind, reading

if TYPE_CHECKING:
    from tifffile import TiffFile

SUFFIXES = (".tif", ".tiff")

_MM = {"nm": 1e-6, "um": 1e-3, "µm": 1e-3, "\\u00b5m": 1e-3, "μm": 1e-3, "micron": 1e-3, "microns": 1e-3} | {
    "mm": 1.0, "cm": 10.0, "m": 1e3, "inch": 25.4
}  # fmt: skip
# Lossless ways to store voxels; others would alter them again and are replaced by the first.
_LOSSLESS = {"ADOBE_DEFLATE", "DEFLATE", "LZW", "ZSTD", "PACKBITS", "NONE"}
_COUNTED_BY_IMAGEJ = {"ImageJ", "images", "channels", "slices", "frames", "hyperstack"}


class TiffSource(Source):
    """Axes, resolution and descriptions of a TIFF file.

    Args:
        file: opened, with one series of pages.
    """

    def __init__(self, file: TiffFile) -> None:
        series = file.series[0]
        page: Any = series.keyframe
        axes = series.axes
        if "Z" not in axes:  # pages of no declared meaning are slices, as in any viewer
            unknown = max(axes.rfind("I"), axes.rfind("Q"))
            axes = axes if unknown < 0 else axes[:unknown] + "Z" + axes[unknown + 1 :]
        self.axes = axes[::-1]  # fastest axis first, as everywhere in this package
        super().__init__(series.shape[::-1], np.dtype(series.dtype), [axis in "XYZ" for axis in self.axes])
        self.is_colored = "S" in axes or page.photometric.name not in ("MINISBLACK", "MINISWHITE")
        self.photometric = page.photometric.name.lower()
        compression = page.compression.name if page.compression.name in _LOSSLESS else "ADOBE_DEFLATE"
        self.compression = None if compression == "NONE" else compression
        self.resolution = tuple(page.tags[n].value for n in ("XResolution", "YResolution") if n in page.tags)
        self.unit = int(page.tags["ResolutionUnit"].value) if "ResolutionUnit" in page.tags else 2
        self.imagej = dict(file.imagej_metadata or {}) if file.is_imagej else None
        self.ome = file.ome_metadata if file.is_ome else None
        described = page.tags.get("ImageDescription")
        # tifffile's own note of the shape is written anew.
        self.description = None if described is None or file.is_shaped else str(described.value)
        shaped = (file.shaped_metadata or ({},))[0] if file.is_shaped else {}
        self.notes = {key: value for key, value in shaped.items() if key not in ("shape", "axes")}
        self.software, date = (page.tags[n].value if n in page.tags else None for n in ("Software", "DateTime"))
        # Many programs write other dates than TIFF's, which no writer accepts.
        self.date = date if re.fullmatch(r"\d{4}(:\d\d){2} \d\d(:\d\d){2}", str(date)) else None

    @property
    def sides(self) -> list[float]:
        """Voxel sides of the spatial axes in mm, 1 where the file has no unit of length."""
        sides = {"X": 1.0, "Y": 1.0, "Z": 1.0}
        if self.ome is not None:
            pixels = _pixels(ElementTree.fromstring(self.ome))
            for axis in sides:
                unit = _MM.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"), 1.0)
                sides[axis] = float(pixels.get(f"PhysicalSize{axis}", 1.0 / unit)) * unit
        elif self.resolution:
            named = str((self.imagej or {}).get("unit", "")).lower()
            unit = _MM.get(named, {2: 25.4, 3: 10.0}.get(self.unit, 1.0))
            for axis, (pixels_, length) in zip("XY", self.resolution):
                sides[axis] = length / pixels_ * unit if pixels_ else 1.0
            sides["Z"] = float((self.imagej or {}).get("spacing", 1.0)) * (unit if named else 1.0)
        return [sides[axis] for axis in self.axes if axis in sides]

    def write(self, data: np.ndarray, path: Path, dtype: str = "float32") -> None:
        """See `Source.write`."""
        import tifffile

        values = self.to_array(data, dtype).T
        options: dict[str, Any] = {"photometric": self.photometric, "datetime": self.date}
        options |= {"software": self.software and _as_tag(str(self.software)), "compression": self.compression}
        if self.resolution:
            options |= {"resolution": self.resolution, "resolutionunit": self.unit}
        if self.imagej is not None:
            kept = {k: _spell_micro(k, v) for k, v in self.imagej.items() if k not in _COUNTED_BY_IMAGEJ}
            # ImageJ's stacks are not compressed.
            options |= {"imagej": True, "compression": None, "metadata": {**kept, "axes": self.axes[::-1]}}
        elif self.ome is not None:
            n_planes = values.size // (values.shape[-1] * values.shape[-2])
            options |= {"description": _renew_ome(self.ome, values.dtype, n_planes), "metadata": None}
        elif self.description is not None:
            options |= {"description": _as_tag(self.description), "metadata": None}
        else:
            options |= {"metadata": {**self.notes, "axes": self.axes[::-1]}}
        with staged(path) as place:
            tifffile.imwrite(place, values, **options)


def _as_tag(text: str) -> str | bytes:
    """Text as TIFF takes it: ASCII, or bytes that are left as they are."""
    return text if text.isascii() else text.encode()


def _spell_micro(key: str, value: Any) -> Any:
    """ImageJ's description is ASCII; it spells the micro sign by its number."""
    if not isinstance(value, str) or value.isascii() or key in ("Info", "Labels"):
        return value
    return value.replace("\u00b5", "\\u00B5").replace("\u03bc", "\\u00B5").encode("ascii", "replace").decode()


def save_plain(data: np.ndarray, path: Path) -> None:
    """Write voxels of another format as a TIFF of float32, without further description.

    Args:
        data: ``(n_volumes, x, y[, z])``.
        path: of the file.
    """
    import tifffile

    with staged(path) as place:
        tifffile.imwrite(place, np.ascontiguousarray((data[0] if len(data) == 1 else data).T, dtype=np.float32))


def _pixels(root: ElementTree.Element) -> ElementTree.Element:
    found = next((element for element in root.iter() if element.tag.rpartition("}")[2] == "Pixels"), None)
    if found is None:
        raise ValueError("OME metadata without Pixels")
    return found


def _renew_ome(ome: str, stored: np.dtype, n_planes: int) -> str:
    """The source's OME description for another file of the same planes: type, identity and place of the planes."""
    root = ElementTree.fromstring(ome)
    namespace = root.tag[1:].partition("}")[0] if root.tag.startswith("{") else ""
    ElementTree.register_namespace("", namespace)
    pixels = _pixels(root)
    name = {"float32": "float", "float64": "double"}.get(stored.name, stored.name)
    if pixels.get("Type") != name:
        pixels.attrib.pop("SignificantBits", None)
    pixels.set("Type", name)
    pixels.set("BigEndian", "false")
    if "UUID" in root.attrib:
        root.set("UUID", f"urn:uuid:{uuid.uuid4()}")
    tag = f"{{{namespace}}}TiffData" if namespace else "TiffData"
    planes = pixels.findall(tag)
    place = list(pixels).index(planes[0]) if planes else len(pixels)
    for element in planes:
        pixels.remove(element)
    pixels.insert(place, ElementTree.Element(tag, {"IFD": "0", "PlaneCount": str(n_planes)}))
    text = ElementTree.tostring(root, encoding="unicode")
    # TIFF's descriptions are ASCII; XML can say the rest by number.
    return '<?xml version="1.0" encoding="UTF-8"?>' + text.encode("ascii", "xmlcharrefreplace").decode("ascii")


@contextlib.contextmanager
def _errors_raised() -> Iterator[None]:
    """Raise what tifffile only logs: of a truncated stack it would return the first pages as if they were all."""
    errors: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: errors.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("tifffile")
    propagate = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
    if errors:
        raise ValueError(errors[0])


def read(path: Path) -> Volume:
    """Read a TIFF image or stack.

    Args:
        path: ``.tif`` or ``.tiff``. Axes X, Y and Z, and pages without a declared meaning, are spatial; others (time,
            channels) are merged into volumes.

    Returns:
        the volume.

    Raises:
        ValueError: where it cannot be read, holds colors, or several images of different shapes.
    """
    import tifffile

    with reading(path, "TIFF file"), _errors_raised(), tifffile.TiffFile(path) as file:
        n_series = len(file.series)
        source = TiffSource(file)
        check_kind(source.stored, path, colors=source.is_colored)
        check_memory(source.shape, path)
        sides = source.sides
        values = file.series[0].asarray() if n_series == 1 else None
    if values is None:
        raise ValueError(
            f"path must hold one image or stack, got {n_series} of different shapes in {path}. Split the file."
        )
    return source.to_volume(values.T, sides, path)
