# SPDX-License-Identifier: Apache-2.0
"""Training by several processes on GPUs: equal to one process first, then timed.

Two processes on one GPU, which only Gloo allows, check SyncBatchNorm against batch norm on the union of their batches.
Then the bundles train alone, as one process over NCCL, and on all GPUs of the node where there are several.

``python -m benchmarks.gpu.distributed``
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.common import ROOT, save

EPOCHS, EPOCH_LENGTH = 3, 50


def sync_batchnorm_step(rank: int, port: int, spatial_dims: int, folder: str) -> None:
    """One step of one of two processes, on its half of a batch."""
    from monai.networks.nets import BasicUNet

    from monai_n2v.bundle.distributed import parallel

    device = torch.device("cuda:0")
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = False
    form = torch.channels_last if spatial_dims == 2 else torch.channels_last_3d
    union = torch.randn(8, 1, *(32,) * spatial_dims)
    both: dict[str, Any] = {}
    for name, batch in (("two", union.chunk(2)[rank]), ("one", union)):
        torch.manual_seed(1)
        network = BasicUNet(spatial_dims, features=(8, 8, 16, 16, 16, 8), norm="batch", bias=False)
        network = network.to(device, memory_format=form)
        trained = parallel(network, sync_batchnorm=True) if name == "two" else network
        trained(batch.to(device)).square().mean().backward()
        if name == "two":
            network = trained.module
            weight = next(p for p in network.parameters() if p.ndim == spatial_dims + 2)
            both["channels_last"] = weight.is_contiguous(memory_format=form)
            both["norms"] = sorted({type(m).__name__ for m in network.modules() if "BatchNorm" in type(m).__name__})
        gradient = torch.cat([p.grad.flatten() for p in network.parameters()])
        statistic = torch.cat([b.flatten() for n, b in network.named_buffers() if "running" in n])
        both[name] = (gradient.cpu(), statistic.cpu())
    torch.save(both, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def check_sync_batchnorm() -> dict[str, Any]:
    """Gradients and running statistics of two processes against those of one on both batches."""
    results = {}
    for spatial_dims in (2, 3):
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        port = store.port
        del store
        with tempfile.TemporaryDirectory() as folder:
            torch.multiprocessing.spawn(sync_batchnorm_step, (port, spatial_dims, folder), nprocs=2)
            ranks = [torch.load(Path(folder) / f"{rank}.pt") for rank in range(2)]
        (gradient, statistic), (expected, expected_statistic) = ranks[0]["two"], ranks[0]["one"]
        results[f"{spatial_dims}d"] = {
            "norms": ranks[0]["norms"],
            "channels_last": ranks[0]["channels_last"],
            "gradient_error": float((gradient - expected).norm() / expected.norm()),
            "statistics_error": float((statistic - expected_statistic).norm() / expected_statistic.norm()),
            "processes_equal": all(torch.equal(a, b) for a, b in zip(ranks[0]["two"], ranks[1]["two"])),
        }
    return results


def train(spatial_dims: int, amp: bool, out: Path, small: bool) -> None:
    """Train a bundle on one phantom, as part of a group where torchrun launched this."""
    from ignite.engine import Events
    from monai.bundle import ConfigWorkflow
    from monai.data import MetaTensor

    from monai_n2v.bundle import find_bundle

    configs = find_bundle(f"n2v_denoise_{spatial_dims}d") / "configs"
    group = [str(configs / "multi_gpu_train.json")] if "RANK" in os.environ else []
    side, epoch_length = (32, 2) if small else ({2: 512, 3: 96}[spatial_dims], EPOCH_LENGTH)
    volume = torch.randn(1, *(side,) * spatial_dims, generator=torch.Generator().manual_seed(0))
    data = [{"image": MetaTensor(volume * 10 + 100)}]
    flow = ConfigWorkflow(
        config_file=[str(configs / "train.json"), *group],
        workflow_type="train",
        logging_file=False,
        bundle_root=str(configs.parent),
        output_dir=str(out.parent),
        amp=amp,
        epochs=EPOCHS,
        epoch_length=epoch_length,
        val_length=2,
        **{"train#dataset#data": data, "validate#dataset#data": data},
    )
    flow.initialize()
    trainer = flow.parser.get_parsed_content("train#trainer")
    evaluator = flow.parser.get_parsed_content("validate#evaluator")
    device = flow.parser.get_parsed_content("device")
    times: list[float] = []
    losses: list[float] = []

    @trainer.on(Events.ITERATION_STARTED | Events.ITERATION_COMPLETED)
    def clock(engine: Any) -> None:  # noqa: ARG001
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter())

    evaluator.add_event_handler(Events.COMPLETED, lambda engine: losses.append(engine.state.metrics["val_loss"]))
    flow.run()
    backend = dist.get_backend() if dist.is_initialized() else None
    network = flow.parser.get_parsed_content("network")
    norms = sorted({type(module).__name__ for module in network.modules() if "BatchNorm" in type(module).__name__})
    flow.finalize()
    steps = [b - a for a, b in zip(times[::2], times[1::2])][epoch_length:]
    if int(os.environ.get("RANK", 0)) == 0:
        milliseconds = 1e3 * statistics.median(steps)
        out.write_text(
            json.dumps({"backend": backend, "norms": norms, "step_ms": milliseconds, "val_losses": losses}) + "\n"
        )


def launched(spatial_dims: int, amp: bool, n: int, small: bool) -> dict[str, Any]:
    """Train in a process of its own, or in ``n`` that torchrun launches."""
    group = ["-m", "torch.distributed.run", "--standalone", "--nnodes=1", f"--nproc_per_node={n}"] if n else []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        command = [sys.executable, *group, "-m", "benchmarks.gpu.distributed", "--worker", str(spatial_dims), str(out)]
        subprocess.run([*command, *(["--amp"] if amp else []), *(["--small"] if small else [])], cwd=ROOT, check=True)
        return json.loads(out.read_text())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--worker", nargs=2, metavar=("DIMS", "OUT"), help="train, as main() launches it")
    parser.add_argument("--amp", action="store_true")
    parser.add_argument("--small", action="store_true", help="tiny images: whether this script works, also on a CPU")
    arguments = parser.parse_args()
    if arguments.worker:
        train(int(arguments.worker[0]), arguments.amp, Path(arguments.worker[1]), arguments.small)
        return
    results: dict[str, Any] = {}
    if torch.cuda.is_available():
        results["sync_batchnorm"] = check_sync_batchnorm()
        wrong = [key for key, value in results["sync_batchnorm"].items() if value["gradient_error"] > 1e-3]
        if wrong:
            raise SystemExit(f"SyncBatchNorm differs from batch norm on the union of batches: {results}")
    counts = [0, 1, *([torch.cuda.device_count()] if torch.cuda.device_count() > 1 else [])]
    for spatial_dims, amp in itertools.product((2, 3), (False, True)):
        runs = {f"{n} processes": launched(spatial_dims, amp, n, arguments.small) for n in counts}
        runs["1 processes"]["val_loss_error"] = max(
            abs(a / b - 1) for a, b in zip(*(runs[f"{n} processes"]["val_losses"] for n in (1, 0)))
        )
        results[f"{spatial_dims}d {'bfloat16' if amp else 'float32'}"] = runs
    if arguments.small:
        print(json.dumps(results, indent=2))
    else:
        save("gpu_distributed", results)


if __name__ == "__main__":
    main()
