# SPDX-License-Identifier: Apache-2.0
"""Filters that learn nothing, as the paper compares with: mean, median, non-local means, BM3D and BM4D."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from benchmarks.tasks import Task

__all__ = ["classic_rows", "collaborative", "optional", "scored"]

Filter = Callable[[np.ndarray], np.ndarray]


def _non_local_means(h: float, sigma: float) -> Filter:
    from skimage.restoration import denoise_nl_means

    def filtered(image: np.ndarray) -> np.ndarray:
        output: np.ndarray = denoise_nl_means(
            image, patch_size=5, patch_distance=6 if image.ndim == 2 else 4, h=h * sigma, sigma=sigma, fast_mode=True
        )
        return output

    return filtered


@contextlib.contextmanager
def optional(package: str) -> Iterator[None]:
    """Leave out what is inside where a package is absent, and say so."""
    try:
        yield
    except ImportError as error:
        print(f"{package} is absent, its row is left out: {error}", file=sys.stderr)


def collaborative(sigma: float, n_axes: int) -> Filter:
    """BM3D or BM4D, whose licence is non-commercial: never more than a row of a table.

    Raises:
        ImportError: where it is not installed.
    """
    if n_axes == 2:
        from bm3d import bm3d

        return lambda image: bm3d(image, sigma)
    from bm4d import bm4d

    return lambda image: bm4d(image, sigma)


def classic_rows(task: Task, sigma: float, h: Sequence[float] = (0.4, 0.6, 0.8, 1.0)) -> Iterator[dict[str, Any]]:
    """Scores of the noisy images and of every filter, all parameters of a kind, the best of them as a row of its own.

    Args:
        task: images and what they are scored against.
        sigma: of the noise, for the filters that want it.
        h: strengths of non-local means to try, in units of ``sigma``.

    Yields:
        ``method``, ``psnr``, ``psnr_8bit`` (clipped and rounded to 0..255) and ``seconds`` per image.
    """
    named: dict[str, Filter] = {}
    for size in (3, 5, 7):
        named[f"mean filter {size}"] = lambda image, size=size: ndimage.uniform_filter(image, size)
        named[f"median filter {size}"] = lambda image, size=size: ndimage.median_filter(image, size)
    block_matching = f"BM{task.spatial_dims + 1}D"
    with optional(block_matching):
        named[block_matching] = collaborative(sigma, task.spatial_dims)
    yield scored(task, "noisy", task.noisy, 0.0)
    for method, denoise in named.items():
        started = time.perf_counter()
        outputs = [denoise(image) for image in task.noisy]
        yield scored(task, method, outputs, time.perf_counter() - started)
    tried = []
    for strength in h:
        denoise = _non_local_means(strength, sigma)
        started = time.perf_counter()
        outputs = [denoise(image) for image in task.noisy]
        tried.append(scored(task, "non-local means", outputs, time.perf_counter() - started) | {"h": strength})
    yield max(tried, key=lambda row: row["psnr"])


def scored(task: Task, method: str, outputs: Sequence[np.ndarray], seconds: float) -> dict[str, Any]:
    """A row of a table."""
    row = {"method": method, "psnr": round(task.score(outputs), 3)}
    if task.peak == 255:
        rounded = [np.clip(np.rint(output), 0, 255) for output in outputs]
        row["psnr_8bit"] = round(task.score(rounded), 3)
    return row | {"seconds_per_image": round(seconds / len(outputs), 3)}
