# SPDX-License-Identifier: Apache-2.0
"""Write ``docs/results.md`` and its plot from the JSON in ``benchmarks/results/``. ``python -m benchmarks.table``."""

from __future__ import annotations

from typing import Any

from benchmarks.common import ROOT, load, origin
from benchmarks.speed.sections import PLOTS, SECTIONS

PLOT = ROOT / "docs" / "images" / "colin27.png"


def label(row: dict[str, Any]) -> str:
    """Network and settings of a row."""
    default = {2: 32, 3: 16}[row["dims"]]
    features = f"{default}, default" if row["features"] == "default" else ", ".join(map(str, row["features"]))
    extra = "".join(f", {name} {value}" for name, value in row["overrides"].items())
    return f"{row['dims']}D {row['network']} ({'fast' if row['fast'] else features}{extra})"


def colin27_section(stored: dict[str, Any]) -> list[str]:
    """PSNR against time: table and plot."""
    filters = [row for row in stored["rows"] if row["method"] != "Noise2Void"]
    trained = [row for row in stored["rows"] if row["method"] == "Noise2Void" and row["side"] == 96]
    small = [row for row in stored["rows"] if row["method"] == "Noise2Void" and row["side"] != 96]
    lines = [
        "## Brain MR with simulated noise (Colin27)",
        "",
        "Crop [50:146, 60:156, 50:146] of the Colin27 T1 volume, white Gaussian noise of sigma 12 (`default_rng(1)`,",
        "float32, unclipped). The network trains on that crop alone. PSNR in dB with the clean crop's maximum as range,",
        "float, neither clipped nor rounded. The filters' parameters are chosen with the clean image at hand, which no",
        "user has; Noise2Void never sees it.",
        "",
        "| method | PSNR | seconds |",
        "| --- | --- | --- |",
    ]
    for row in filters:
        found = ", ".join(f"{k} {v}" for k, v in row.items() if k not in ("method", "psnr", "seconds"))
        lines.append(
            f"| {row['method']}{f' ({found})' if found else ''} | {row['psnr']:.2f} | {row.get('seconds', '')} |"
        )
    lines += [
        "",
        "| network | budget | steps | training s | prediction s | PSNR | mean not kept |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    order = sorted(trained, key=lambda r: (label(r), r["budget_seconds"] or 0))
    for row in order:
        budget = f"{row['budget_seconds']:g} s" if row["budget_seconds"] else f"{row['epochs']} epochs"
        seconds = f"{row['training_seconds']:.0f} | {row['prediction_seconds']:.0f}"
        lines.append(
            f"| {label(row)} | {budget} | {row['steps']} | {seconds} | **{row['psnr']:.2f}** | {row.get('psnr_without_kept_mean', '')} |"
        )
    if trained:
        best = max(trained, key=lambda row: row["psnr"])
        gains = [
            f"{best['psnr'] - row['psnr']:+.2f} dB against {row['method']}"
            for row in filters
            if row["method"] != "noisy"
        ]
        lines += ["", f"Best row: {label(best)}, {best['training_seconds']:.0f} s: {'; '.join(gains)}."]
        lines += ["", "![PSNR against training time](images/colin27.png)", ""]
        lines += [
            "Each row is a run of its own, since the learning rate is annealed within the budget. The budget was turned into",
            "steps by the time of a step, measured for all networks in turns on two threads of an idle machine (below), and",
            "the run then made that many steps, on whatever threads were free: training s is steps times that time. Training",
            "ran in bfloat16, which this CPU has units for (AMX); on others the same steps take longer.",
            "",
            "| network | ms per step |",
            "| --- | --- |",
            *(f"| {name} | {ms} |" for name, ms in stored["step_ms"].items() if name != "machine"),
            "",
            origin(stored["step_ms"]["machine"]),
            "",
            "Origin of the rows:",
            "",
        ]
        for text in sorted({origin(row["machine"]) for row in trained}):
            lines.append(f"- {text}")
    for row in small:
        lines += [
            "",
            f"A cube of {row['side']} voxels' side, {row['budget_seconds']:g} s: {row['psnr_noisy']:.2f} dB noisy, "
            f"**{row['psnr']:.2f} dB** denoised ({label(row)}). {origin(row['machine'])}",
        ]
    return lines


def plot_colin27(stored: dict[str, Any]) -> None:
    """PSNR against seconds of training, filters as lines."""
    import matplotlib.pyplot as plt

    filters = [row for row in stored["rows"] if row["method"] != "Noise2Void"]
    trained = [row for row in stored["rows"] if row["method"] == "Noise2Void" and row["side"] == 96]

    figure, axes = plt.subplots(figsize=(6.4, 4))
    for name in sorted({label(row) for row in trained}):
        rows = sorted((r for r in trained if label(r) == name), key=lambda r: r["training_seconds"])
        axes.plot([r["training_seconds"] for r in rows], [r["psnr"] for r in rows], "o-", label=name)
    for row, style in zip([r for r in filters if r["method"] != "noisy"], ("--", ":", "-.")):
        axes.axhline(row["psnr"], color="gray", linestyle=style, label=row["method"])
    axes.set(xscale="log", xlabel="seconds of training on two CPU cores", ylabel="PSNR in dB")
    ticks = [30, 60, 120, 300, 600, 1800]
    axes.set_xticks(ticks, map(str, ticks))
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=6)
    PLOT.parent.mkdir(exist_ok=True)
    figure.savefig(PLOT, dpi=110, bbox_inches="tight")


def overhead_section(stored: dict[str, Any]) -> list[str]:
    """What a training step costs beyond the network."""
    lines = [
        "## What training costs beyond the network",
        "",
        "A step in the bundle (patches cut and masked, Ignite's events, MONAI's trainer) against forward, backward and",
        "optimizer of the same default network in the same precision on a ready batch. The two take turns; medians, and the median of the",
        "ratios of neighbors.",
        "",
        "| batch | bundle ms | bare ms | ratio |",
        "| --- | --- | --- | --- |",
    ]
    for name in ("2d", "3d"):
        row = stored[name]
        batch = "x".join(map(str, row["batch"]))
        lines.append(f"| {batch} | {row['bundle_step_ms']} | {row['bare_step_ms']} | **{row['ratio']:.3f}** |")
    row = stored["masking"]
    lines += [
        "",
        f"Masking a batch of {'x'.join(map(str, row['batch']))} with {row['sites_per_image']} blind spots each, one thread: "
        f"**{row['median_ms']} ms**, {100 * row['share_of_2d_step']:.2g} % of the bare 2D step.",
    ]
    if "epoch" in stored:
        times = ", ".join(f"{name} {row['seconds']} s ({row['steps']} steps)" for name, row in stored["epoch"].items())
        lines += ["", f"One default epoch of the bundle with its validation, start-up left out: {times}."]
    return [*lines, "", origin(stored["machine"])]


def seams_section(stored: dict[str, Any]) -> list[str]:
    """How visible BasicUNet's seams are."""
    lines = [
        "## Seams",
        "",
        "Where the halo covers the receptive field (`N2VUNet` with its `halo`), tiles equal the whole to rounding. BasicUNet",
        "sees about 104 voxels to each side, so tiles differ a little; here on a network trained on noisy Colin27, in units",
        "of the noise's standard deviation.",
        "",
        "| bundle | tile | halo | largest | mean |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in ("2d", "3d"):
        for row in stored[name]["rows"]:
            lines.append(
                f"| {name.upper()} | {stored[name]['tile_size']} | {row['halo']} | {row['largest']:.4f} | {row['mean']:.6f} |"
            )
    return [*lines, "", origin(stored["machine"])]


def check_section(stored: dict[str, Any]) -> list[str]:
    """How often the noise check is right."""
    lines = [
        "## The noise check",
        "",
        "`monai-n2v check` on crops and slices of Colin27 with simulated noise of sigma 3 to 25. Right: white noise passes;",
        "correlated noise is warned of, along the right axis with the right footprint; a clean smoothed image is not called",
        "noisy. Limits were chosen on other seeds.",
        "",
        "| noise | axes | cases | right | PASS | WARN | UNSURE | measured sigma / true, median (worst) |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in stored["table"]:
        sigma = f"{row['sigma_ratio_median']} ({row['sigma_ratio_worst']})" if row["sigma_ratio_median"] else ""
        lines.append(
            f"| {row['kind'].replace('_', ' ')} | {row['dims']} | {row['cases']} | **{row['right']}** | {row['PASS']} "
            f"| {row['WARN']} | {row['UNSURE']} | {sigma} |"
        )
    return [*lines, "", origin(stored["machine"])]


def memory_section(stored: dict[str, Any]) -> list[str]:
    """How much memory a large volume takes."""
    shape = "x".join(map(str, stored["shape"]))
    return [
        "## Memory",
        "",
        f"Denoising a CT of {shape} voxels (int16) with a ready network peaks at **{stored['peak_gib']:.2f} GiB**; four such",
        f"volumes in float32 and 1 GiB are {stored['limit_gib']:.2f} GiB.",
        "",
        origin(stored["machine"]),
    ]


def averaging_section(stored: dict[str, Any]) -> list[str]:
    """What averaging over symmetries and over weights is worth."""
    n_steps = stored["epochs"] * stored["steps_per_epoch"]
    lines = [
        "## Averaging",
        "",
        f"A crop of Colin27 of {stored['side']} voxels to each side, sigma {stored['sigma']:g}, the command line's network after",
        f"{n_steps} steps: the last weights or their running average (`ema` {stored['decay']}), without and with the mean over 16",
        f"flips and turns (`--tta`). Mean of {stored['seeds']} seeds; the gain over the last weights, smallest to largest.",
        "",
        "| learning rate | weights | PSNR / dB | gain / dB |",
        "| --- | --- | --- | --- |",
    ]
    for rate, variants in stored["psnr"].items():
        for name, values in variants.items():
            gains = [value - last for value, last in zip(values, variants["last"])]
            gain = f"{min(gains):+.2f} to {max(gains):+.2f}" if name != "last" else ""
            lines.append(f"| {rate} | {name} | {sum(values) / len(values):.2f} | {gain} |")
    return [*lines, "", origin(stored["machine"])]


def bigdata_section(stored: dict[str, Any]) -> list[str]:
    """What a folder beyond memory costs."""
    lines = [
        "## A folder that exceeds memory",
        "",
        f"{stored['images']} compressed volumes of {stored['side']} voxels to each side, {stored['folder_gib']:.2f} GiB in float32, a small 3D",
        f"network, {stored['epoch_length']} steps per epoch, {stored['epochs']} epochs. Peak memory counts the program, too.",
        "",
        "| images | before the first epoch / s | epoch / s | of it until the first batch / s | peak / GiB |",
        "| --- | --- | --- | --- | --- |",
    ]
    for what, row in stored["runs"].items():
        lines.append(
            f"| {what} | {row['seconds_before_the_first_epoch']:.1f} | {row['seconds_per_epoch']:.2f} "
            f"| {row['of_these_to_the_first_batch']:.2f} | {row['peak_gib']:.2f} |"
        )
    return [*lines, "", origin(stored["machine"])]


def text() -> str:
    """The whole page."""
    lines = ["# Results", "", "Written by `python -m benchmarks.table` from `benchmarks/results/`; do not edit.", ""]
    sections = {
        "colin27": colin27_section,
        **SECTIONS,
        "overhead": overhead_section,
        "seams": seams_section,
        "check": check_section,
        "memory": memory_section,
        "averaging": averaging_section,
        "bigdata": bigdata_section,
    }
    for name, section in sections.items():
        stored = load(name)
        if stored:
            lines += [*section(stored), ""]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    (ROOT / "docs" / "results.md").write_text(text())
    for name, plot in {"colin27": plot_colin27, **PLOTS}.items():
        stored = load(name)
        if stored:
            plot(stored)


if __name__ == "__main__":
    main()
