# SPDX-License-Identifier: Apache-2.0
"""One training on several GPUs or nodes, and one inference shared among them, launched by torchrun.

torchrun tells every process its place in environment variables (``RANK``, ``LOCAL_RANK``, ``WORLD_SIZE``). Training
joins the processes into a group of torch.distributed. Inference needs none: each process denoises its own images.
"""

import contextlib
import inspect
import logging
import os
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import ignite.distributed as idist
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

_T = TypeVar("_T")

# Renamed in torch 2.13, which warns of the old name.
_OPTIONS = inspect.signature(DistributedDataParallel).parameters
_SYNC_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in _OPTIONS else "broadcast_buffers"


# Groups that were left. A network in DistributedDataParallel may outlive its group, and if it held the last reference,
# its end would join Gloo's threads while it holds Python's lock, which these threads may be waiting for.
_LEFT: list[Any] = []


def global_rank() -> int:
    """Number of this process among all, on all nodes; 0 without torchrun."""
    return int(os.environ.get("RANK", 0))


def local_device() -> torch.device:
    """Choose the GPU of this process, the one of its number on its node; the CPU where there is no GPU.

    Returns:
        the device.

    Raises:
        ValueError: where a node has fewer GPUs than processes.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    index, n_gpus = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if index >= n_gpus:
        raise ValueError(
            f"nproc_per_node must be at most the {n_gpus} GPUs of the node, got at least {index + 1}. "
            f"Launch torchrun with --nproc_per_node={n_gpus}, or override device."
        )
    return torch.device("cuda", index)


def join_group(device: torch.device | str, timeout: float = 1800) -> None:
    """Join the processes that torchrun launched into a group, over NCCL on GPUs and Gloo on CPUs.

    Processes other than the first then log warnings and errors only.

    Args:
        device: of this process.
        timeout: seconds after which a process that waits for another fails.

    Raises:
        RuntimeError: where torchrun did not launch this process.
        ValueError: for a timeout that is not above 0.
    """
    missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise RuntimeError(
            f"multi_gpu_train.json must be launched by torchrun, got no {missing[0]} in the environment. "
            "Use torchrun --standalone --nproc_per_node=2 -m monai.bundle run ..., or leave it out."
        )
    if timeout <= 0:
        raise ValueError(f"timeout must be above 0 seconds, got {timeout}. Use for example 1800.")
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(seconds=timeout))
    # Ignite looks at the group with collectives of its own: here, where all processes are at one point.
    with _outside_slurm():
        idist.sync()
    if dist.get_rank() > 0:
        logging.getLogger().setLevel(max(logging.WARNING, logging.getLogger().level))


@contextlib.contextmanager
def _outside_slurm() -> Iterator[None]:
    # Within a SLURM job Ignite replaces LOCAL_RANK by SLURM's, which is 0 for all processes of one torchrun.
    job = os.environ.pop("SLURM_JOB_ID", None)
    try:
        yield
    finally:
        if job is not None:
            os.environ["SLURM_JOB_ID"] = job


def leave_group() -> None:
    """Leave the group of processes, if there is one."""
    if dist.is_initialized():
        _LEFT.append(dist.group.WORLD)
        dist.destroy_process_group()
        idist.sync()


def parallel(network: torch.nn.Module, sync_batchnorm: bool = False) -> torch.nn.Module:
    """Wrap a network that already lies on its device for training by several processes.

    Gradients are averaged over the processes in every step; running statistics of batch norm by `BufferAverage`, once
    per epoch.

    Args:
        network: the same on all processes; that of process 0 is copied to the others.
        sync_batchnorm: whether batch norm takes its statistics from the batches of all processes, on GPUs only.

    Returns:
        the network in ``DistributedDataParallel``.

    Raises:
        ValueError: where ``sync_batchnorm`` is asked for on the CPU.
    """
    device = next(network.parameters()).device
    if sync_batchnorm:
        if device.type != "cuda":
            raise ValueError(f"sync_batchnorm must be false on a {device.type} device, got True. Leave it out.")
        network = torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)
    options: dict[str, Any] = {"device_ids": [device] if device.type == "cuda" else None, _SYNC_BUFFERS: False}
    return DistributedDataParallel(network, **options)


def share(items: Sequence[_T]) -> list[_T]:
    """Choose the images that this process denoises: every n-th of n processes, from its own number on.

    Unlike MONAI's ``partition_dataset`` it allows for fewer images than processes.

    Args:
        items: all images, in the same order on all processes.

    Returns:
        this process's; maybe none.
    """
    return list(items[global_rank() :: int(os.environ.get("WORLD_SIZE", 1))])
