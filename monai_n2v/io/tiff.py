# SPDX-License-Identifier: Apache-2.0
"""TIFF images and stacks: ImageJ's and OME's axes, spacing and descriptions where they are, plain tags otherwise."""

from __future__ import annotations

import contextlib
import logging
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from monai_n2v.io.atomic import staged
from monai_n2v.io.memory import check_memory
from monai_n2v.io.ome import check_set, pixels_of, renew
from monai_n2v.io.volume import Refusal, Source, Volume, check_kind, quantize, reading

if TYPE_CHECKING:
    from tifffile import TiffFile

SUFFIXES = (".tif", ".tiff")

_MM = {"nm": 1e-6, "um": 1e-3, "µm": 1e-3, "\\u00b5m": 1e-3, "μm": 1e-3, "micron": 1e-3, "microns": 1e-3} | {
    "mm": 1.0, "cm": 10.0, "m": 1e3, "inch": 25.4
}  # fmt: skip
# Lossless ways to store voxels; others would alter them again and are replaced by the first.
_LOSSLESS = {"ADOBE_DEFLATE", "DEFLATE", "LZW", "ZSTD", "PACKBITS", "NONE"}
_CALIBRATION = {"cf", "function", *(f"c{i}" for i in range(5))}
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
        gray, n_samples = page.photometric.name in ("MINISBLACK", "MINISWHITE"), int(page.samplesperpixel)
        self.found = page.photometric.name if not gray else f"{n_samples}-channel" if "S" in axes else ""
        self.photometric = page.photometric.name.lower()
        compression = page.compression.name if page.compression.name in _LOSSLESS else "ADOBE_DEFLATE"
        self.compression = None if compression == "NONE" else compression
        self.resolution = tuple(page.tags[n].value for n in ("XResolution", "YResolution") if n in page.tags)
        self.unit = int(page.tags["ResolutionUnit"].value) if "ResolutionUnit" in page.tags else 2
        self.imagej = dict(file.imagej_metadata or {}) if file.is_imagej else None
        self.ome = file.ome_metadata if file.is_ome else None
        self.calibration = _calibration_of(self.imagej or {}, self.stored)
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
            pixels = pixels_of(ElementTree.fromstring(self.ome))
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

        slope, intercept = self.calibration
        real = (np.dtype(np.float32), 1.0, 0.0)
        values = quantize(self.split_axes(data), *((self.stored, slope, intercept) if dtype == "input" else real)).T
        options: dict[str, Any] = {"photometric": self.photometric, "datetime": self.date}
        options |= {"software": self.software and _as_tag(str(self.software)), "compression": self.compression}
        if self.resolution:
            options |= {"resolution": self.resolution, "resolutionunit": self.unit}
        if self.imagej is not None:
            # Other numbers than ImageJ's own are real values already.
            left_out = _COUNTED_BY_IMAGEJ | (set() if dtype == "input" else _CALIBRATION)
            kept = {k: _spell_micro(k, v) for k, v in self.imagej.items() if k not in left_out}
            # ImageJ's stacks are not compressed.
            options |= {"imagej": True, "compression": None, "metadata": {**kept, "axes": self.axes[::-1]}}
        elif self.ome is not None:
            n_planes = values.size // (values.shape[-1] * values.shape[-2])
            options |= {"description": renew(self.ome, values.dtype, n_planes), "metadata": None}
        elif self.description is not None:
            options |= {"description": _as_tag(self.description), "metadata": None}
        else:
            options |= {"metadata": {**self.notes, "axes": self.axes[::-1]}}
        with staged(path, self.readers) as place:
            tifffile.imwrite(place, values, **options)


def _calibration_of(imagej: dict[str, Any], stored: np.dtype) -> tuple[float, float]:
    """Slope and intercept of ImageJ's calibrated whole numbers; signed ones are stored as unsigned ones plus 32768.

    Raises:
        ValueError: for a calibration by another function than a straight line.
    """
    if stored.kind not in "iu" or not ({"cf", "c0", "c1"} & imagej.keys()):
        return 1.0, 0.0
    function, intercept, slope = (imagej.get(name, default) for name, default in (("cf", 0), ("c0", 0), ("c1", 1)))
    if function != 0 or not (np.isfinite([slope, intercept]).all() and slope):
        raise ValueError(f"ImageJ's calibration is cf={function}, c0={intercept}, c1={slope}, no straight line")
    return float(slope), float(intercept)


def _as_tag(text: str) -> str | bytes:
    """Text as TIFF takes it: ASCII, or bytes that are left as they are."""
    return text if text.isascii() else text.encode()


def _spell_micro(key: str, value: Any) -> Any:
    """ImageJ's description is ASCII; it spells the micro sign by its number."""
    if not isinstance(value, str) or value.isascii() or key in ("Info", "Labels"):
        return value
    return value.replace("\u00b5", "\\u00B5").replace("\u03bc", "\\u00B5").encode("ascii", "replace").decode()


def save_plain(data: np.ndarray, source: Source, path: Path) -> None:
    """Write voxels of another format as a TIFF of float32, without further description.

    Args:
        data: ``(n_volumes, x, y[, z])``.
        source: what it came from.
        path: of the file.
    """
    import tifffile

    with staged(path, source.readers) as place:
        tifffile.imwrite(place, np.ascontiguousarray((data[0] if len(data) == 1 else data).T, dtype=np.float32))


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


def _check_whole(file: TiffFile) -> None:
    """Refuse a file that ends too early; tifffile only logs that, and gives the pages that are left."""
    size, tiff, n_pages = file.filehandle.size, file.tiff, len(file.pages)
    last = file.pages[n_pages - 1]
    file.filehandle.seek(last.offset)
    (n_tags,) = struct.unpack(tiff.tagnoformat, file.filehandle.read(tiff.tagnosize))
    file.filehandle.seek(last.offset + tiff.tagnosize + n_tags * tiff.tagsize)
    if any(file.filehandle.read(tiff.offsetsize)):
        raise ValueError(f"the file ends after {n_pages} of its pages")
    for number, page in enumerate(file.pages):
        ends = [start + length for start, length in zip(page.dataoffsets, page.databytecounts)]
        if ends and max(ends) > size:
            raise ValueError(f"the voxels of page {number + 1} lie behind the end of the file")
    declared = int((file.imagej_metadata or {}).get("images", 1)) if file.is_imagej else 1
    series = file.series[0]
    n_planes = series.size // max(1, series.keyframe.size)
    if declared > 1 and n_planes != declared:
        raise ValueError(f"{n_planes} of {declared} images can be found")


def read(path: Path) -> Volume:
    """Read a TIFF image or stack.

    Args:
        path: ``.tif`` or ``.tiff``. Axes X, Y and Z, and pages without a declared meaning, are spatial; others (time,
            channels) are merged into volumes. Of an OME set of several files, the first one stands for all.

    Returns:
        the volume.

    Raises:
        ValueError: where it cannot be read, holds colors, or several images.
    """
    import tifffile

    with reading(path, "TIFF file"), _errors_raised(), tifffile.TiffFile(path) as file:
        _check_whole(file)
        if file.is_ome:
            check_set(path, file.ome_metadata or "")
        if len(file.series) != 1:
            raise Refusal(f"path must hold one image or stack, got {len(file.series)} in {path}. Split the file.")
        source = TiffSource(file)
        check_kind(source.stored, path, source.found)
        check_memory(source.shape, path)
        sides = source.sides
        values = file.series[0].asarray()
    slope, intercept = source.calibration
    if source.calibration != (1.0, 0.0):
        values = values.astype(np.float64) * slope + intercept
    return source.to_volume(values.T, sides, path)
