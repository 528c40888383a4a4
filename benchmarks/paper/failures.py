# SPDX-License-Identifier: Apache-2.0
"""Figures 5 and 6: what a blind network cannot know, and noise that is not independent."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from scipy import ndimage

from benchmarks.paper.pictures import panels
from benchmarks.paper.schemes import SCHEMES, Scheme, trained
from benchmarks.paper.store import record
from benchmarks.tasks import Task, colin27_crop

__all__ = ["METHODS", "STRUCTURES", "run", "slices", "worst_predictions"]

STEPS = 400
AMPLITUDE = 15.0
# Noise2Void hides single pixels; the line of structN2V lies along the second axis, as the streaks do.
METHODS = {
    "Noise2Void": SCHEMES["Noise2Void"],
    "structN2V": Scheme(settings={"footprint": [[1] * 11], "radius": 8, "fill": "uniform"}),
}


def slices(sigma: float) -> Task:
    """Twelve slices of Colin27, 6 mm apart, with single bright pixels as of calcifications, and white noise."""
    clean, noisy = colin27_crop((slice(None), slice(None), slice(40, 112, 6)), sigma)
    noise, rng = noisy - clean, np.random.default_rng(5)
    places = np.argwhere(ndimage.binary_erosion(clean > 60, iterations=3))
    for place in places[rng.choice(len(places), 60, replace=False)]:
        clean[tuple(place)] = 250
    upright = [[np.rot90(stack[..., k]).copy() for k in range(stack.shape[-1])] for stack in (clean, clean + noise)]
    return Task("slices", upright[1], upright[0], sigma, 255.0)


def worst_predictions(
    task: Task, traditional: Sequence[np.ndarray], blind: Sequence[np.ndarray], scale: str, seed: int
) -> None:
    """Figure 5: where Noise2Void's error is largest, in a single pixel and over an image, and the twin's there."""
    squares = [(output - clean) ** 2 for output, clean in zip(blind, task.clean)]
    number, place = worst_pixel(squares)
    total = int(np.argmax([square.mean() for square in squares]))
    for what, k, of in (("a pixel", number, place), ("an image", total, slice(None))):
        errors = [float(np.sqrt(np.mean((x[k] - task.clean[k])[of] ** 2))) for x in (traditional, blind)]
        found = {"traditional": round(errors[0], 1), "noise2void": round(errors[1], 1)}
        record("failures", scale=scale, figure="5", case=f"largest error of {what}", seed=seed, image_number=k, **found)


def worst_pixel(squares: Sequence[np.ndarray]) -> tuple[int, tuple[int, ...]]:
    """In which image, and where, an error is the largest."""
    number = int(np.argmax([square.max() for square in squares]))
    return number, tuple(int(n) for n in np.unravel_index(int(squares[number].argmax()), squares[number].shape))


def _around(center: Sequence[int], shape: Sequence[int], side: int) -> tuple[slice, ...]:
    """A square window that lies in the image."""
    starts = [min(max(int(c) - side // 2, 0), max(n - side, 0)) for c, n in zip(center, shape)]
    return tuple(slice(start, start + side) for start in starts)


def checkerboard(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:  # noqa: ARG001 - as the others
    """Squares of two pixels, lighter and darker in turn, as in the paper's Figure 6: the same wherever one looks."""
    rows, columns = np.indices(shape) // 2
    return AMPLITUDE * np.where((rows + columns) % 2, 1.0, -1.0)


def streaks(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """White noise smeared over about five pixels of its row: alike along the row, unknowable from farther away."""
    smeared = ndimage.uniform_filter1d(rng.normal(0, 1, shape), 5, axis=1, mode="wrap")
    return AMPLITUDE * smeared / smeared.std()


STRUCTURES = {"checkerboard": checkerboard, "streaks": streaks}


def left_of(pattern: np.ndarray, error: np.ndarray) -> float:
    """Share of a pattern that is still in an image: projection of its error onto the pattern."""
    return float((pattern * error).sum() / (pattern**2).sum())


def run(scale: str, seed: int = 0, methods: Collection[str] | None = None) -> None:
    """Both figures on slices of Colin27, with white noise of sigma 15; the rows of Figure 5 come from ``bsd68``."""
    base = slices(15.0)
    if methods is None:
        _show_lost_pixel(base, seed)
    for kind, make in STRUCTURES.items():
        rng = np.random.default_rng(7)
        patterns = [make(image.shape, rng) for image in base.clean]
        noisy = [(image + pattern).astype(np.float32) for image, pattern in zip(base.noisy, patterns)]
        task = Task(kind, noisy, base.clean, 15.0, 255.0)
        shown = {"clean": base.clean[6], f"white noise and {kind}": noisy[6]}
        for name, scheme in METHODS.items():
            if methods is not None and name not in methods:
                continue
            outputs, steps = _outputs(scheme, task, seed)
            left = float(np.mean([left_of(p, y - x) for p, y, x in zip(patterns, outputs, base.clean)]))
            scores = {"psnr": round(task.score(outputs), 2), "psnr_noisy": round(task.score(noisy), 2)}
            row = {"figure": "6", "case": kind, "method": name, "seed": seed, "steps": steps}
            record("failures", scale=scale, **row, **scores, share_of_pattern_left=round(left, 3))
            shown[name] = outputs[6]
        window = (slice(40, 140), slice(30, 130))
        if seed == 0 and len(shown) == 2 + len(METHODS):
            panels(f"structured_{kind}", {title: image[window] for title, image in shown.items()}, (0, 200))


def _outputs(scheme: Scheme, task: Task, seed: int) -> tuple[list[np.ndarray], int]:
    """What a network makes of the images it was trained on, and its steps."""
    settings = {"features": 32, "batch_size": 16, "lr": 0.001}
    with trained(scheme, ("paper/bsd68.json",), task.noisy, task.clean, STEPS, seed, anneal=True, **settings) as found:
        return found.predict(task.noisy), found.record["steps"]


def _show_lost_pixel(task: Task, seed: int) -> None:
    outputs = {name: _outputs(SCHEMES[name], task, seed)[0] for name in ("traditional", "Noise2Void")}
    number, place = worst_pixel([(output - clean) ** 2 for output, clean in zip(outputs["Noise2Void"], task.clean)])
    window = _around(place, task.clean[number].shape, 64)
    shown = {"clean": task.clean, "noisy": task.noisy, **outputs}
    panels("failure_pixel", {title: images[number][window] for title, images in shown.items()}, (0, 255))
