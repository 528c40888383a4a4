# SPDX-License-Identifier: Apache-2.0
"""Where the time of a training step goes: by kind of operation, and by level of the network.

``python -m benchmarks.speed.profile`` profiles the command line's networks on a ready batch, two threads, in bfloat16
where the CPU is fast at it. An operation belongs to the level whose side its largest input has.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.common import save
from benchmarks.speed.loader import BATCHES, make_step, patch_loader

KINDS = {
    "convolution, backward": ("convolution_backward",),
    "convolution, forward": ("mkldnn_convolution", "slow_conv", "_convolution", "convolution"),
    "batch norm": ("batch_norm",),
    "ReLU": ("clamp_min", "threshold_backward", "relu"),
    "pooling, upsampling, joining": ("max_pool", "upsample", "cat"),
    "Adam": ("Optimizer", "adam", "lerp", "addcdiv", "sqrt"),
}


def kind_of(name: str) -> str:
    """Kind of an operator."""
    return next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), "rest")


def profile_steps(spatial_dims: int, n_steps: int) -> dict[str, Any]:
    """Milliseconds per step by kind and by level."""
    device = torch.device("cpu")
    sides = {2: (512, 512), 3: (128, 128, 128)}[spatial_dims]
    volume = torch.randn(1, *sides, generator=torch.Generator().manual_seed(0))
    batch = next(patch_loader(spatial_dims, volume, device))
    step = make_step(spatial_dims, device)
    for _ in range(5):
        step(batch)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        for _ in range(n_steps):
            step(batch)
    kinds: dict[str, float] = defaultdict(float)
    levels: dict[str, float] = defaultdict(float)
    for event in profiler.key_averages(group_by_input_shape=True):
        ms = event.self_cpu_time_total / 1e3 / n_steps
        kinds[kind_of(event.key)] += ms
        shapes = [shape for shape in event.input_shapes if len(shape) == spatial_dims + 2 and shape[-1] > 3]
        levels[f"side {max(shape[-1] for shape in shapes)}" if shapes else "no level"] += ms
    return {
        "batch": [BATCHES[spatial_dims][0], *BATCHES[spatial_dims][1]],
        "ms": round(sum(kinds.values()), 1),
        "by_kind": {k: round(v, 1) for k, v in sorted(kinds.items(), key=lambda item: -item[1])},
        "by_level": {k: round(v, 1) for k, v in sorted(levels.items(), key=lambda item: -item[1])},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    results = {f"{n}d": profile_steps(n, arguments.steps) for n in (2, 3)}
    print(json.dumps(results))
    save("profile", results)


if __name__ == "__main__":
    main()
