# SPDX-License-Identifier: Apache-2.0
"""PNG in 8 or 16 bits of gray, its text and resolution kept."""

import functools
import logging
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monai_n2v.io.atomic import staged
from monai_n2v.io.volume import Refusal, Source, Volume, check_kind, reading

logger = logging.getLogger(__name__)

SUFFIXES = (".png",)

_FOUND = {"P": "palette", "LA": "gray and transparency", "1": "one-bit"}
_GRAY = {"L": np.uint8, "I;16": np.uint16, "I;16B": np.uint16, "I": np.uint16}


class PngSource(Source):
    """Text and resolution of a PNG file.

    Args:
        shape: ``(width, height)``.
        stored: uint8 or uint16.
        info: as Pillow reads it.
    """

    def __init__(self, shape: Sequence[int], stored: np.dtype, info: dict[str, Any]) -> None:
        super().__init__(shape, stored)
        self.info = info

    def write(self, data: np.ndarray, path: Path, dtype: str = "float32") -> None:
        """See `Source.write`; PNG holds integers only, so ``dtype`` is always that of the input."""
        from PIL import Image
        from PIL.PngImagePlugin import PngInfo

        if dtype != "input":
            _tell_of_rounding()
        text = PngInfo()
        for key, value in self.info.items():
            if isinstance(value, str):
                text.add_text(key, value)
        options = {"dpi": self.info["dpi"]} if "dpi" in self.info else {}
        values = np.ascontiguousarray(self.to_array(data, "input").T)
        with staged(path, self.readers) as place:
            Image.fromarray(values).save(place, format="PNG", pnginfo=text, **options)


@functools.cache  # once, not for every image of a folder
def _tell_of_rounding() -> None:
    logger.info("PNG holds whole numbers only: results are rounded to the input's type.")


def read(path: Path) -> Volume:
    """Read a PNG image.

    Args:
        path: ``.png``, 8 or 16 bits of gray without transparency.

    Returns:
        the volume, its first axis running to the right.

    Raises:
        ValueError: where it cannot be read or holds colors.
    """
    from PIL import Image

    with reading(path, "PNG image"), Image.open(path, formats=["PNG"]) as image:
        content = path.read_bytes()
        _check_sums(content)
        image.load()
        depth, n_frames = content[24], getattr(image, "n_frames", 1)
        mode, info = image.mode, {**image.info, **getattr(image, "text", {})}
        found = "" if mode in _GRAY else _FOUND.get(mode, "RGB")
        check_kind(np.dtype(np.uint8), path, found or ("transparent" if "transparency" in image.info else ""))
        values = np.asarray(image)
    if depth not in (8, 16) or n_frames > 1:
        found = f"{n_frames} frames" if n_frames > 1 else f"{depth} bits"
        raise Refusal(f"image must be one of 8 or 16 bits, got {found} for {path}. Convert it first.")
    values = values.astype(_GRAY[mode]).T
    sides = [25.4 / d for d in info["dpi"]] if "dpi" in info and min(info["dpi"]) > 0 else [1.0, 1.0]
    return PngSource(values.shape, values.dtype, info).to_volume(values, sides, path)


def _check_sums(content: bytes) -> None:
    """Compare the checksum of every part, which Pillow leaves out for the voxels."""
    place, kind = 8, b""
    while kind != b"IEND":
        length, kind = int.from_bytes(content[place : place + 4], "big"), content[place + 4 : place + 8]
        end = place + 8 + length
        if end + 4 > len(content):
            raise ValueError("the file ends too early")
        if zlib.crc32(content[place + 4 : end]) != int.from_bytes(content[end : end + 4], "big"):
            raise ValueError(f"the checksum of {kind.decode('latin-1')!r} does not fit")
        place = end + 4
