# SPDX-License-Identifier: Apache-2.0
"""Sections of ``docs/results.md`` on quality per second, from the JSON of the scripts beside this."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from benchmarks.common import load, origin

__all__ = ["PLOTTED_CURVES", "SECTIONS", "row", "table"]

PLOTTED_CURVES = ("mask_fraction", "lr")


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
    """Time to quality against the peer, and the filters."""
    lines = [
        "## Quality and time, against CAREamics and classic filters",
        "",
        "Seconds of training on two cores, the machine otherwise idle. Set12: twelve images, cropped to 256x256 pixels, sigma",
        "25, `default_rng(0)`, PSNR range 255. Colin27: the crop [50:146, 60:156, 50:146] of the T1 volume, sigma 12,",
        "`default_rng(1)`, the clean crop's maximum as range. White Gaussian noise, float, unclipped. Both programs train on the",
        "noisy images alone and predict them; CAREamics with the defaults of its `create_n2v_config` (batches of 16x64x64 and",
        "2x32x32x32), ours with the command line's, a run of its own for every budget, since the learning rate is annealed within",
        "it. The filters' parameters are chosen with the clean image at hand, which no user has.",
        "",
        *table("task", "method", "training s", "steps", "prediction s", "PSNR / dB"),
    ]
    filters = load("filters") or {"rows": []}
    for task in dict.fromkeys(r["task"] for r in stored["rows"]):
        ours = [r for r in stored["rows"] if r["task"] == task]
        lines.append(row(task, "noisy", "", "", "", f"{ours[0]['psnr_noisy']:.2f}"))
        for r in filters["rows"]:
            if r["task"] == task:
                lines.append(row(task, f"{r['method']} {r['parameter']}", "", "", r["seconds"], f"{r['psnr']:.2f}"))
        peers = [peer for peer in stored["peers"] if peer["task"] == task]
        for peer in peers:
            name = f"{peer['program']}{', N2V2' if peer['n2v2'] else ''}"
            times = (peer["training_seconds"], peer["steps"], peer["prediction_seconds"])
            lines.append(row(task, name, *times, f"**{peer['psnr']:.2f}**"))
        means = {}
        for budget in sorted({r["budget_seconds"] for r in ours}):
            runs = [r for r in ours if r["budget_seconds"] == budget]
            means[budget] = statistics.mean(r["psnr"] for r in runs)
            training, prediction = (
                f"{statistics.mean(r[key] for r in runs):.1f}" for key in ("training_seconds", "prediction_seconds")
            )
            steps = round(statistics.mean(r["steps"] for r in runs))
            if float(training) > 1.2 * budget:
                training = f"{budget:g} (took {training}: the machine was busy after its speed had been judged)"
            lines.append(
                row(task, "monai_n2v", training, steps, prediction, f"**{spread([r['psnr'] for r in runs])}**")
            )
        for peer in peers:
            reached = [budget for budget, mean in means.items() if mean >= peer["psnr"]]
            if reached:
                share = min(reached) / peer["budget_seconds"]
                found = f"CAREamics' score within {min(reached):g} s, {share:.3f} of its time"
                lines.append(row(task, found, "", "", "", ""))
    lines += ["", "![PSNR against training time](../images/quality.png)", "", origin(stored["machine"])]
    return [*lines, "", f"Filters: {origin(filters['machine'])}"] if "machine" in filters else lines


def curves(stored: dict[str, Any]) -> list[str]:
    """The curves defaults are chosen by."""
    lines = [
        "## The curves that defaults are chosen by",
        "",
        "PSNR after as many steps as fit into a fixed time, one setting changed at a time; a step's time is measured for all",
        "variants in turns on two threads. Mean, and range over seeds where there are several. Runs of one seed differ by",
        "rounding, which training amplifies: differences below the default's own range say nothing. `default` is the command",
        "line's recipe of that time: from random weights, with detail taken back from the measured values, which has left since.",
        "White noise is not all: the median fill scores best here and sharpens a real CT (below).",
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
    plotted = any(r["group"] in PLOTTED_CURVES for r in stored["rows"])
    image = ["", "![PSNR against mask fraction and learning rate](../images/curves.png)"]
    return [
        *lines,
        *(image if plotted else []),
        "",
        origin({**stored["machine"], "command": "python -m benchmarks.speed.curves run"}),
    ]


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
        lines += table("case", "its seconds", "of these for loading and 64 voxels' side", "ours", "ratio")
        for r in peer["rows"]:
            lines.append(
                row(
                    r["case"],
                    r["careamics_seconds"],
                    r["careamics_seconds_for_64"],
                    r["our_seconds"],
                    f"**{r['ratio']}**",
                )
            )
        lines += ["", origin(peer["machine"])]
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
    return [*lines, "", "![Cost against size](../images/growth.png)", "", origin(stored["machine"])]


def profile(stored: dict[str, Any]) -> list[str]:
    """Where a step's time goes."""
    lines = [
        "## Where a training step's time goes",
        "",
        *table("network, batch", "ms", "by kind of operation", "by level"),
    ]
    for dims in ("2d", "3d"):
        r = stored[dims]
        kinds, levels = (", ".join(f"{name} {ms}" for name, ms in r[key].items()) for key in ("by_kind", "by_level"))
        lines.append(row(f"{dims.upper()}, {'x'.join(map(str, r['batch']))}", r["ms"], kinds, levels))
    return [*lines, "", origin(stored["machine"])]


def unchanged(stored: dict[str, Any]) -> list[str]:
    """What speed-ups do to what is learned."""
    lines = [
        "## Speed-ups leave what is learned unchanged",
        "",
        f"PSNR after {stored['steps']} steps of the command line's recipe, as it is and with one speed-up taken away: mean over",
        f"{len(stored['seeds'])} seeds, smallest and largest. Folded batch norms and tiles equal the plain whole to rounding, which tests hold.",
        "",
        *table("task", "variant", "PSNR / dB"),
    ]
    for task, variants in stored["psnr"].items():
        lines += [row(task, name, spread(values)) for name, values in variants.items()]
    return [*lines, "", origin(stored["machine"])]


def intensity(stored: dict[str, Any]) -> list[str]:
    """What a real CT shows that PSNR does not."""
    tissues = list(stored["rows"][0]["tissues"])
    lines = [
        "## Intensities of a real CT",
        "",
        "Noise of zero mean leaves the mean of many voxels alone, so what is removed must vanish on average in every tissue, and",
        "low-pass filtered anywhere. In HU: the mean of noisy minus denoised per tissue; of the low-pass part (Gaussian of 4",
        "voxels) the spread. Vessel gain: contrast of the lung's vessels after over before, median of peaks above -300 HU, which",
        "are picked with their noise: above 1 they are sharpened. Spread of voxels in the lung, and in the calmest cubes of soft",
        "tissue, after over before. Where there are several seeds, of each the value farthest from what it should be. From",
        "random weights: the prior keeps the vessels (see above)",
        "",
        *table("recipe", "steps", "seeds", *tissues, "low-pass", "vessel gain", "lung", "calm soft tissue"),
    ]
    for name in dict.fromkeys(r["name"] for r in stored["rows"]):
        rows = [r for r in stored["rows"] if r["name"] == name]
        means = (f"{max((r['tissues'][tissue] for r in rows), key=abs):.0f}" for tissue in tissues)
        gain = max((r["vessel_gain"] for r in rows), key=lambda value: abs(value - 1))
        spreads = (f"{max(r[key] for r in rows):.2f}" for key in ("lung_spread", "calm_spread"))
        low_pass = f"{max(r['low_pass_std'] for r in rows):.1f}"
        lines.append(row(name, rows[0]["steps"], len(rows), *means, low_pass, f"**{gain:.2f}**", *spreads))
    return [*lines, "", origin(stored["machine"])]


def startup(stored: dict[str, Any]) -> list[str]:
    """Time before work begins."""
    lines = ["## Start-up", "", *table("what", "seconds")]
    lines += [row(f"`{name}`", seconds) for name, seconds in stored["commands"].items()]
    lines += [row(name if name == "python" else f"{name}, in Python", s) for name, s in stored["statements"].items()]
    packages = ", ".join(f"{r['package']} {r['ms']}" for r in stored["own_ms_by_package"])
    return [*lines, "", f"Milliseconds of imports by package: {packages}.", "", origin(stored["machine"])]


def startup_parts(stored: dict[str, Any]) -> list[str]:
    """Where the time of a small volume goes."""
    lines = [
        "## A small volume, part by part",
        "",
        "Seconds of the processor for `monai-n2v denoise --model` of one 64x64x64 volume, with MONAI loaded whole, as `import`",
        "does, and as the command line loads it. Medians of processes in turn. Seconds of the processor hardly depend on what",
        "else the machine does. The further prediction is no part of the command: it shows what the first one sets up.",
        "",
        *table("part", "MONAI whole", "the command line's"),
    ]
    named = [(r["part"], r["whole_processor_s"], r["lean_processor_s"]) for r in stored["rows"]]
    lines += [row(name, f"{whole:.2f}", f"{lean:.2f}") for name, whole, lean in named]
    whole, lean = (sum(r[i] for r in named if "further" not in r[0]) for i in (1, 2))
    return [*lines, row("all but the further one", f"{whole:.2f}", f"{lean:.2f}"), "", origin(stored["machine"])]


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


def folder(stored: dict[str, Any]) -> list[str]:
    """Folders of small images beside their bare forward passes."""
    lines = [
        "## A folder of small images",
        "",
        "`monai-n2v denoise --model` of a folder, in one process with everything imported, against reading, one bare forward",
        "pass of the same network and writing. One workflow and one loaded network serve all images. Medians of",
        f"{stored['runs']} runs in turn. The last columns are of the whole command as a process, with half of the images and with all.",
        "",
        *table("images", "bare s", "ours s", "ratio", "command s, half", "all", "peak GiB, half", "all"),
    ]
    for r in stored["rows"]:
        of_process = (r[f"{kind}_{part}"] for kind in ("command_seconds", "peak_gib") for part in ("half", "all"))
        lines.append(row(r["case"], r["bare_seconds"], r["seconds"], f"**{r['ratio']}**", *of_process))
    ahead = stored["reading_ahead"]
    lines += [
        "",
        f"{ahead['case']} take {ahead['seconds_in_turn']} s read in turn, and {ahead['seconds_ahead']} s with the next one read ahead by a",
        f"thread: {ahead['ratio']} times as long.",
    ]
    return [*lines, "", origin(stored["machine"])]


SECTIONS: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "quality": quality,
    "curves": curves,
    "intensity": intensity,
    "unchanged": unchanged,
    "profile": profile,
    "loader": loader,
    "prediction": prediction,
    "growth": growth,
    "folder": folder,
    "startup": startup,
    "startup_parts": startup_parts,
}
