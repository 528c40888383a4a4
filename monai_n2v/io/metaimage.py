# SPDX-License-Identifier: Apache-2.0
"""MetaImage (MHA, and MHD with its raw file): read here, since ITK trusts its header, and written by ITK."""

import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from monai_n2v.io.atomic import staged
from monai_n2v.io.memory import check_memory
from monai_n2v.io.volume import Refusal, Source, Volume, beside, reading, to_affine

SUFFIXES = (".mha", ".mhd")

_TYPES = {
    "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
_MAX_FIELDS, _MAX_LINE = 1000, 4096
_N_AXES = (2, 3, 4)
# The format's own fields; all others are the user's.
_OWN_FIELDS = {
    *("Comment", "ObjectType", "ObjectSubType", "TransformType", "NDims", "Name", "ID", "ParentID", "CompressedData"),
    *("CompressedDataSize", "CompressionLevel", "BinaryData", "BinaryDataByteOrderMSB", "ElementByteOrderMSB", "Color"),
    *("Position", "Orientation", "Offset", "TransformMatrix", "Rotation", "Origin", "CenterOfRotation"),
    *("AnatomicalOrientation", "ElementSpacing", "DimSize", "HeaderSize", "HeaderSizePerSlice", "Modality"),
    *("SequenceID", "ElementMin", "ElementMax", "ElementNumberOfChannels", "ElementSize", "ElementType"),
    *("ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset", "ElementDataFile", "ElementNBits"),
    *("DistanceUnits", "AcquisitionDate", "ITK_InputFilterName"),
}
_CHUNK = 1 << 20


class _Header:
    """The fields of a MetaImage, each checked when it is asked for.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fields: dict[str, str] = {}
        with path.open("rb") as file:
            while "ElementDataFile" not in self.fields:
                line = file.readline(_MAX_LINE + 1)
                name, equals, value = line.decode("latin-1").partition("=")
                if not line or not equals or len(line) > _MAX_LINE or len(self.fields) > _MAX_FIELDS:
                    raise ValueError(f"no line of a header after {', '.join(list(self.fields)[-1:]) or 'the start'}")
                self.fields[name.strip()] = value.strip()
            self.length = file.tell()

    def refuse(self, name: str, rule: str) -> Refusal:
        """The sentence about a field."""
        got = self.fields.get(name, "none")
        return Refusal(f"{name} must be {rule}, got {got} for {self.path}. Correct the header, or export it again.")

    def numbers(self, names: tuple[str, ...], n: int, default: Any, kind: Callable[[str], Any] = float) -> Any:
        """The numbers of the first of several fields of one meaning, ``default`` where there is none."""
        name = next((name for name in names if name in self.fields), None)
        if name is None:
            return default
        try:
            values = [kind(word) for word in self.fields[name].split()]
        except ValueError:
            values = []
        if len(values) != n or not np.isfinite(values).all():
            raise self.refuse(name, f"{n} number{'s' if n > 1 else ''}")
        return np.asarray(values)

    def is_true(self, name: str, default: bool = False) -> bool:
        value = self.fields.get(name, str(default)).lower()
        if value not in ("true", "false", "1", "0"):
            raise self.refuse(name, "True or False")
        return value in ("true", "1")


class MetaImageSource(Source):
    """Geometry and fields of a MetaImage.

    Args:
        header: as read.
    """

    def __init__(self, header: _Header) -> None:
        one = header.numbers(("NDims",), 1, np.zeros(1), int)
        n = int(one[0])
        if n not in _N_AXES:
            raise header.refuse("NDims", "2, 3 or 4")
        shape = header.numbers(("DimSize",), n, np.zeros(n), int)
        if shape.min() < 1:
            raise header.refuse("DimSize", f"{n} numbers above 0")
        if header.fields.get("ObjectType", "Image") != "Image":
            raise header.refuse("ObjectType", "Image")
        kind = header.fields.get("ElementType", "none")
        n_channels = header.fields.get("ElementNumberOfChannels", "several" if kind.endswith("_ARRAY") else "1")
        if n_channels != "1":
            raise Refusal(
                f"image must hold one real number per voxel, got {n_channels} components for {header.path}. "
                "Convert it first."
            )
        if kind not in _TYPES:
            raise header.refuse("ElementType", f"one of {', '.join(_TYPES)}")
        msb = any(header.is_true(name) for name in ("BinaryDataByteOrderMSB", "ElementByteOrderMSB"))
        self.encoded = np.dtype(_TYPES[kind]).newbyteorder(">" if msb else "<")
        super().__init__([int(k) for k in shape], self.encoded.newbyteorder("="))
        self.origin = header.numbers(("Offset", "Position", "Origin"), n, np.zeros(n))
        self.sides = header.numbers(("ElementSpacing", "ElementSize"), n, np.ones(n))
        # A row per axis.
        matrix = header.numbers(("TransformMatrix", "Rotation", "Orientation"), n * n, np.eye(n))
        self.direction = matrix.reshape(n, n).T
        if n >= 3:  # in ITK's own space, LPS
            self.affine = to_affine((self.direction * self.sides)[:3, :3], self.origin[:3])
        self.fields = {name: value for name, value in header.fields.items() if name not in _OWN_FIELDS}
        self.compressed = header.is_true("CompressedData")

    def write(self, data: np.ndarray, path: Path, dtype: str = "float32") -> None:
        """See `Source.write`."""
        import itk

        image = itk.image_from_array(np.ascontiguousarray(self.to_array(data, dtype).T))
        image.SetOrigin(self.origin.tolist())
        image.SetSpacing(self.sides.tolist())
        image.SetDirection(itk.matrix_from_array(np.ascontiguousarray(self.direction)))
        for key, value in self.fields.items():
            image[key] = value
        with staged(path, self.readers) as place:
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
    with reading(path, "MetaImage"):
        header = _Header(path)
        source = MetaImageSource(header)
        check_memory(source.shape, path)
        _check_fields(header)
        values = _read_voxels(header, source)
    return source.to_volume(values.reshape(source.shape, order="F"), source.sides, path)


def _check_fields(header: _Header) -> None:
    """Refuse what would change the stored values."""
    if not header.is_true("BinaryData", default=True):
        raise header.refuse("BinaryData", "True")
    factors = [("Slope", 1.0), ("Offset", 0.0)]
    names = [f"ElementToIntensityFunction{name}" for name, _ in factors]
    if any(header.numbers((n,), 1, np.array([f]))[0] != f for n, (_, f) in zip(names, factors)):
        raise Refusal(f"image must be stored as it is, got a slope or an offset for {header.path}. Apply it first.")


def _place_of(header: Mapping[str, str], path: Path) -> Path:
    """The file that holds the voxels.

    Raises:
        ValueError: for a list of files, and for a file outside of the header's folder.
    """
    name = header.get("ElementDataFile", "")
    if name.upper() == "LOCAL":
        return path
    return beside(path, name, "ElementDataFile")


def _read_voxels(header: _Header, source: MetaImageSource) -> np.ndarray:
    place = _place_of(header.fields, header.path)
    needed = int(np.prod([*map(int, source.shape)], dtype=object)) * source.encoded.itemsize
    skipped = int(header.numbers(("HeaderSize",), 1, np.zeros(1), int)[0])
    with place.open("rb") as file:
        size = place.stat().st_size
        start = header.length if place == header.path else size - needed if skipped == -1 else skipped
        if start < 0 or start > size:
            raise ValueError(f"{place.name} holds {size} bytes, voxels begin at {start}")
        file.seek(start)
        stored = _inflate(file, needed) if source.compressed else file.read(needed + 1)
    if len(stored) != needed:
        more = "more than " if len(stored) > needed else f"{len(stored)} of "
        raise ValueError(f"{more}{needed} bytes of voxels")
    return np.frombuffer(stored, source.encoded)


def _inflate(file: Any, needed: int) -> bytes:
    """Decompress to the end of the stream, whose checksum zlib compares; little more than what is needed."""
    stream, parts, length = zlib.decompressobj(47), [], 0  # zlib or gzip, as its first bytes tell
    while not stream.eof:
        chunk = stream.unconsumed_tail or file.read(_CHUNK)
        if not chunk:
            raise ValueError("the compressed voxels end too early")
        parts.append(stream.decompress(chunk, _CHUNK))
        length += len(parts[-1])
        if length > needed:
            break
    return b"".join(parts)


def voxel_files_of(path: Path) -> list[Path]:
    """The file that holds the voxels of an ``.mhd`` header.

    Args:
        path: of the header.

    Returns:
        its path, where the header names one.
    """
    try:
        place = _place_of(_Header(path).fields, path)
    except ValueError:  # reading it will say so
        return []
    return [] if place == path else [place]
