# SPDX-License-Identifier: Apache-2.0
"""Masking, patch cutting and a training step on a GPU: equal to the CPU first, then timed with device events.

``python -m benchmarks.gpu.step``
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.common import save
from benchmarks.speed.overhead import BATCHES, steps


def check(device: torch.device) -> dict[str, bool]:
    """Patches and masks drawn on the GPU equal those drawn on the CPU, bit for bit."""
    from monai_n2v.data import PatchCut, PatchLoader
    from monai_n2v.transforms.pairing import RandN2VMaskd

    equal = {}
    generator = torch.Generator().manual_seed(0)
    for spatial_dims, fill in itertools.product((2, 3), ("uniform", "median")):
        volume = torch.randn(1, *(96,) * spatial_dims, generator=generator)
        batches = []
        for place in ("cpu", device):
            pairing = RandN2VMaskd("image", batched=True, fill=fill, radius=2)
            cut = PatchCut((32,) * spatial_dims)
            loader = PatchLoader([{"image": volume}], cut, 8, 2, transform=pairing, device=place)
            batches.append([{key: tensor.cpu() for key, tensor in batch.items()} for batch in loader])
        equal[f"{spatial_dims}d {fill}"] = all(torch.equal(a[k], b[k]) for a, b in zip(*batches) for k in a)
    return equal


def milliseconds(
    step: Callable[[], Any], n: int, device: torch.device | str = "cuda", n_together: int = 1
) -> list[float]:
    """Device time of each of ``n`` runs; of a CPU, which has no events, the clock's.

    In training nobody waits for a step before giving the device the next one: with ``n_together`` steps per
    measurement, what the host does while the device computes counts as little as it does there.
    """
    times = []
    if torch.device(device).type == "cpu":
        for _ in range(n):
            started = time.perf_counter()
            for _ in range(n_together):
                step()
            times.append(1e3 * (time.perf_counter() - started) / n_together)
        return times
    for _ in range(n):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(n_together):
            step()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / n_together)
    return times


def main() -> None:
    device = torch.device("cuda:0")
    equal = check(device)
    if not all(equal.values()):
        raise SystemExit(f"GPU and CPU draw different batches: {equal}")
    results: dict[str, Any] = {"equal_to_cpu": equal}
    for spatial_dims, amp in itertools.product((2, 3), (False, True)):
        batch_size, patch_size = BATCHES[spatial_dims]
        both = steps(spatial_dims, batch_size=batch_size, patch_size=list(patch_size), amp=amp)[:2]
        for step in both:
            milliseconds(step, 10)
        pairs = [[milliseconds(step, 1, n_together=10)[0] for step in both] for _ in range(15)]
        results[f"{spatial_dims}d {'bfloat16' if amp else 'float32'}"] = {
            "batch": [batch_size, *patch_size],
            "bundle_step_ms": statistics.median(a for a, _ in pairs),
            "bare_step_ms": statistics.median(b for _, b in pairs),
            "ratio": statistics.median(a / b for a, b in pairs),
        }
    save("gpu_step", results)


if __name__ == "__main__":
    main()
