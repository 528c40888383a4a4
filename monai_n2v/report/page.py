# SPDX-License-Identifier: Apache-2.0
"""The page of a report: one HTML file, complete in itself."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from monai_n2v.metrics.residual import LAGS, LIMIT_EDGES, Quality
from monai_n2v.report.charts import draw_autocorrelation, draw_histogram, draw_training
from monai_n2v.report.planes import Plane, Windows, encode_planes


class Shown(NamedTuple):
    """What planes show, in words.

    Attributes:
        removed: what the residual is, without an article.
        image: what the images are, a sentence where that is not plain.
    """

    removed: str = "noisy minus denoised"
    image: str = ""


RESEARCH_ONLY = "Research only, not for diagnostic use."

_SECTIONS = {
    "Input": ("input", "input_sha256", "shape", "n_volumes", "spacing_mm", "normalization"),
    "Intensities": (
        *("mean_noisy", "mean_denoised", "sigma_noisy", "sigma_denoised", "std_removed"),
        "structure_at_edges",
    ),
    "Run": (),  # and all that has no other place
    "Software": ("versions", "python", "machine"),
}
_ELSEWHERE = {"autocorrelation_removed", "losses", "mean_removed", "warnings"}
_LABELS = {
    "input_sha256": "SHA-256",
    "config_sha256": "SHA-256 of the config",
    "n_volumes": "volumes",
    "spacing_mm": "voxel sides (mm)",
    "sigma_noisy": "noise before (estimate)",
    "sigma_denoised": "noise after (estimate)",
    "std_removed": "residual, standard deviation",
    "structure_at_edges": "residual, structure at edges",
    "peak_memory_mb": "peak memory (MB)",
    "training_seconds": "training (s)",
    "prediction_seconds": "prediction (s)",
    "total_seconds": "total (s)",
}


def render_page(
    stem: str,
    full: Mapping[str, Any],
    quality: Quality,
    planes: Sequence[Plane],
    windows: Windows,
    shown: Shown | None = None,
) -> str:
    """Fill the template ``report.html``.

    Jinja escapes all but the charts, which hold no text from outside.

    Args:
        stem: start of the report's file names.
        full: the complete record.
        quality: the measures.
        planes: as shown.
        windows: their gray windows.
        shown: what the planes show, in words.

    Returns:
        an HTML document that needs no other file, below 2 MB.
    """
    import jinja2  # most runs write no report, but MONAI looks for its classes in here
    from markupsafe import Markup

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["number"] = lambda value: "none" if value is None else f"{value:.3g}"
    environment.globals["zip"] = zip
    template = environment.from_string(Path(__file__).with_name("report.html").read_text(encoding="utf-8"))
    uris, remark = encode_planes(planes, windows)
    return template.render(
        stem=stem,
        full=full,
        quality=quality,
        planes=list(zip(planes, uris)),
        layout=_layout([plane.size for plane in planes]),
        windows=windows,
        remark=remark,
        shown=shown or Shown(),
        research_only=RESEARCH_ONLY,
        lags=LAGS,
        edges_limit=LIMIT_EDGES,
        rows=_rows(full),
        histogram=Markup(draw_histogram(quality)),
        autocorrelation=Markup(draw_autocorrelation(quality)),
        training=Markup(draw_training(full["losses"])) if full["losses"] else None,
    )


def _layout(sizes: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Columns that show all planes in one scale; two flat planes go below each other beside the first.

    Args:
        sizes: width and height in mm of each plane.

    Returns:
        ``columns``: their widths in mm; ``shares``: of its column that each plane takes, in percent; ``height`` in mm;
        ``stacked``: whether planes lie below each other.
    """
    widths, heights = [size[0] for size in sizes], [size[1] for size in sizes]
    stacked = len(sizes) == 3 and heights[1] + heights[2] <= heights[0]
    columns = [widths[0], max(widths[1:])] if stacked else widths
    shares = [100 * width / columns[min(i, len(columns) - 1)] for i, width in enumerate(widths)]
    return {"columns": columns, "shares": shares, "height": max(heights), "stacked": stacked}


def _rows(full: Mapping[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """The record as a table: label and value, section by section; entries without a value are left out."""
    placed = {key for keys in _SECTIONS.values() for key in keys} | _ELSEWHERE
    rest = tuple(key for key in full if key not in placed)
    table = {}
    for section, keys in _SECTIONS.items():
        known = [key for key in (keys or rest) if full.get(key) not in (None, {}, [])]
        table[section] = [(_LABELS.get(key, key.replace("_", " ")), _text(full[key])) for key in known]
    return table


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key.replace('_', ' ')} {_text(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return " \u00d7 ".join(_text(item) for item in value)
    return str(value)
