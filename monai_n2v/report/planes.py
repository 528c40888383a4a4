# SPDX-License-Identifier: Apache-2.0
"""Planes of an image before and after, drawn for paper and screen; no global state of matplotlib is used."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAMES = {"R": "sagittal", "L": "sagittal", "A": "coronal", "P": "coronal", "S": "axial", "I": "axial"}
_OPPOSITE = {"R": "L", "L": "R", "A": "P", "P": "A", "S": "I", "I": "S"}
# Of all pictures on a page, in bytes: two thirds of 2 MB, since base64 adds a third, less what text and charts take.
_BUDGET = 1_300_000
_TEXT: dict[str, Any] = {"color": "white", "ha": "center", "va": "center", "fontsize": 8, "parse_math": False}


@dataclass(frozen=True)
class Plane:
    """The middle plane across one axis, as it is shown: rows from the top, columns from the left.

    Attributes:
        title: what is seen, for example ``"axial, slice 91 of 181"``.
        noisy: ``(rows, columns)``.
        denoised: of the same shape.
        removed: what noise the network took off: noisy minus ``expected`` of `cut_planes`.
        size: width and height in mm.
        letters: anatomical directions at the left, right, top and bottom; empty where unknown.
    """

    title: str
    noisy: np.ndarray
    denoised: np.ndarray
    removed: np.ndarray
    size: tuple[float, float]
    letters: tuple[str, ...] = ()


@dataclass(frozen=True)
class Windows:
    """Intensities shown black and white.

    Attributes:
        image: of noisy and denoised alike, 1st to 99th percentile of the noisy planes.
        removed: of the residual, three standard deviations around zero.
    """

    image: tuple[float, float]
    removed: tuple[float, float]


def cut_planes(
    noisy: np.ndarray,
    denoised: np.ndarray,
    spacing: Sequence[float],
    directions: Sequence[str] = (),
    upward: bool = True,
    expected: np.ndarray | None = None,
) -> list[Plane]:
    """Cut the middle planes of a volume across each axis; an image is its own plane.

    Args:
        noisy: ``(*spatial)``, 2D or 3D.
        denoised: of the same shape.
        spacing: voxel sides in mm, one per axis.
        directions: for each axis the letter to which it runs (R, L, A, P, S or I), if known.
        upward: where no direction says it, whether the second axis shown runs upwards, as in NIfTI, or downwards, as in
            pictures.
        expected: of the same shape, the mean of the noisy values where it is another than the denoised image.

    Returns:
        three planes or one; where ``directions`` are known, in the order axial, coronal, sagittal.
    """
    planes = []
    for axis in [2, 1, 0] if noisy.ndim == 3 else [None]:
        a, b = (i for i in range(noisy.ndim) if i != axis)
        # Heads up and faces up, as radiologists see them, however the voxels are stored.
        up = directions[b] in ("A", "S") if directions and directions[b] not in ("L", "R") else upward
        cuts = [
            x if axis is None else np.take(x, x.shape[axis] // 2, axis)
            for x in (noisy, denoised, denoised if expected is None else expected)
        ]
        before, after, mean = ((cut.T[::-1] if up else cut.T).astype(np.float32) for cut in cuts)
        title = "the whole image"
        letters: tuple[str, ...] = ()
        if axis is not None:
            name = _NAMES[directions[axis]] if directions else f"axes {a + 1} and {b + 1}"
            title = f"{name}, slice {noisy.shape[axis] // 2 + 1} of {noisy.shape[axis]}"
        if directions:
            right, top = directions[a], directions[b] if up else _OPPOSITE[directions[b]]
            letters = (_OPPOSITE[right], right, top, _OPPOSITE[top])
        size = noisy.shape[a] * spacing[a], noisy.shape[b] * spacing[b]
        planes.append(Plane(title, before, after, before - mean, size, letters))
    return sorted(planes, key=lambda plane: plane.title) if directions and len(planes) > 1 else planes


def choose_windows(planes: Sequence[Plane], spread: float) -> Windows:
    """Fix the gray windows of all planes.

    Args:
        planes: as shown.
        spread: standard deviation of the residual, in units of the image.

    Returns:
        the windows, never empty.
    """
    low, high = np.percentile(np.concatenate([plane.noisy.ravel() for plane in planes]), [1, 99]).tolist()
    half = 3 * spread or 1.0
    return Windows((low, high if high > low else low + 1.0), (-half, half))


def _gray(values: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    low, high = window
    return np.rint(np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def _panels(plane: Plane, windows: Windows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noisy, denoised and removed, 8-bit."""
    image, removed = windows.image, windows.removed
    return _gray(plane.noisy, image), _gray(plane.denoised, image), _gray(plane.removed, removed)


def before_after(planes: Sequence[Plane], windows: Windows, caption: str) -> Image.Image:
    """Draw noisy, denoised and removed side by side, one plane per row.

    Args:
        planes: as shown.
        windows: their gray windows.
        caption: below the panels.

    Returns:
        8-bit gray.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ratios = [plane.size[1] / plane.size[0] for plane in planes]
    top, title, bottom, gap = 0.4, 0.25, 0.9, 0.04  # inches
    wide = min(3.0, max(2.0, 4.5 / max(ratios)))  # tall planes are drawn narrower, the caption needs some room
    width, height = 3 * wide, top + title * len(planes) + wide * sum(ratios) + bottom
    figure = Figure(figsize=(width, height), dpi=150, facecolor="black")
    for column, name in enumerate(("noisy", "denoised", "removed")):
        figure.text((column + 0.5) / 3, 1 - top / 2 / height, name, **{**_TEXT, "fontsize": 11})
    y = height - top
    for plane, ratio in zip(planes, ratios):
        figure.text(gap / width, (y - title / 2) / height, plane.title, **{**_TEXT, "ha": "left"})
        y -= title + wide * ratio
        for column, panel in enumerate(_panels(plane, windows)):
            box = column / 3, y / height, (wide - gap) / width, wide * ratio / height
            axes = figure.add_axes(box)
            axes.set_axis_off()
            axes.imshow(panel, cmap="gray", vmin=0, vmax=255, aspect="auto", interpolation="nearest")
            _write_letters(axes, plane.letters)
    figure.text(0.5, bottom / 2 / height, caption, linespacing=1.5, **_TEXT)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., 0].copy())


def _write_letters(axes: Axes, letters: Sequence[str]) -> None:
    from matplotlib.patheffects import withStroke

    outline = [withStroke(linewidth=2, foreground="black")]
    places = {(0, 0.5): (7, 0), (1, 0.5): (-7, 0), (0.5, 1): (0, -7), (0.5, 0): (0, 7)}  # of the panel; points
    for (place, shift), letter in zip(places.items(), letters):
        axes.annotate(
            letter, place, shift, "axes fraction", "offset points", path_effects=outline, annotation_clip=False, **_TEXT
        )


def encode_planes(planes: Sequence[Plane], windows: Windows) -> tuple[list[tuple[str, str, str]], str]:
    """Turn the planes into pictures that a page holds within itself.

    Noise hardly compresses: what is too large for a page becomes JPEG, then smaller.

    Args:
        planes: as shown.
        windows: their gray windows.

    Returns:
        data URIs of noisy, denoised and removed per plane, and a remark where they are not exact, else an empty text.
    """
    panels = [_panels(plane, windows) for plane in planes]
    shrink = 1
    while True:
        small = [[Image.fromarray(panel).reduce(shrink) for panel in row] for row in panels]  # means of whole blocks
        for quality in (None, 92, 80):
            files = [[_compress(panel, quality) for panel in row] for row in small]
            if sum(len(file) for row in files for file in row) <= _BUDGET:
                kind = "png" if quality is None else "jpeg"
                size = f", means of {shrink} x {shrink} pixels" if shrink > 1 else ""
                remark = f"Shown as {kind.upper()}{size}, to keep this page small." if quality or shrink > 1 else ""
                uris = [tuple(f"data:image/{kind};base64,{base64.b64encode(f).decode()}" for f in row) for row in files]
                return [(a, b, c) for a, b, c in uris], remark
        shrink *= 2


def _compress(panel: Image.Image, quality: int | None) -> bytes:
    buffer = io.BytesIO()
    if quality is None:
        panel.save(buffer, format="PNG", optimize=True)
    else:
        panel.save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()
