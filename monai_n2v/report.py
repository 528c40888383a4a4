# SPDX-License-Identifier: Apache-2.0
"""What a run did, for people: a picture of before and after, and a record in JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from monai_n2v import __version__

__all__ = ["before_after", "write_report"]

_MIN_HEIGHT = 256
_CAPTION = 18


def before_after(noisy: np.ndarray, denoised: np.ndarray, spacing: Sequence[float] | None = None) -> Image.Image:
    """Draw the middle slice: noisy, denoised, and what was removed.

    Noisy and denoised share one gray window (1st to 99th percentile of the noisy slice); the residual's window is three
    times its standard deviation around zero. The residual should look like noise, without anatomy.

    Args:
        noisy: ``(*spatial)``, 2D or 3D.
        denoised: of the same shape.
        spacing: voxel sides, to show pixels in their true aspect.

    Returns:
        the three panels side by side, 8-bit gray.
    """
    sides = list(spacing or [1.0] * noisy.ndim)
    if noisy.ndim == 3:
        noisy, denoised = noisy[..., noisy.shape[2] // 2], denoised[..., noisy.shape[2] // 2]
    residual = noisy - denoised
    low, high = np.percentile(noisy, [1, 99])
    spread = 3 * float(residual.std()) or 1.0
    panels = [
        ("noisy", noisy, low, high),
        ("denoised", denoised, low, high),
        (f"removed (std {residual.std():.3g})", residual - residual.mean(), -spread, spread),
    ]
    # The first axis of a NIfTI image runs to the right and the second upwards.
    width, height = noisy.shape[0] * sides[0], noisy.shape[1] * sides[1]
    scale = max(1.0, _MIN_HEIGHT / noisy.shape[1]) * noisy.shape[1] / height
    size = max(1, round(width * scale)), max(1, round(height * scale))
    picture = Image.new("L", (3 * size[0], size[1] + _CAPTION))
    draw = ImageDraw.Draw(picture)
    for column, (caption, values, black, white) in enumerate(panels):
        gray = np.clip((values - black) / ((white - black) or 1.0), 0, 1) * 255
        panel = Image.fromarray(np.rot90(gray).astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
        picture.paste(panel, (column * size[0], _CAPTION))
        draw.text((column * size[0] + 4, 3), caption, fill=255)
    return picture


def write_report(
    folder: Path, stem: str, noisy: np.ndarray, denoised: np.ndarray, spacing: Sequence[float], record: dict[str, Any]
) -> tuple[Path, Path]:
    """Write ``<stem>_report.png`` and ``<stem>_report.json``.

    Args:
        folder: where; made if missing.
        stem: start of the file names.
        noisy: ``(n_volumes, *spatial)``.
        denoised: of the same shape.
        spacing: voxel sides in mm, one per spatial axis.
        record: of the run; versions and statistics are added.

    Returns:
        the paths of picture and record.
    """
    folder.mkdir(parents=True, exist_ok=True)
    removed = noisy - denoised
    full = {
        **record,
        "shape": list(noisy.shape[1:]),
        "n_volumes": noisy.shape[0],
        "spacing_mm": [round(side, 6) for side in spacing],
        "mean_noisy": float(noisy.mean(dtype=np.float64)),
        "mean_denoised": float(denoised.mean(dtype=np.float64)),
        "std_removed": float(removed.std(dtype=np.float64)),
        "versions": {"monai-n2v": __version__, **{name: version(name) for name in ("monai", "torch", "numpy")}},
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    picture, text = folder / f"{stem}_report.png", folder / f"{stem}_report.json"
    part = folder / f".{stem}_report.{os.getpid()}.part"
    try:
        before_after(noisy[0], denoised[0], spacing).save(part, format="PNG")
        os.replace(part, picture)
        part.write_text(json.dumps(full, indent=4) + "\n")
        os.replace(part, text)
    finally:
        part.unlink(missing_ok=True)
    return picture, text
