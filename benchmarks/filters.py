# SPDX-License-Identifier: Apache-2.0
"""Classic filters on the tasks, their parameters chosen with the clean image at hand, which no user has.

``python -m benchmarks.filters``
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.common import save
from benchmarks.tasks import TASKS, Task


def best(
    task: Task, method: str, denoise: Callable[[np.ndarray, Any], np.ndarray], parameters: Sequence[Any]
) -> dict[str, Any]:
    """The best of a filter over its parameter, and the seconds of that one."""
    scores, seconds = [], []
    for parameter in parameters:
        started = time.perf_counter()
        scores.append(task.score([denoise(image, parameter) for image in task.noisy]))
        seconds.append(round(time.perf_counter() - started, 2))
    k = int(np.argmax(scores))
    row = {"task": task.name, "method": method, "parameter": parameters[k], "psnr": round(scores[k], 3)}
    return row | {"seconds": seconds[k]}


def main() -> None:
    from scipy.ndimage import gaussian_filter, median_filter, uniform_filter
    from skimage.restoration import denoise_nl_means

    rows = []
    for name in ("set12", "colin27"):
        task = TASKS[name]()

        def nl_means(image: np.ndarray, parameter: tuple[int, float], sigma: float = task.sigma) -> np.ndarray:
            patch, h = parameter
            options = {"patch_size": patch, "patch_distance": 5, "h": h * sigma, "sigma": sigma}
            output: np.ndarray = denoise_nl_means(image, **options, fast_mode=True)
            return output

        rows.append(best(task, "Gaussian filter, sigma", gaussian_filter, np.arange(0.4, 1.6, 0.1).round(1).tolist()))
        rows.append(best(task, "mean filter, size", uniform_filter, [3, 5, 7]))
        rows.append(best(task, "median filter, size", median_filter, [3, 5, 7]))
        grid = [(patch, h) for patch in (3, 5) for h in (0.4, 0.6, 0.8, 1.0)]
        rows.append(best(task, "non-local means (scikit-image), patch and h / sigma", nl_means, grid))
        print(json.dumps(rows[-4:]), flush=True)
        if task.spatial_dims == 3:
            try:
                from dipy.denoise.nlmeans import nlmeans
            except ImportError:
                print("dipy is absent: its non-local means is left out", file=sys.stderr)
                continue

            def dipy(image: np.ndarray, radius: int, sigma: float = task.sigma) -> np.ndarray:
                options = {"sigma": sigma, "block_radius": 5, "rician": False, "num_threads": 2}
                output: np.ndarray = nlmeans(image, patch_radius=radius, **options)
                return output

            rows.append(best(task, "non-local means (dipy), patch radius", dipy, [1, 2]))
    save("filters", {"rows": rows})


if __name__ == "__main__":
    main()
