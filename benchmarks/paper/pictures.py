# SPDX-License-Identifier: Apache-2.0
"""Small gray pictures for the docs: panels side by side, named."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks.common import ROOT

__all__ = ["IMAGES", "panels"]

IMAGES = ROOT / "docs" / "images"


def panels(
    name: str,
    images: Mapping[str, np.ndarray],
    window: tuple[float, float],
    residual: float | None = None,
    folder: Path | None = None,
) -> None:
    """Write ``<name>.png``.

    Args:
        name: of the file.
        images: 2D arrays by title, of one shape; those with "removed" in their title are shown around zero.
        window: intensities that are black and white.
        residual: what is white in those, minus that black; a tenth of the window by default.
        folder: where; ``docs/images`` by default.
    """
    import matplotlib.pyplot as plt
    from PIL import Image

    height, width = next(iter(images.values())).shape
    side = 2.2
    figure, all_axes = plt.subplots(
        1, len(images), figsize=(side * len(images), side * height / width + 0.25), squeeze=False
    )
    limit = residual or 0.1 * (window[1] - window[0])
    for axes, (title, image) in zip(all_axes[0], images.items()):
        low, high = (-limit, limit) if "removed" in title else window
        axes.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
        axes.set_title(title, fontsize=8)
        axes.axis("off")
    figure.subplots_adjust(0, 0, 1, 1 - 0.22 / figure.get_figheight(), 0.02, 0)
    folder = folder or IMAGES
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    Image.open(path).convert("L").quantize(64).save(path, optimize=True)
