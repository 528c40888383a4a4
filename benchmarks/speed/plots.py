# SPDX-License-Identifier: Apache-2.0
"""Plots of ``docs/results.md`` on quality per second, from the JSON of the scripts beside this."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from benchmarks.common import ROOT, load
from benchmarks.speed.sections import PLOTTED_CURVES

__all__ = ["PLOTS"]

IMAGES = ROOT / "docs" / "images"


def plot_quality(stored: dict[str, Any]) -> None:
    """PSNR against seconds of training; the peer as a dot, filters as lines."""
    import matplotlib.pyplot as plt

    filters = load("filters") or {"rows": []}
    tasks = list(dict.fromkeys(r["task"] for r in stored["rows"]))
    figure, panels = plt.subplots(1, len(tasks), figsize=(4.5 * len(tasks), 3.8), squeeze=False)
    for axes, task in zip(panels[0], tasks):
        rows = sorted((r for r in stored["rows"] if r["task"] == task), key=lambda r: r["training_seconds"])
        axes.plot([r["budget_seconds"] for r in rows], [r["psnr"] for r in rows], "o-", label="monai_n2v")
        for peer in stored["peers"]:
            if peer["task"] == task:
                axes.plot(peer["training_seconds"], peer["psnr"], "s", label=peer["program"])
        named = [r for r in filters["rows"] if r["task"] == task and "mean filter" not in r["method"]]
        for r, style in zip(named, ("--", ":", "-.", (0, (1, 3)))):
            axes.axhline(r["psnr"], color="gray", linestyle=style, label=r["method"].partition(",")[0])
        axes.set(xscale="log", xlabel="seconds of training on two CPU cores", ylabel="PSNR in dB", title=task)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=6)
    figure.tight_layout()
    IMAGES.mkdir(exist_ok=True)
    figure.savefig(IMAGES / "quality.png", dpi=110)
    plt.close(figure)


def plot_curves(stored: dict[str, Any]) -> None:
    """PSNR against the settings that are numbers, each dot a run, the line through the means."""
    import matplotlib.pyplot as plt

    if not any(r["group"] in PLOTTED_CURVES for r in stored["rows"]):
        return
    figure, panels = plt.subplots(2, 2, figsize=(8, 6), sharey="row")
    for panel_row, dims in zip(panels, (2, 3)):
        rows = [r for r in stored["rows"] if r["task"] == ("", "", "set12", "colin27")[dims] and r["psnr"] is not None]
        budget = min(r["budget"] for r in rows)
        rows = [r for r in rows if r["budget"] == budget]
        defaults = [r["psnr"] for r in rows if r["group"] == "default"]
        for axes, group in zip(panel_row, PLOTTED_CURVES):
            own = stored["defaults"][f"{dims}D"][group]
            runs = [(float(r["name"]), r["psnr"]) for r in rows if r["group"] == group]
            runs += [(own, value) for value in defaults]
            axes.plot([x for x, _ in runs], [y for _, y in runs], "o", markersize=3)
            means = {x: statistics.mean(y for at, y in runs if at == x) for x, _ in sorted(runs)}
            axes.plot(list(means), list(means.values()), "-", alpha=0.6)
            axes.axvline(own, color="gray", linestyle=":")
            axes.set(xscale="log", xlabel=group, title=f"{dims}D, {rows[0]['task']}, {budget:g} s")
            axes.set_xticks(list(means), [f"{x:g}" for x in means], rotation=60)
            axes.minorticks_off()
            axes.grid(alpha=0.3)
        panel_row[0].set_ylabel("PSNR / dB")
    figure.tight_layout()
    IMAGES.mkdir(exist_ok=True)
    figure.savefig(IMAGES / "curves.png", dpi=110)
    plt.close(figure)


def plot_growth(stored: dict[str, Any]) -> None:
    """Time and memory against voxels, with a line of slope 1."""
    import matplotlib.pyplot as plt

    sizes = stored["sizes"]
    voxels = [r["voxels"] / 1e6 for r in sizes]
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4))
    left.plot(voxels, [r["prediction_seconds"] for r in sizes], "o-", label="prediction")
    left.plot(voxels, [r["seconds_per_epoch"] for r in sizes], "s-", label="an epoch of training")
    last = sizes[-1]["prediction_seconds"] / voxels[-1]
    left.plot(voxels, [last * v for v in voxels], ":", color="gray", label="proportional to voxels")
    left.set(xscale="log", yscale="log", xlabel="million voxels", ylabel="seconds")
    right.plot(voxels, [r["denoise_peak_gib"] for r in sizes], "o-", label="denoise")
    right.plot(voxels, [r["training_peak_gib"] for r in sizes], "s-", label="train")
    right.set(xlabel="million voxels", ylabel="peak memory in GiB", ylim=(0, None))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    IMAGES.mkdir(exist_ok=True)
    figure.savefig(IMAGES / "growth.png", dpi=110, bbox_inches="tight")
    plt.close(figure)


PLOTS: dict[str, Callable[[dict[str, Any]], None]] = {
    "quality": plot_quality,
    "curves": plot_curves,
    "growth": plot_growth,
}
