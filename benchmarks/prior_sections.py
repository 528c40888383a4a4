# SPDX-License-Identifier: Apache-2.0
"""Sections of ``docs/measurements/`` on the prior and its parts, from the JSON of the scripts beside this."""

from __future__ import annotations

from typing import Any

from benchmarks.common import load, origin
from benchmarks.speed.sections import row, table

# Rows of the best of the others, tuned with the clean image at hand.
OTHERS = {
    "Colin27, sigma 4": ("medical", {"image": "Colin27", "noise": "Gaussian", "sigma": 4.0}),
    "Colin27, sigma 8": ("medical", {"image": "Colin27", "noise": "Gaussian", "sigma": 8.0}),
    "Colin27, sigma 12": ("medical", {"image": "Colin27", "noise": "Gaussian", "sigma": 12.0}),
    "M4Raw T1": ("medical", {"image": "M4Raw T1", "noise": "real"}),
    "M4Raw T2": ("medical", {"image": "M4Raw T2", "noise": "real"}),
    "BSD68, sigma 25": ("bsd68", {"scale": "reduced"}),
}
_LEARNED = ("monai_n2v", "Noise2", "N2V2", "traditional", "noisy", "CAREamics")


def _best_of_others(name: str) -> str:
    if name not in OTHERS:
        return ""
    experiment, wanted = OTHERS[name]
    rows = (load(f"paper_{experiment}") or {"rows": []})["rows"]
    rows = [one for one in rows if all(one.get(key) == value for key, value in wanted.items())]
    rows = [one for one in rows if not one["method"].startswith(_LEARNED)]
    if not rows:
        return ""
    best = max(rows, key=lambda one: one["psnr"])
    return f"{best['psnr']:.2f} ({best['method']})"


def prior_section(stored: dict[str, Any]) -> list[str]:
    """The program's defaults on the tasks."""
    lines = [
        "## The prior",
        "",
        "Without any setting: by the [prior](../explanation/prior.md) alone (`--fast`), and adapted to the image.",
        "PSNR, and seconds of the whole call. The best classic filter had its parameters chosen with the clean image",
        "at hand, which no user has. One network serves all images of Set12 and BSD68.",
        "",
        *table("image", "way", "PSNR / dB", "seconds", "scheme", "steps", "best classic filter"),
    ]
    for one in stored["rows"]:
        if "psnr" in one:
            dims = f"{one['scheme']}, {one['spatial_dims']}D"
            seconds = f"{one['seconds']:g}"
            lines.append(
                row(
                    one["image"],
                    _way(one),
                    f"{one['psnr']:.2f}",
                    seconds,
                    dims,
                    one["steps"],
                    _best_of_others(one["image"]),
                )
            )
    real = [one for one in stored["rows"] if "vessel_gain" in one]
    if real:
        lines += [
            "",
            "The aorta CT has no clean image. Left of small vessels' contrast, and of the spread of calm voxels:",
            "",
        ]
        lines += table("way", "vessels", "calm spread", "seconds", "scheme")
        lines += [row(_way(r), r["vessel_gain"], r["calm_spread"], f"{r['seconds']:g}", r["scheme"]) for r in real]
    return [*lines, "", f"{origin(stored['machine'])} Threads of the runs: {stored['threads']}."]


def _way(one: dict[str, Any]) -> str:
    rate = f", lr {one['lr']:g}" if "lr" in one else ""
    return str(one["method"]) + rate


def noise_section(stored: dict[str, Any]) -> list[str]:
    """How exactly noise is measured."""
    lines = [
        "## Noise, measured by the prior",
        "",
        f"Simulated noise on Colin27, {stored['seeds']} seeds. Errors are relative, of correlations absolute.",
        "",
        *table("what", "axes", "median", "worst"),
    ]
    for one in stored["rows"]:
        if "share" in one:
            lines.append(row(f"white noise {one['what']}", f"{one['dims']}D", f"{100 * one['share']:.0f} %", ""))
        else:
            percent = [one["median"], one["worst"]]
            texts = [f"{v:.3f}" if "correlation" in one["what"] else f"{100 * v:.1f} %" for v in percent]
            lines.append(row(one["what"], f"{one['dims']}D", *texts))
    return [*lines, "", origin(stored["machine"])]


def harm_section(stored: dict[str, Any]) -> list[str]:
    """What becomes of what is easily lost."""
    methods = list(dict.fromkeys(one["method"] for one in stored["rows"] if one["case"] == "lesions"))
    by = {(one["case"], one["method"]): one for one in stored["rows"]}
    lines = [
        "## Do no harm",
        "",
        "Balls in the white matter of Colin27, sigma 8: how much of their contrast is left, median of six.",
        "",
        *table("ball", *methods),
    ]
    names = [key for key in by["lesions", methods[0]] if key.startswith("radius")]
    lines += [row(name, *(by["lesions", method][name] for method in methods)) for name in names]
    lines += [row("PSNR of the whole / dB", *(by["lesions", method]["psnr"] for method in methods))]
    lines += [
        "",
        "Pure noise: the share of its standard deviation that is left. Other images: PSNR in dB.",
        "",
    ]
    others = list(dict.fromkeys(one["case"] for one in stored["rows"] if one["case"] != "lesions"))
    all_methods = list(dict.fromkeys(one["method"] for one in stored["rows"]))
    lines += table("image", *all_methods)
    for case in others:
        found = [by.get((case, method), {}) for method in all_methods]
        lines.append(row(case, *(one.get("psnr", one.get("share_left", "")) for one in found)))
    return [*lines, "", origin(stored["machine"])]


def architecture_section(stored: dict[str, Any]) -> list[str]:
    """Networks and patches after equally many steps of pretraining."""
    lines = [
        "## Which network, which patches",
        "",
        "Priors of this and earlier commits, and short pretrainings from random weights: the network alone on images",
        "that it has not seen. PSNR in dB. Continued: the same image amid its own reflection, sides five thirds as",
        "long. A network that was trained on small patches with zeros beyond their border leans on it, and loses",
        "there. Where the values at the border are repeated, it does not. Smoothed: neighboring voxels share noise.",
        "",
    ]
    for dims in (3, 2):
        rows = [one for one in stored["rows"] if one["dims"] == dims]
        if not rows:
            continue
        names = [name for name in rows[0] if "sigma" in name]
        lines += table(f"{dims}D", "million parameters", "steps", *names)
        for one in rows:
            size = f"{one['parameters'] / 1e6:.2f}"
            lines.append(row(one["name"], size, one.get("steps", ""), *(one[name] for name in names)))
        lines.append("")
    return [*lines, origin(stored["machine"])]


def magnitude_section(stored: dict[str, Any]) -> list[str]:
    """What taking off the bias of magnitude images gains."""
    lines = [
        "## Magnitude images",
        "",
        "A crop of Colin27, a third of it air, with Rician noise, and with that of four coils. PSNR in dB, over all",
        "voxels and in the head. Biases are mean errors, in standard deviations of the noise. The filters' rows on the",
        "same volumes are in [brain MR](paper.md#brain-mr). dipy's non-local means corrects the bias, too.",
        "",
        *table("sigma", "coils", "method", "all voxels", "head", "bias in air", "bias in tissue", "seconds"),
    ]
    for one in stored["rows"]:
        names = ("coils", "method", "psnr", "psnr_head", "air_bias", "tissue_bias", "seconds")
        lines.append(row(f"{one['sigma']:g}", *(one[name] for name in names)))
    for one in stored.get("m4raw", ()):
        lines += [
            "",
            f"M4Raw {one['contrast']}, brain, a signal of {one['signal']:g} standard deviations: the bias is",
            f"{one['before']:+.3f} before and {one['after']:+.3f} after, by the two other repeats without theirs.",
        ]
    return [*lines, "", origin(stored["machine"])]


def detection_section(stored: dict[str, Any]) -> list[str]:
    """Which images are taken for a magnitude."""
    lines = ["## Which images are taken for a magnitude", "", *table("kind", "images", "taken for a magnitude")]
    lines += [row(one["kind"], one["images"], one["found"]) for one in stored["rows"]]
    return [*lines, "", origin(stored["machine"])]


def uneven_section(stored: dict[str, Any]) -> list[str]:
    """What a noise map gains."""
    names = ("noise", "method", "map", "psnr", "psnr_head", "psnr_middle", "psnr_border")
    lines = [
        "## Noise maps",
        "",
        "The same crop of Colin27 with noise three times as strong in the middle (sigma 12) as at the border (4), as",
        "parallel imaging leaves it. PSNR in dB, over all voxels, in the head, and in those of its parts where the",
        "noise is more than twice, and less than 1.5 times, the weakest. Trainings are short, in 3D, by a scheme that",
        "is asked for, since with a map another may be chosen.",
        "",
        *table("noise", "method", "map", "all voxels", "head", "middle", "border"),
    ]
    lines += [row(*(one[name] for name in names)) for one in stored["rows"]]
    return [*lines, "", origin(stored["machine"])]


def series_section(stored: dict[str, Any]) -> list[str]:
    """Series of volumes, together and apart."""
    rows = stored["rows"]
    lines = [
        "## Series of volumes",
        "",
        "Simulated on 32 x 32 x 24 voxels of Colin27: 64 directions of two fiber bundles at b 1000 and 6 volumes",
        "without weighting; 100 time points with blocks of 2 % activation in balls of 3 voxels. White noise of one",
        "strength. Together is what the program does by default, without a training (`--volumes auto`); apart every",
        "volume is denoised by itself. Patch2Self and MP-PCA are dipy's. PSNR and errors in tissue.",
        "The bias of a shell is that of its mean signal.",
        "",
    ]
    diffusion = [one for one in rows if "fa_error" in one]
    functional = [one for one in rows if "t_value" in one]
    lines += table("diffusion", "way", "PSNR / dB", "FA error", "FA bias", "largest bias of a shell", "seconds")
    for one in diffusion:
        shift = f"{100 * one['shell_bias']:.2f} %"
        numbers = (f"{one['psnr']:.2f}", f"{one['fa_error']:.4f}", f"{one['fa_bias']:+.4f}", shift)
        lines.append(row(one["case"].removeprefix("diffusion, "), one["method"], *numbers, f"{one['seconds']:g}"))
    lines += ["", *table("functional", "way", "PSNR / dB", "t-value", "contrast kept", "false contrast", "seconds")]
    for one in functional:
        shares = [f"{100 * one[name]:.0f} %" for name in ("contrast_kept", "false_contrast")]
        name = one["case"].removeprefix("functional, ")
        lines.append(row(name, one["method"], f"{one['psnr']:.2f}", one["t_value"], *shares, f"{one['seconds']:g}"))
    lines += [
        "",
        "Contrast kept: mean activation, of what was put in. False contrast: its spread where there is none. A high",
        "t-value alone means little: smoothing in time raises it. Times are of a busy machine.",
    ]
    return [*lines, "", origin(stored["machine"])]
