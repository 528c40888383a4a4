# SPDX-License-Identifier: Apache-2.0
"""Write ``docs/results.md``, ``docs/measurements/`` and their plots from the JSON. ``python -m benchmarks.table``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import summary
from benchmarks.common import ROOT, load, origin
from benchmarks.gpu.sections import sections as gpu_sections
from benchmarks.paper.plots import plot_sweep
from benchmarks.paper.sections import sections as paper_sections
from benchmarks.prior_sections import (
    architecture_section,
    detection_section,
    harm_section,
    magnitude_section,
    noise_section,
    prior_section,
    series_section,
    uneven_section,
)
from benchmarks.speed.plots import PLOTS
from benchmarks.speed.sections import SECTIONS, row, table

Section = Callable[[dict[str, Any]], list[str]]


def overhead_section(stored: dict[str, Any]) -> list[str]:
    """What a training step costs beyond the network."""
    lines = [
        "## What training costs beyond the network",
        "",
        "A step in the bundle (patches cut and masked, Ignite's events, MONAI's trainer) against forward, backward, clipping",
        "and optimizer of the same network in the same precision on a ready batch. The two take turns; medians, and the",
        "median of the ratios of neighbors. What is added is 2 to 5 ms a step at the small batches, whatever the network, so it",
        "weighs more where the network is fast: first on a CPU that computes in float32, then, at an earlier commit, on one with",
        "tiles for bfloat16. (In the first run freed memory was kept between steps, which changed neither by more than 0.5 %.)",
        "",
    ]
    for one in (stored, load("overhead_bfloat16")):
        if one:
            lines += [*_overhead_table(one), ""]
    return lines[:-1]


def _overhead_table(stored: dict[str, Any]) -> list[str]:
    lines = table("batch", "bundle ms", "bare ms", "ratio")
    for name in (f"{n}d{what}" for n in (2, 3) for what in ("", " bundle", " command line")):
        r = stored.get(name)
        if r is None:
            continue
        batch = "x".join(map(str, r["batch"])) + (", the command line's network" if "line" in name else "")
        lines.append(row(batch, r["bundle_step_ms"], r["bare_step_ms"], f"**{r['ratio']:.3f}**"))
    r = stored["masking"]
    lines += [
        "",
        f"Masking a batch of {'x'.join(map(str, r['batch']))} with {r['sites_per_image']} blind spots each, one thread: "
        f"**{r['median_ms']} ms**, {100 * r['share_of_2d_step']:.2g} % of the bare 2D step.",
    ]
    if "epoch" in stored:
        times = ", ".join(f"{name} {r['seconds']} s ({r['steps']} steps)" for name, r in stored["epoch"].items())
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
        *table("bundle", "tile", "halo", "largest", "mean"),
    ]
    for name in ("2d", "3d"):
        for r in stored[name]["rows"]:
            seam = (f"{r['largest']:.4f}", f"{r['mean']:.6f}")
            lines.append(row(name.upper(), stored[name]["tile_size"], r["halo"], *seam))
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
        *table(*("noise", "axes", "cases", "right", "PASS", "WARN", "UNSURE"), "measured sigma / true, median (worst)"),
    ]
    for r in stored["table"]:
        sigma = f"{r['sigma_ratio_median']} ({r['sigma_ratio_worst']})" if r["sigma_ratio_median"] else ""
        verdicts = (r["PASS"], r["WARN"], r["UNSURE"])
        lines.append(row(r["kind"].replace("_", " "), r["dims"], r["cases"], f"**{r['right']}**", *verdicts, sigma))
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
        *table("learning rate", "weights", "PSNR / dB", "gain / dB"),
    ]
    for rate, variants in stored["psnr"].items():
        for name, values in variants.items():
            gains = [value - last for value, last in zip(values, variants["last"])]
            gain = f"{min(gains):+.2f} to {max(gains):+.2f}" if name != "last" else ""
            lines.append(row(rate, name, f"{sum(values) / len(values):.2f}", gain))
    return [*lines, "", origin(stored["machine"])]


def bigdata_section(stored: dict[str, Any]) -> list[str]:
    """What a folder beyond memory costs."""
    lines = [
        "## A folder that exceeds memory",
        "",
        f"{stored['images']} compressed volumes of {stored['side']} voxels to each side, {stored['folder_gib']:.2f} GiB in float32, a small 3D",
        f"network, {stored['epoch_length']} steps per epoch, {stored['epochs']} epochs. Peak memory counts the program, too.",
        "",
        *table("images", "before the first epoch / s", "epoch / s", "of it until the first batch / s", "peak / GiB"),
    ]
    for what, r in stored["runs"].items():
        seconds = (r["seconds_per_epoch"], r["of_these_to_the_first_batch"])
        lines.append(
            row(
                what,
                f"{r['seconds_before_the_first_epoch']:.1f}",
                *(f"{value:.2f}" for value in (*seconds, r["peak_gib"])),
            )
        )
    return [*lines, "", origin(stored["machine"])]


def label_section(stored: dict[str, Any]) -> list[str]:
    """What denoising does for a segmenter inside MONAI Label."""
    lines = [
        "## Before a segmenter",
        "",
        f"Inside MONAI Label: three crops of Colin27 with white noise of sigma {stored['sigma']:g} are the studies, the bundle is trained on them for",
        f"{stored['steps']} steps without labels. The segmenter is a threshold between gray and white matter, its mask of the clean volume the",
        "truth. All from the server's answers.",
        "",
        *table("image", "PSNR noisy / dB", "denoised / dB", "Dice noisy", "Dice after denoising"),
    ]
    for r in stored["rows"]:
        scores = (r["psnr_noisy"], r["psnr_denoised"], r["dice_noisy"], f"**{r['dice_after_n2v']}**")
        lines.append(row(r["image"], *scores))
    return [*lines, "", origin(stored["machine"])]


ELSEWHERE = ("quality", "intensity", "curves", "unchanged")  # sections of `speed` on other pages
PAGES: dict[str, tuple[str, dict[str, Section]]] = {
    "quality": (
        "Quality",
        {
            "prior": prior_section,
            "quality": SECTIONS["quality"],
            "averaging": averaging_section,
            "series": series_section,
            "label": label_section,
        },
    ),
    "fidelity": (
        "Fidelity",
        {"harm": harm_section, "intensity": SECTIONS["intensity"], "seams": seams_section},
    ),
    "noise": (
        "Noise",
        {
            "check": check_section,
            "noise_model": noise_section,
            "magnitude": magnitude_section,
            "magnitude_detection": detection_section,
            "uneven": uneven_section,
        },
    ),
    "defaults": (
        "How defaults were chosen",
        {"architecture": architecture_section, "curves": SECTIONS["curves"], "unchanged": SECTIONS["unchanged"]},
    ),
    "speed": (
        "Speed and memory",
        {
            **{name: SECTIONS[name] for name in SECTIONS if name not in ELSEWHERE},
            "overhead": overhead_section,
            "memory": memory_section,
            "bigdata": bigdata_section,
        },
    ),
}
NOTICE = "<!-- Written by `python -m benchmarks.table` from `benchmarks/results/`; do not edit. -->"


def pages() -> dict[str, str]:
    """Every page by its path below ``docs/``."""
    made = {"results.md": summary.text()}
    for name, (title, sections) in PAGES.items():
        lines: list[str] = []
        for stored_name, section in sections.items():
            stored = load(stored_name)
            if stored:
                lines += [*section(stored), ""]
        made[f"measurements/{name}.md"] = _page(title, lines)
    made["measurements/gpu.md"] = _page("On a GPU", gpu_sections())
    made["measurements/paper.md"] = _page("The paper's comparisons", paper_sections())
    return made


def _page(title: str, lines: Sequence[str]) -> str:
    return "\n".join([f"# {title}", "", NOTICE, "", *lines]).rstrip() + "\n"


def main() -> None:
    for name, text in pages().items():
        path = ROOT / "docs" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    summary.plot()
    for name, plot in {**PLOTS, "paper_sweep": plot_sweep}.items():
        stored = load(name)
        if stored:
            plot(stored)


if __name__ == "__main__":
    main()
