# SPDX-License-Identifier: Apache-2.0
"""The stored values of a DICOM image, whatever it was compressed by."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from monai_n2v.io.dicom_files import read_dataset
from monai_n2v.io.volume import Refusal

if TYPE_CHECKING:
    from pydicom import Dataset

# By transfer syntax, the decoder of imagecodecs.
_DECODERS = {
    "1.2.840.10008.1.2.4.50": "jpeg8_decode",  # baseline
    "1.2.840.10008.1.2.4.51": "jpeg8_decode",  # extended, 12 bits
    "1.2.840.10008.1.2.4.57": "jpeg8_decode",  # lossless
    "1.2.840.10008.1.2.4.70": "jpeg8_decode",  # lossless, first order
    "1.2.840.10008.1.2.4.80": "jpegls_decode",
    "1.2.840.10008.1.2.4.81": "jpegls_decode",
    "1.2.840.10008.1.2.4.90": "jpeg2k_decode",
    "1.2.840.10008.1.2.4.91": "jpeg2k_decode",
    "1.2.840.10008.1.2.4.201": "htj2k_decode",
    "1.2.840.10008.1.2.4.202": "htj2k_decode",
    "1.2.840.10008.1.2.4.203": "htj2k_decode",
}
# Those that pydicom decodes by numpy alone: raw, deflated and run lengths.
_BY_PYDICOM = {
    *("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"),
    "1.2.840.10008.1.2.5",
}


def check_syntax(header: Dataset, path: Path) -> None:
    """Refuse a compression that cannot be read, before any work is done.

    Args:
        header: of the file.
        path: of the file.

    Raises:
        ValueError: for a transfer syntax that is not known.
    """
    syntax = header.file_meta.TransferSyntaxUID
    if syntax not in _DECODERS and syntax not in _BY_PYDICOM:
        raise Refusal(
            f"TransferSyntaxUID must be one that is read here, got {syntax.name} for {path}. Decompress it, for "
            "example with gdcmconv --raw."
        )


def read_stored(path: Path, n_frames: int, stored: np.dtype) -> np.ndarray:
    """Read the stored values of all frames of a file.

    Args:
        path: of the file.
        n_frames: how many there must be.
        stored: type of the values.

    Returns:
        ``(n_frames, rows, columns)``; bits above BitsStored are left out.

    Raises:
        ValueError: where the values cannot be decoded, or are not as many as the header says.
    """
    dataset = read_dataset(path)
    shape = n_frames, int(dataset.Rows), int(dataset.Columns)
    n_bytes = int(np.prod(shape)) * stored.itemsize
    syntax = dataset.file_meta.TransferSyntaxUID
    content = dataset.get("PixelData") or b""
    if syntax in _DECODERS:
        frames = _decode(content, n_frames, _DECODERS[syntax])
    else:
        if not getattr(syntax, "is_compressed", False) and (len(content) < n_bytes or any(content[n_bytes:])):
            raise ValueError(f"PixelData holds {len(content)} bytes of {n_bytes}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if len(content) > n_bytes + n_bytes % 2 and not getattr(syntax, "is_compressed", False):
                dataset.PixelData = content[: n_bytes + n_bytes % 2]
            frames = dataset.pixel_array
    frames = np.asarray(frames)
    if frames.size != int(np.prod(shape)) or frames.shape[-2:] != shape[-2:] or frames.dtype.itemsize > stored.itemsize:
        got = " x ".join(map(str, frames.shape))
        raise ValueError(f"PixelData decodes to {got} values of {frames.dtype}, not to {' x '.join(map(str, shape))}")
    return _as_stored(frames.reshape(shape), int(dataset.BitsStored), stored)


def _decode(content: bytes, n_frames: int, name: str) -> np.ndarray:
    import imagecodecs

    decode = getattr(imagecodecs, name)
    return np.stack([decode(frame) for frame in _frames_of(content, n_frames)])


def _frames_of(content: bytes, n_frames: int) -> list[bytes]:
    import pydicom.encaps as encaps

    split: Any = getattr(encaps, "generate_frames", None)
    if split is not None:
        frames = list(split(content, number_of_frames=n_frames))
    else:  # pydicom 2
        frames = list(encaps.generate_pixel_data_frame(content, n_frames))
    if len(frames) != n_frames:
        raise ValueError(f"PixelData holds {len(frames)} of {n_frames} frames")
    return frames


def _as_stored(frames: np.ndarray, n_bits: int, stored: np.dtype) -> np.ndarray:
    """Values of the lower bits alone, their sign as the header has it, whatever sign a decoder gave them."""
    wide = np.dtype(f"u{frames.dtype.itemsize}")
    bits = np.ascontiguousarray(frames).astype(frames.dtype.newbyteorder("="), copy=False).view(wide)
    bits = bits.astype(np.dtype(f"u{stored.itemsize}"))
    if stored.kind == "i":
        # To the top and back: the arithmetic shift copies the sign.
        spare = 8 * stored.itemsize - n_bits
        return np.right_shift(np.left_shift(bits, spare).view(stored.newbyteorder("=")), spare)
    return bits & bits.dtype.type(2**n_bits - 1)
