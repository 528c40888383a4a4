# SPDX-License-Identifier: Apache-2.0
"""What makes a step fast on a GPU: precision, memory layout, compilation, CUDA graphs, fused Adam, determinism.

``python -m benchmarks.gpu.settings`` checks every variant's loss against the CPU's first, then times the bundle's step
and the bare one in turns with device events. ``--device cpu --rounds 1 --small`` tells without a GPU that it runs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from collections.abc import Callable
from typing import Any

import torch
from monai.networks.nets.basic_unet import UpCat

from benchmarks.common import save
from benchmarks.gpu.step import milliseconds
from benchmarks.recipes import N2V_ALONE
from benchmarks.speed.overhead import BATCHES, steps

CONTIGUOUS = {"network": "$@network_def.to(@device)"}
PLAIN_ADAM = {"optimizer#fused": False}
# Overrides of the bundle, and torch.compile's mode or None for none.
VARIANTS: dict[str, tuple[dict[str, Any], str | None]] = {
    "float32": ({"amp": False}, None),
    "float32, contiguous": ({"amp": False, **CONTIGUOUS}, None),
    "bfloat16": ({"amp": True}, None),
    "bfloat16, contiguous": ({"amp": True, **CONTIGUOUS}, None),
    "bfloat16, Adam not fused": ({"amp": True, **PLAIN_ADAM}, None),
    "bfloat16, compiled": ({"amp": True}, "default"),
    "bfloat16, CUDA graphs": ({"amp": True}, "reduce-overhead"),
}


def compile_network(network: torch.nn.Module, mode: str) -> None:
    """Compile in place; its sides are multiples of the divisor, so BasicUNet need not pad, which does not compile."""
    for module in network.modules():
        if isinstance(module, UpCat):
            module.is_pad = False
    network.compile(mode=mode)


def losses(spatial_dims: int, overlays: list[str], overrides: dict[str, Any], mode: str | None) -> list[float]:
    """Losses of the first steps of a training."""
    torch._dynamo.reset()
    bundle_step, _, trainer = steps(spatial_dims, overlays, batch_size=2, **overrides, prepare=_preparation(mode))
    found = []
    for _ in range(3):
        bundle_step()
        found.append(trainer.state.output["loss"].item())
    return found


def _preparation(mode: str | None) -> Callable[[torch.nn.Module], None] | None:
    return None if mode is None else lambda network: compile_network(network, mode)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--rounds", type=int, default=8, help="of ten steps each")
    parser.add_argument("--dims", type=int, nargs="*", default=[2, 3])
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS))
    parser.add_argument("--small", action="store_true", help="tiny batches, to see that it runs")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    # Float32 is to mean float32 here.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    place = {"device": f"$torch.device('{device}')"}
    rows = []
    for dims, recipe in itertools.product(arguments.dims, ("bundle", "command line")):
        overlays = [N2V_ALONE[dims]] if recipe == "command line" else []
        batch_size, patch = (2, (32,) * dims) if arguments.small else BATCHES[dims]
        reference = losses(dims, overlays, {"amp": False, "device": "$torch.device('cpu')"}, None)
        for name in arguments.variants:
            overrides, mode = VARIANTS[name]
            row: dict[str, Any] = {"dims": dims, "recipe": recipe, "variant": name}
            try:
                found = losses(dims, overlays, {**overrides, **place}, mode)
                tolerance = 5e-2 if "bfloat16" in name else 1e-3
                worst = max(abs(a - b) / b for a, b in zip(found, reference))
                row |= {"losses_off_by": worst, "as_on_cpu": worst < tolerance}
                options = {"batch_size": batch_size, "patch_size": list(patch), **overrides, **place}
                # Without, one graph would serve several shapes, as it does in no training.
                torch._dynamo.reset()
                both = steps(dims, overlays, **options, prepare=_preparation(mode))[:2]
                for deterministic in (True, False):
                    # The bundle asks for determinism; this is what it costs.
                    torch.backends.cudnn.deterministic = deterministic
                    torch.backends.cudnn.benchmark = not deterministic
                    for step in both:
                        milliseconds(step, min(10, arguments.rounds), device)
                    pairs = [[milliseconds(step, 1, device, 10)[0] for step in both] for _ in range(arguments.rounds)]
                    ours = statistics.median(a for a, _ in pairs)
                    row["deterministic" if deterministic else "cudnn.benchmark"] = {
                        "bundle_step_ms": ours,
                        "bare_step_ms": statistics.median(b for _, b in pairs),
                        "ratio": statistics.median(a / b for a, b in pairs),
                        "patches_per_second": round(1e3 * batch_size / ours, 1),
                    }
            except Exception as error:  # noqa: BLE001 - a variant that fails is a finding, too
                row["failed"] = f"{type(error).__name__}: {error}"[:300]
            rows.append({"batch": [batch_size, *patch], **row})
            print(json.dumps(rows[-1]), flush=True)
            save("gpu_settings" if device.type == "cuda" else "try_settings", {"rows": rows})  # may be cut short


if __name__ == "__main__":
    main()
