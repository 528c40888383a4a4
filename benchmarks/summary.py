# SPDX-License-Identifier: Apache-2.0
"""``docs/results.md``: half a page for who wants to know whether to use this, from the JSON of the experiments."""

from __future__ import annotations

from typing import Any

from benchmarks.common import ROOT, load
from benchmarks.speed.sections import row, table

__all__ = ["plot", "text"]

# The rows of `benchmarks.prior`, and where the others were measured on the same images.
IMAGES = {
    "Colin27, sigma 4": {"image": "Colin27", "noise": "Gaussian", "sigma": 4.0},
    "Colin27, sigma 8": {"image": "Colin27", "noise": "Gaussian", "sigma": 8.0},
    "Colin27, sigma 12": {"image": "Colin27", "noise": "Gaussian", "sigma": 12.0},
    "M4Raw T1": {"image": "M4Raw T1", "noise": "real"},
    "M4Raw T2": {"image": "M4Raw T2", "noise": "real"},
}
OTHERS = {
    "BM3D or BM4D": ("BM3D", "BM4D"),
    "non-local means": ("non-local means (scikit-image)",),
    "ANTs": ("ANTs",),
    "CAREamics": ("CAREamics",),
}
OURS = {"prior": "ours, `--fast`", "adapted": "ours"}
SERIES = {"noisy": "noisy", "together": "ours", "MP-PCA": "MP-PCA (dipy)", "Patch2Self": "Patch2Self (dipy)"}
BALLS = ("radius 1, 4 sigma", "radius 2, 1 sigma", "radius 2, 2 sigma", "radius 2, 4 sigma", "radius 3, 2 sigma")
PATTERNS = ("text", "checkerboard of 4 pixels", "checkerboard of 1 pixel", "comb of 2 pixels")
PICTURES = ROOT / "docs" / "images"


def scores() -> dict[str, dict[str, dict[str, Any]]]:
    """Rows of the experiments by image and method; methods in the order of the table."""
    own = (load("prior") or {"rows": []})["rows"]
    filters = (load("paper_medical") or {"rows": []})["rows"]
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name, wanted in IMAGES.items():
        rows = [one for one in filters if all(one.get(key) == value for key, value in wanted.items())]
        by = {"noisy": next((one for one in rows if one["method"] == "noisy"), None)}
        by |= {
            shown: next((one for one in own if (one["image"], one["method"]) == (name, method)), None)
            for method, shown in OURS.items()
        }
        by |= {
            shown: next((one for one in rows if one["method"].startswith(starts)), None)
            for shown, starts in OTHERS.items()
        }
        found[name] = {shown: one for shown, one in by.items() if one is not None}
    return found


def _cells(by: dict[str, dict[str, Any]], key: str, columns: list[str]) -> list[str]:
    values = {shown: one[key] for shown, one in by.items() if one.get(key) is not None}
    best = max(values.values()) if key == "psnr" else None
    texts = {shown: f"{value:.1f}" if key == "psnr" else f"{value:.0f}" for shown, value in values.items()}
    return [f"**{texts[c]}**" if c in texts and values[c] == best else texts.get(c, "") for c in columns]


def quality() -> list[str]:
    """PSNR and seconds beside the others."""
    found = scores()
    columns = ["noisy", *OURS.values(), *OTHERS]
    lines = [
        "## Quality",
        "",
        "PSNR in dB, higher is better. Colin27: a brain with simulated white noise. M4Raw: real MR at 0.3 T, scored by its",
        "repeats. BM3D, BM4D and non-local means were given the noise level, and non-local means its best parameters too.",
        "We need neither. An empty cell was not measured.",
        "",
        *table("image", *columns),
        *(row(name, *_cells(by, "psnr", columns)) for name, by in found.items()),
        "",
        "![PSNR of each method](images/results_quality.png)",
        "",
        "## Time",
        "",
        "Seconds for the whole image, on one CPU core: 96 x 96 x 96 voxels of Colin27, and 18 slices of 256 x 256 of M4Raw.",
        "CAREamics was given ten minutes of training.",
        "",
        *table("image", *columns[1:]),
        *(row(name, *_cells(by, "seconds", columns[1:])) for name, by in found.items()),
        "",
        "![PSNR against seconds](images/results_time.png)",
    ]
    return [
        *lines,
        "",
        "More: [quality](measurements/quality.md), [speed](measurements/speed.md), [GPUs](measurements/gpu.md).",
    ]


def fidelity() -> list[str]:
    """What is left of small lesions, and of vessels."""
    rows = (load("harm") or {"rows": []})["rows"]
    by = {one["method"]: one for one in rows if one["case"] == "lesions"}
    shown = {method: OURS.get(method, method) for method in by}
    lines = [
        "## Fidelity",
        "",
        "Contrast that is left of small balls in white matter, noise of sigma 8; 1 is all. Contrasts are in units of sigma.",
        "",
        *table("ball", *shown.values()),
        *(row(ball, *(f"{by[method][ball]:.2f}" for method in shown)) for ball in BALLS),
        "",
        "![Contrast left of small balls](images/results_fidelity.png)",
        "",
    ]
    vessels = [one for one in (load("prior") or {"rows": []})["rows"] if "vessel_gain" in one and one["method"] in OURS]
    for one in vessels:
        lines += [
            f"- Real CT, {OURS[one['method']]}: {100 * one['vessel_gain']:.0f} % of the contrast of small vessels is left, and "
            f"{100 * one['calm_spread']:.0f} % of the spread of calm tissue.",
        ]
    return [*lines, "", "More: [fidelity](measurements/fidelity.md), [noise](measurements/noise.md)."]


def series() -> list[str]:
    """Diffusion and functional series."""
    rows = (load("series") or {"rows": []})["rows"]
    by = {(one["case"], one["method"]): one for one in rows}
    lines = [
        "## Series of volumes",
        "",
        "Simulated diffusion and functional MR on Colin27. Ours denoises the volumes together, without a training.",
        "",
        *table(
            "way", "diffusion, SNR 8: PSNR", "error of FA", "functional: PSNR", "activation left", "false activation"
        ),
    ]
    for method, shown in SERIES.items():
        first, second = by.get(("diffusion, SNR 8", method)), by.get(("functional, tSNR 40", method))
        if first and second:
            shares = [f"{100 * second[name]:.0f} %" for name in ("contrast_kept", "false_contrast")]
            lines.append(
                row(shown, f"{first['psnr']:.1f}", f"{first['fa_error']:.3f}", f"{second['psnr']:.1f}", *shares)
            )
    return [*lines, "", "More: [series](measurements/quality.md#series-of-volumes)."]


def limits() -> list[str]:
    """What is done badly."""
    rows = (load("harm") or {"rows": []})["rows"]
    methods = [m for m in dict.fromkeys(one["method"] for one in rows) if m != "noisy"]
    by = {(one["case"], one["method"]): one.get("psnr") for one in rows}
    columns = ["noisy", *methods]
    lines = [
        "## Limits",
        "",
        "Regular patterns are unlike what the prior has seen. PSNR in dB, white noise of sigma 20:",
        "",
        *table("image", *(OURS.get(name, name) for name in columns)),
    ]
    for case in PATTERNS:
        values = {name: by.get((case, name)) for name in columns}
        lines.append(row(case, *("" if value is None else f"{value:.1f}" for value in values.values())))
    return [
        *lines,
        "",
        "![PSNR of regular patterns](images/results_limits.png)",
        "",
        "Noise that neighboring voxels share is removed in part. More: [how it fails](explanation/failures.md),",
        "[the paper's comparisons](measurements/paper.md).",
    ]


def text() -> str:
    """The page."""
    lines = [
        "# Results",
        "",
        "<!-- Written by `python -m benchmarks.table` from `benchmarks/results/`; do not edit. -->",
        "",
        "What was measured, beside other programs. Commands, versions and machines stand beside each table of the linked pages.",
        "",
        *quality(),
        "",
        *series(),
        "",
        *fidelity(),
        "",
        *limits(),
    ]
    return "\n".join(lines).rstrip() + "\n"


def plot() -> None:
    """The page's figures."""
    import matplotlib.pyplot as plt

    found = scores()
    columns = [*OURS.values(), *OTHERS]
    named = {shown: shown.replace("`", "") for shown in columns}
    colors = dict(zip(columns, ("#0b6e99", "#35a7d6", "#777777", "#a0a0a0", "#c4c4c4", "#dddddd")))

    figure, axes = plt.subplots(figsize=(8, 3.2))
    for k, shown in enumerate(columns):
        gains = [by[shown]["psnr"] - by["noisy"]["psnr"] if shown in by else float("nan") for by in found.values()]
        places = [n + (k - len(columns) / 2) * 0.13 for n in range(len(found))]
        axes.bar(places, gains, 0.12, color=colors[shown], label=named[shown])
    axes.set_xticks(range(len(found)), list(found))
    axes.set_ylabel("gain in PSNR / dB")
    axes.axhline(0, color="black", linewidth=0.6)
    _finish(figure, axes, "results_quality")

    figure, panels = plt.subplots(1, 2, figsize=(8, 3.2))
    for axes, name in zip(panels, ("Colin27, sigma 12", "M4Raw T1")):
        dots = sorted(((one["psnr"], shown) for shown, one in found[name].items() if shown in columns), reverse=True)
        for k, (score, shown) in enumerate(dots):
            place = (max(found[name][shown]["seconds"], 0.3), score)
            axes.plot(*place, "o", color=colors[shown], markeredgecolor="black")
            beside = (5, 5 if k % 2 == 0 else -11)  # names of near dots apart
            axes.annotate(named[shown], place, beside, textcoords="offset points", fontsize=7)
        axes.set(xscale="log", title=name, xlabel="seconds on one CPU core", ylabel="PSNR / dB", xlim=(0.2, 8000))
        axes.margins(y=0.15)
        axes.grid(alpha=0.3)
    _finish(figure, None, "results_time")

    rows = (load("harm") or {"rows": []})["rows"]
    by = {one["method"]: one for one in rows if one["case"] == "lesions"}
    figure, axes = plt.subplots(figsize=(8, 3.2))
    for k, (method, one) in enumerate(by.items()):
        places = [n + (k - len(by) / 2) * 0.2 for n in range(len(BALLS))]
        shade = ("#0b6e99", "#35a7d6") if method in OURS else ("#777777", "#bbbbbb")
        axes.bar(
            places,
            [one[ball] for ball in BALLS],
            0.18,
            color=shade[k % 2],
            label=OURS.get(method, method).replace("`", ""),
        )
    axes.set_xticks(range(len(BALLS)), BALLS, fontsize=8)
    axes.set_ylabel("contrast left")
    axes.set_ylim(0, 1)
    _finish(figure, axes, "results_fidelity")

    methods = [method for method in dict.fromkeys(one["method"] for one in rows) if method != "noisy"]
    scored = {(one["case"], one["method"]): one["psnr"] for one in rows if "psnr" in one}
    figure, axes = plt.subplots(figsize=(8, 3.2))
    for k, method in enumerate(methods):
        places = [n + (k - len(methods) / 2) * 0.2 for n in range(len(PATTERNS))]
        gains = [scored.get((case, method), float("nan")) - scored[case, "noisy"] for case in PATTERNS]
        shade = ("#0b6e99", "#35a7d6") if method in OURS else ("#777777", "#bbbbbb")
        axes.bar(places, gains, 0.18, color=shade[k % 2], label=OURS.get(method, method).replace("`", ""))
    axes.set_xticks(range(len(PATTERNS)), PATTERNS, fontsize=8)
    axes.set_ylabel("gain in PSNR / dB")
    _finish(figure, axes, "results_limits")


def _finish(figure: Any, axes: Any, name: str) -> None:
    import matplotlib.pyplot as plt

    if axes is not None:
        axes.legend(fontsize=7, ncols=2)
        axes.grid(axis="y", alpha=0.3)
    figure.tight_layout()
    figure.savefig(PICTURES / f"{name}.png", dpi=110)
    plt.close(figure)
