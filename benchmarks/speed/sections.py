# SPDX-License-Identifier: Apache-2.0
"""Sections of ``docs/results.md`` on quality per second, and their plots, from the JSON of the scripts beside this."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from benchmarks.common import ROOT, origin

__all__ = ["PLOTS", "SECTIONS"]

IMAGES = ROOT / "docs" / "images"


def table(*columns: str) -> list[str]:
    """Head of a table."""
    return [f"| {' | '.join(columns)} |", "| " + " | ".join("---" for _ in columns) + " |"]


def row(*cells: Any) -> str:
    """A row of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def spread(values: list[float]) -> str:
    """Mean, and the smallest and largest where there are several."""
    mean = f"{statistics.mean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.2f} to {max(values):.2f})"


def quality(stored: dict[str, Any]) -> list[str]:
    """Time to quality against the peer."""
    lines = [
        "## Time to quality, against CAREamics",
        "",
        "Seconds of training on two cores, the machine otherwise idle. Set12: twelve images of 256x256 pixels, sigma 25, PSNR",
        "range 255. Colin27: the crop of 96x96x96 voxels below, sigma 12. Both programs train on the noisy images alone and",
        "predict them; CAREamics with the defaults of its `create_n2v_config` (batches of 16x64x64, 2x32x32x32), ours with the",
        "command line's. Ours is a run of its own for every budget.",
        "",
        *table("task", "program", "training s", "steps", "PSNR / dB"),
    ]
    for task in dict.fromkeys(r["task"] for r in stored["rows"]):
        ours = [r for r in stored["rows"] if r["task"] == task]
        lines.append(row(task, "noisy", "", "", f"{ours[0]['psnr_noisy']:.2f}"))
        peers = [peer for peer in stored["peers"] if peer["task"] == task]
        for peer in peers:
            name = f"{peer['program']}{', N2V2' if peer['n2v2'] else ''}"
            lines.append(row(task, name, peer["training_seconds"], peer["steps"], f"**{peer['psnr']:.2f}**"))
        means = {}
        for budget in sorted({r["budget_seconds"] for r in ours}):
            runs = [r for r in ours if r["budget_seconds"] == budget]
            means[budget] = statistics.mean(r["psnr"] for r in runs)
            steps = round(statistics.mean(r["steps"] for r in runs))
            score = f"**{spread([r['psnr'] for r in runs])}**"
            lines.append(
                row(task, "monai_n2v", f"{statistics.mean(r['training_seconds'] for r in runs):.1f}", steps, score)
            )
        for peer in peers:
            reached = [budget for budget, mean in means.items() if mean >= peer["psnr"]]
            if reached:
                share = min(reached) / peer["budget_seconds"]
                lines.append(
                    row(task, "", "", "", f"CAREamics' score within {min(reached):g} s, {share:.3f} of its time")
                )
    return [*lines, "", origin(stored["machine"])]


def curves(stored: dict[str, Any]) -> list[str]:
    """The curves defaults are chosen by."""
    lines = [
        "## The curves that defaults are chosen by",
        "",
        "PSNR after as many steps as fit into a fixed time, one setting changed at a time; a step's time is measured for all",
        "variants in turns on two threads. Mean, and range over seeds where there are several. Runs of one seed differ by",
        "rounding, which training amplifies: differences below the default's own range say nothing.",
    ]
    for task in dict.fromkeys(r["task"] for r in stored["rows"]):
        rows = [r for r in stored["rows"] if r["task"] == task]
        dims = rows[0]["dims"]
        lines += [
            "",
            f"### {dims}D, {task}",
            "",
            *table("setting", "value", "ms per step", "seconds", "steps", "PSNR / dB"),
        ]
        keys = dict.fromkeys((r["group"], r["name"], r["budget"]) for r in rows)
        order = list(dict.fromkeys(r["group"] for r in rows))
        for group, name, budget in sorted(keys, key=lambda key: (key[2], order.index(key[0]))):
            runs = [r for r in rows if (r["group"], r["name"], r["budget"]) == (group, name, budget)]
            scores = [r["psnr"] for r in runs if r["psnr"] is not None]
            ms = stored["step_ms"][f"{dims}D | {group} | {name}"]
            lines.append(
                row(group, name, ms, f"{budget:g}", runs[0]["steps"], spread(scores) if scores else "diverged")
            )
    return [*lines, "", origin({**stored["machine"], "command": "python -m benchmarks.speed.curves run"})]


def prediction(stored: dict[str, Any]) -> list[str]:
    """Throughput, halo and memory of prediction."""
    lines = [
        "## Prediction",
        "",
        "`AlignedTileInferer` choosing its tiles, against the bare forward pass of the same network on a ready tile of the",
        "same sides, in turns, float32. Throughput counts every voxel the network sees, halo included; above 1 since batch",
        "norm is folded and `N2VUNet` computes of a halo only what is needed. Halo: voxels seen over voxels of the result.",
        "",
        *table("network", "image", "tile", "seconds", "throughput / bare", "halo", "added peak / GiB"),
    ]
    for r in stored["rows"]:
        image, tile = ("x".join(map(str, r[key])) for key in ("image", "tile"))
        ratio = f"**{r['throughput_over_bare']:.2f}**"
        lines.append(
            row(
                f"{r['dims']}D {r['network']}",
                image,
                tile,
                r["seconds"],
                ratio,
                r["processed_over_result"],
                r["peak_gib"],
            )
        )
    lines += ["", origin(stored["machine"])]
    if "careamics" in stored:
        peer = stored["careamics"]
        lines += [
            "",
            f"The network of {peer['program']} (depth 2, 32 features), in its own `predict` and in ours, in turns:",
            "",
        ]
        lines += table("case", "its seconds", "ours", "ratio")
        for r in peer["rows"]:
            lines.append(row(r["case"], r["careamics_seconds"], r["our_seconds"], f"**{r['ratio']}**"))
    return lines


def growth(stored: dict[str, Any]) -> list[str]:
    """How cost grows."""
    lines = [
        "## How cost grows",
        "",
        f"The command line on cubes, {stored['threads']} threads; an epoch has {stored['steps_per_epoch']} steps whatever the size.",
        "Every command is a process of its own; its peak counts the program, too.",
        "",
        *table(
            "side",
            "volumes",
            "epoch / s",
            "training peak / GiB",
            "prediction / s",
            "us per voxel",
            "denoise peak / GiB",
        ),
    ]
    for r in stored["sizes"]:
        each = f"{1e6 * r['prediction_seconds'] / r['voxels']:.2f}"
        lines.append(
            row(
                r["side"],
                1,
                r["seconds_per_epoch"],
                r["training_peak_gib"],
                r["prediction_seconds"],
                each,
                r["denoise_peak_gib"],
            )
        )
    for r in stored["counts"]:
        lines.append(row(r["side"], r["volumes"], r["seconds_per_epoch"], r["training_peak_gib"], "", "", ""))
    return [*lines, "", "![Cost against size](images/growth.png)", "", origin(stored["machine"])]


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


def centers(stored: dict[str, Any]) -> list[str]:
    """What a voxel's own value is worth."""
    lines = [
        "## A voxel's own value",
        "",
        "In training the network never sees the value it predicts, in prediction it does. What it makes of it depends on the",
        f"fill. {stored['task']}, {stored['steps']} steps of the command line's recipe. Blind: every pixel predicted while hidden behind the same",
        "fill. Best mixture: of the blind prediction with the noisy image, its share chosen with the clean image at hand. Plain:",
        "the image as it is, in one pass. A median of the direct neighbors is an estimate worth trusting, so the network keeps",
        "some trust in the center, more where the surroundings tell little; a random neighbor teaches it to look away.",
        "",
        *table("fill", "blind / dB", "best mixture / dB", "its share of the noisy image", "plain / dB"),
    ]
    for r in stored["rows"]:
        name = f"{r['fill']}, radius {r['radius']}"
        lines.append(row(name, r["blind"], r["best_mixture"], r["share_of_the_noisy_image"], f"**{r['plain']}**"))
    return [*lines, "", origin(stored["machine"])]


def startup(stored: dict[str, Any]) -> list[str]:
    """Time before work begins."""
    lines = ["## Start-up", "", *table("what", "seconds")]
    lines += [row(f"`{name}`", seconds) for name, seconds in stored["commands"].items()]
    lines += [row(name if name == "python" else f"{name}, in Python", s) for name, s in stored["statements"].items()]
    packages = ", ".join(f"{r['package']} {r['ms']}" for r in stored["own_ms_by_package"])
    return [*lines, "", f"Milliseconds of imports by package: {packages}.", "", origin(stored["machine"])]


def loader(stored: dict[str, Any]) -> list[str]:
    """Patches per second."""
    lines = [
        "## Masked patches per second",
        "",
        "`PatchLoader` against MONAI's own transforms in a `DataLoader` (crop, flips, rotation, `RandN2VMaskd` last), alone and",
        "feeding the command line's network. Median of rounds in turns.",
        "",
        *table("batch", "source", "alone", "feeding the network"),
    ]
    for dims in ("2d", "3d"):
        batch = "x".join(map(str, stored[dims]["batch"]))
        for name, rates in stored[dims]["patches_per_second"].items():
            lines.append(row(batch, name, rates.get("alone", ""), rates["feeding"]))
    return [*lines, "", origin(stored["machine"])]


def plot_curves(stored: dict[str, Any]) -> None:
    """PSNR against the settings that are numbers, each dot a run, the line through the means."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, 2, figsize=(8, 6), sharey="row")
    for panel_row, dims in zip(panels, (2, 3)):
        rows = [r for r in stored["rows"] if r["task"] == ("", "", "set12", "colin27")[dims] and r["psnr"] is not None]
        budget = min(r["budget"] for r in rows)
        rows = [r for r in rows if r["budget"] == budget]
        defaults = [r["psnr"] for r in rows if r["group"] == "default"]
        for axes, group in zip(panel_row, ("mask_fraction", "lr")):
            own = stored["defaults"][f"{dims}D"][group]
            runs = [(float(r["name"]), r["psnr"]) for r in rows if r["group"] == group]
            runs += [(own, value) for value in defaults]
            axes.plot([x for x, _ in runs], [y for _, y in runs], "o", markersize=3)
            means = {x: statistics.mean(y for at, y in runs if at == x) for x, _ in sorted(runs)}
            axes.plot(list(means), list(means.values()), "-", alpha=0.6)
            axes.axvline(own, color="gray", linestyle=":")
            axes.set(xscale="log", xlabel=group, title=f"{dims}D, {rows[0]['task']}, {budget:g} s")
            axes.grid(alpha=0.3)
        panel_row[0].set_ylabel("PSNR / dB")
    figure.tight_layout()
    IMAGES.mkdir(exist_ok=True)
    figure.savefig(IMAGES / "curves.png", dpi=110)
    plt.close(figure)


SECTIONS: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "quality": quality,
    "curves": curves,
    "centers": centers,
    "loader": loader,
    "prediction": prediction,
    "growth": growth,
    "startup": startup,
}

PLOTS: dict[str, Callable[[dict[str, Any]], None]] = {"curves": plot_curves, "growth": plot_growth}
