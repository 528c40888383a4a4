# SPDX-License-Identifier: Apache-2.0
"""Charts of a residual and of a training, as SVG that takes the colors of the page around it."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from monai_n2v.metrics.residual import LAGS, Quality

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Stand for colors of the page, whose style sheet has a light and a dark one of each.
_COLORS = {"#010203": "currentColor", "#010204": "var(--one)", "#010205": "var(--two)", "#010206": "var(--three)"}
_INK, *_SERIES = _COLORS
_MAX_POINTS = 400  # of a training curve


def draw_histogram(quality: Quality) -> str:
    """Density of the residual against a normal curve of the same mean and standard deviation.

    Args:
        quality: the measures.

    Returns:
        an SVG element.
    """
    figure, axes = _chart("noisy \u2212 denoised", "density")
    axes.stairs(quality.density, quality.bins, fill=True, color=_SERIES[0], alpha=0.6, label="residual")
    sigma = quality.std_removed
    if sigma > 0:
        x = np.linspace(quality.bins[0], quality.bins[-1], 201)
        y = np.exp(-0.5 * ((x - quality.mean_removed) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
        axes.plot(x, y, "--", color=_INK, linewidth=1.3, label="normal, same spread")
    axes.set_xlim(quality.bins[0], quality.bins[-1])
    axes.set_yticks([])
    return _svg(figure, axes)


def draw_autocorrelation(quality: Quality) -> str:
    """Bars of the residual's autocorrelation, the band of white noise, and where a warning starts.

    Args:
        quality: the measures.

    Returns:
        an SVG element.
    """
    figure, axes = _chart("lag in voxels", "autocorrelation of the residual")
    n = len(quality.autocorrelation)
    lags = np.arange(1, LAGS + 1)
    for i, row in enumerate(quality.autocorrelation):
        heights = np.nan_to_num(np.array(row))
        axes.bar(lags + (i - (n - 1) / 2) * 0.8 / n, heights, 0.72 / n, color=_SERIES[i], label=f"axis {i + 1}")
        if any(quality.of_noise[i]):
            axes.plot(lags + (i - (n - 1) / 2) * 0.8 / n, quality.of_noise[i], "_", color=_INK, markersize=12)
    white, limit = quality.white_limit, quality.autocorrelation_limit
    axes.axhspan(-white, white, color=_INK, alpha=0.25, linewidth=0, label="white noise, 95 %")
    axes.axhline(limit, color=_INK, linestyle=":", linewidth=1.2, label="warning starts")
    axes.axhline(-limit, color=_INK, linestyle=":", linewidth=1.2)
    axes.axhline(0, color=_INK, linewidth=0.8)
    heights = np.nan_to_num([*quality.autocorrelation, *quality.of_noise])
    reach = max(2 * limit, 1.15 * float(np.abs(heights).max()))
    axes.set_ylim(-reach, reach)
    axes.set_xticks(lags)
    return _svg(figure, axes)


def draw_training(losses: Sequence[float]) -> str:
    """Loss per epoch.

    Args:
        losses: one per epoch; long runs are drawn as means of neighboring epochs.

    Returns:
        an SVG element.
    """
    figure, axes = _chart("epoch", "loss at the blind spots")
    parts = np.array_split(np.asarray(losses, dtype=np.float64), min(len(losses), _MAX_POINTS))
    ends = np.cumsum([len(part) for part in parts])
    axes.plot(
        ends, [part.mean() for part in parts], "." if len(parts) == 1 else "-", color=_SERIES[0], label="training"
    )
    return _svg(figure, axes)


def _chart(x: str, y: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x, color=_INK)
    axes.set_ylabel(y, color=_INK)
    axes.tick_params(colors=_INK, labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_INK)
    axes.patch.set_visible(False)
    figure.patch.set_visible(False)
    return figure, axes


def _svg(figure: Figure, axes: Axes) -> str:
    """The figure as an element to stand in HTML: text stays text, colors are the page's, names are no one's."""
    import matplotlib

    if len(axes.get_legend_handles_labels()[0]) > 1:
        figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9, labelcolor=_INK)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = re.sub(r'<g id="[^"]*">', "<g>", text[text.index("<svg") :])
    for color, name in _COLORS.items():
        text = text.replace(color, name)
    return text.replace("<svg ", '<svg aria-hidden="true" ', 1)
