# SPDX-License-Identifier: Apache-2.0
"""``docs/measurements/gpu.md``: what was measured on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.common import load, origin
from benchmarks.speed.sections import row, table

__all__ = ["sections"]


def step(stored: dict[str, Any]) -> list[str]:
    """A training step."""
    lines = [
        "## A training step",
        "",
        "The bundles' BasicUNet: ten steps in the bundle against ten of the bare network on a ready batch, in turns, device",
        "events, medians. Patches and blind spots drawn on the GPU equal those drawn on the CPU bit for bit "
        f"({'checked' if all(stored['equal_to_cpu'].values()) else 'NOT so'} in 2D and 3D,",
        "uniform and median fill). bfloat16 gains nothing here, so it is not the network's arithmetic that takes the time.",
        "",
        *table("precision", "batch", "bundle ms", "bare ms", "ratio"),
    ]
    for name, r in stored.items():
        if isinstance(r, dict) and "ratio" in r:
            numbers = (f"{r['bundle_step_ms']:.1f}", f"{r['bare_step_ms']:.1f}", f"**{r['ratio']:.2f}**")
            dims, precision = name.split()
            lines.append(row(f"{dims.upper()} {precision}", _batch(r["batch"]), *numbers))
    return lines


def settings(stored: dict[str, Any]) -> list[str]:
    """Precision, layout, compilation."""
    lines = [
        "## Settings of a training step",
        "",
        "Loss off: largest relative difference of the first three losses from the CPU's in float32. cudnn: a step in the bundle",
        "with `cudnn.benchmark` in place of determinism, which the bundles ask for.",
        "",
        *table("network", "batch", "setting", "loss off", "bundle ms", "bare ms", "ratio", "cudnn: bundle ms"),
    ]
    for r in stored["rows"]:
        name = f"{r['dims']}D {r['recipe']}"
        if "failed" in r:
            lines.append(row(name, _batch(r["batch"]), r["variant"], f"failed: {r['failed']}", "", "", "", ""))
            continue
        sure, fast = r["deterministic"], r["cudnn.benchmark"]
        numbers = (f"{sure['bundle_step_ms']:.1f}", f"{sure['bare_step_ms']:.1f}", f"**{sure['ratio']:.2f}**")
        off = f"{r['losses_off_by']:.0e}"
        lines.append(row(name, _batch(r["batch"]), r["variant"], off, *numbers, f"{fast['bundle_step_ms']:.1f}"))
    return lines


def loader(stored: dict[str, Any]) -> list[str]:
    """Masked patches per second."""
    lines = [
        "## Masked patches per second",
        "",
        "As on the CPU: `PatchLoader` against MONAI's transforms in a `DataLoader`, alone and feeding the command line's network.",
        "",
        *table("batch", "source", "alone", "feeding the network"),
    ]
    for name in ("2d", "3d"):
        for source, rates in stored[name]["patches_per_second"].items():
            lines.append(row(_batch(stored[name]["batch"]), source, rates.get("alone", ""), rates["feeding"]))
    return lines


def prediction(stored: dict[str, Any]) -> list[str]:
    """Prediction of whole images."""
    lines = [
        "## Prediction",
        "",
        "From and to the host's memory, choosing tiles and folding the network included, against the bare",
        "forward pass of a tile that lies on the GPU. Off: largest difference from the CPU, images of range 1, TF32 as torch has",
        "it. Every image here fits as a whole.",
        "",
        *table("network", "image", "seconds", "bare pass", "off", "peak / GiB", "million voxels per second"),
    ]
    for r in stored["rows"]:
        lines.append(
            row(
                f"{r['dims']}D {r['network']}",
                _batch(r["image"]),
                r["seconds"],
                r["bare_seconds_per_tile"],
                f"{max(r['whole_off_cpu'], r['tiles_off_cpu']):.0e}",
                r["peak_gib"],
                f"{r['voxels_per_second'] / 1e6:.0f}",
            )
        )
    return lines


def distributed(stored: dict[str, Any]) -> list[str]:
    """Several processes."""
    lines = [
        "## Several processes",
        "",
        "SyncBatchNorm of two processes against batch norm on the union of their batches: relative error of the gradient",
        ", ".join(f"{name.upper()} {r['gradient_error']:.0e}" for name, r in stored["sync_batchnorm"].items())
        + ". Milliseconds of a step in the bundle:",
        "",
        *table("precision", "processes", "backend", "ms per step"),
    ]
    for name, runs in stored.items():
        if name in ("machine", "sync_batchnorm"):
            continue
        lines += [row(name, n.split()[0], r["backend"] or "none", f"{r['step_ms']:.1f}") for n, r in runs.items()]
    return lines


def _batch(sides: list[int]) -> str:
    return "x".join(map(str, sides))


SECTIONS: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "step": step,
    "settings": settings,
    "loader": loader,
    "prediction": prediction,
    "distributed": distributed,
}


def sections() -> list[str]:
    """All that was measured."""
    lines: list[str] = []
    for name, section in SECTIONS.items():
        stored = load(f"gpu_{name}")
        if stored:
            lines += [*section(stored), "", origin(stored["machine"]), ""]
    return lines
