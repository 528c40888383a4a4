# SPDX-License-Identifier: Apache-2.0
"""The plot of Figure 7."""

from __future__ import annotations

from typing import Any

from benchmarks.paper.pictures import IMAGES

__all__ = ["plot_sweep"]


def plot_sweep(stored: dict[str, Any]) -> None:
    """PSNR over sigma, by method; of the mean and median filters the best size."""
    import matplotlib.pyplot as plt

    lines: dict[str, dict[float, float]] = {}
    for r in stored["rows"]:
        kind = r["method"][:-2] if "filter" in r["method"] else r["method"]
        of = lines.setdefault(kind, {})
        of[r["sigma"]] = max(of.get(r["sigma"], 0.0), r["psnr"])
    figure, axes = plt.subplots(figsize=(6, 4.2))
    for method, of in lines.items():
        ours = method.startswith("Noise2Void")
        axes.plot(*zip(*sorted(of.items())), "o-" if ours else ".--", label=method, linewidth=2 if ours else 1)
    axes.set(xlabel="sigma of the noise", ylabel="PSNR in dB")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(IMAGES / "sweep.png", dpi=100)
    plt.close(figure)
