# SPDX-License-Identifier: Apache-2.0
"""One noisy image in, a denoised one out: the public `denoise`, and the same for a stack of volumes in memory."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor

from monai_n2v.apps.train import TrainingPlan, train_network
from monai_n2v.bundle.trained import TrainedNetwork, resolve_model
from monai_n2v.io.images import check_target, default_target, read_volume, save_volume
from monai_n2v.io.nifti import NiftiSource, to_volume
from monai_n2v.transforms.axes import MIN_DEPTH, Stack, to_image
from monai_n2v.transforms.padding import restore_padding

__all__ = ["check_stack", "choose_device", "denoise", "denoise_stack", "denoise_with"]

logger = logging.getLogger(__name__)


def choose_device(device: str) -> str:
    """Resolve ``"auto"`` to the GPU where there is one, and check that the device exists.

    Args:
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.

    Returns:
        a device torch knows.

    Raises:
        ValueError: for a device this machine does not have.
    """
    if device == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device must be one of this machine, got {device!r}. Use auto or cpu.") from error
    return device


def check_stack(volumes: np.ndarray, name: str = "") -> None:
    """Refuse what cannot be denoised.

    Args:
        volumes: ``(n_volumes, *spatial)``.
        name: for messages.

    Raises:
        ValueError: for complex or other non-numbers, NaN or infinity, fewer than 8 voxels along every axis, or a
            constant image.
    """
    where = f" for {name}" if name else ""
    if volumes.size == 0:
        raise ValueError(f"image must have voxels, got shape {volumes.shape}{where}. Check how it was cut.")
    if volumes.dtype.kind not in "biuf":
        raise ValueError(f"image must hold real numbers, got {volumes.dtype}{where}. Take the magnitude first.")
    if max(volumes.shape[1:]) < MIN_DEPTH:
        raise ValueError(
            f"image must have at least {MIN_DEPTH} voxels along some axis, got {volumes.shape[1:]}{where}. "
            "Noise2Void learns from the neighborhood of each voxel."
        )
    n_bad = int(volumes.size - np.isfinite(volumes).sum())
    if n_bad:
        raise ValueError(
            f"image must be finite, got {n_bad} NaN or infinite voxels{where}. "
            "Replace them first, for example with numpy.nan_to_num."
        )
    if volumes.min() == volumes.max():
        raise ValueError(
            f"image must vary, got the constant {float(volumes.min()):g}{where}. There is nothing to denoise."
        )


def denoise_with(
    network: TrainedNetwork,
    stack: Stack,
    device: str,
    keep_padding: bool = True,
    tta: bool = False,
    keep_detail: bool = True,
) -> np.ndarray:
    """Denoise volumes with a trained network.

    Args:
        network: the network; one for images takes volumes slice by slice, across their shortest axis.
        stack: the volumes.
        device: as torch names it.
        keep_padding: whether voxels of constant padding (see `find_padding`) stay exactly what they are.
        tta: whether to average predictions over flips and turns (see `SymmetricInferer`).
        keep_detail: whether to take detail back from the measured values (see `DetailInferer`), unless the network's
            bundle does not.

    Returns:
        float32 ``(n_volumes, *spatial)``, in the units of ``stack``.

    Raises:
        ValueError: for images that cannot be denoised, or a network that does not fit.
    """
    check_stack(stack.volumes, stack.name)
    n_axes = stack.volumes.ndim - 1
    if network.spatial_dims > n_axes:
        raise ValueError(
            f"model must fit an image of {n_axes} axes, got a {network.spatial_dims}D network in {network.weights}. "
            "Use a 2D model."
        )
    image, slice_axis = to_image(stack, network.spatial_dims)
    if network.spatial_dims < n_axes:
        logger.info("Slice by slice across the axis of %d voxels.", stack.volumes.shape[slice_axis])
    output = np.moveaxis(network.predict(image, device, tta, keep_detail), -1, slice_axis)
    if keep_padding:
        for noisy, denoised in zip(stack.volumes, output):
            restore_padding(noisy, denoised)
    return output


def denoise_stack(
    stack: Stack,
    *,
    model: str | Path | None = None,
    plan: TrainingPlan | None = None,
    device: str = "auto",
    keep_padding: bool = True,
    tta: bool = False,
    keep_detail: bool = True,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Denoise volumes that share one network.

    Args:
        stack: the volumes, any real dtype.
        model: a trained bundle's folder or a file of weights; without it the network trains on ``stack``.
        plan: of that training.
        device: as in `choose_device`.
        keep_padding: as in `denoise_with`.
        tta: as in `denoise_with`.
        keep_detail: as in `denoise_with`.

    Returns:
        float32 of the shape and in the units of the volumes, and a record of the run.

    Raises:
        ValueError: for images that cannot be denoised, or a model that does not fit.
        FileNotFoundError: for a missing model.
    """
    check_stack(stack.volumes, stack.name)
    device = choose_device(device)
    record: dict[str, Any] = {"device": device}
    with contextlib.ExitStack() as work:
        if model is not None:
            network = resolve_model(model)
            network.averages(tta)  # refuses before any work
            record["model"] = str(model)
        else:
            folder = Path(work.enter_context(tempfile.TemporaryDirectory(prefix="monai_n2v_")))
            network, trained = train_network([stack], folder, replace(plan or TrainingPlan(), device=device))
            record |= trained
        started = time.perf_counter()
        output = denoise_with(network, stack, device, keep_padding, tta, keep_detail)
    record |= {"spatial_dims": network.spatial_dims, "tta": network.averages(tta)}
    record |= {"keep_detail": keep_detail and network.keep_detail}
    record |= {"prediction_seconds": round(time.perf_counter() - started, 1)}
    return output, record


def denoise(
    x: Any,
    *,
    model: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    epochs: int | None = None,
    max_time: float | None = None,
    fast: bool = False,
    spatial_dims: int | None = None,
    output: str | Path | None = None,
    series: str | None = None,
    tta: bool = False,
    keep_detail: bool = True,
) -> Any:
    """Denoise an image by Noise2Void; without a model the network trains on the image itself.

    Args:
        x: path of an image file or a folder with a DICOM series, nibabel image, ndarray, tensor or MetaTensor. Arrays
            have 2 or 3 spatial axes; with 4 axes, the volumes lie along the last axis of an ndarray, as in NIfTI, and
            along the first of a tensor, as MONAI's channels. Axes of a single voxel are passed over.
        model: a trained bundle's folder or a file of weights.
        seed: source of all randomness; same seed, same result on the same machine.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        epochs: length of the training.
        max_time: length of the training in seconds instead, at least two epochs.
        fast: a short training with a small network.
        spatial_dims: 2 to denoise volumes slice by slice, across their shortest axis; by default 3 for volumes of at
            least 8 voxels along every axis.
        output: for a path, where the result is written; beside ``x`` under ``<name>_denoised`` by default.
        series: for a folder with several DICOM series, the Series Instance UID or number to denoise.
        tta: whether to average predictions over flips and turns of the image: a little better, 8 or 16 times the
            prediction's time.
        keep_detail: whether to take fine detail that no neighborhood predicts back from the measured values; without,
            the network's own prediction.

    Returns:
        the denoised image of the same kind, shape and units as ``x``, float32; for a path, the path of the result.

    Raises:
        ValueError: for images that cannot be denoised.
        FileNotFoundError: for a missing file or model.
        FileExistsError: where ``output`` exists.

    Example:
        >>> import numpy as np, monai_n2v
        >>> noisy = np.random.default_rng(0).normal(100, 10, (64, 64)).astype("float32")
        >>> clean = monai_n2v.denoise(noisy, max_time=60)  # doctest: +SKIP
    """
    if model is not None and (epochs is not None or max_time is not None or fast or spatial_dims is not None):
        raise ValueError(
            "model must stand alone, got settings of a training too. Drop fast, epochs, max_time and spatial_dims."
        )
    for name, value in (("tta", tta), ("keep_detail", keep_detail)):
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be True or False, got {value!r}. Mind the capital letter.")
    plan = TrainingPlan(epochs, max_time, fast, spatial_dims, seed)

    def run(volumes: np.ndarray, spacing: Sequence[float], name: str = "") -> np.ndarray:
        stack = Stack(volumes, tuple(spacing), name)
        return denoise_stack(stack, model=model, plan=plan, device=device, tta=tta, keep_detail=keep_detail)[0]

    if isinstance(x, (str, Path)):
        source = Path(x)
        target = default_target(source) if output is None else Path(output)
        if target.exists():
            raise FileExistsError(f"output must not exist yet, got {target}. Remove it or choose another name.")
        if source.exists():
            check_target(target, source)
        volume = read_volume(source, series)
        save_volume(run(volume.data, volume.spacing, str(source)), volume, target)
        return target
    if hasattr(x, "dataobj"):
        if "sform_code" not in x.header:
            raise TypeError(f"x must be a NIfTI image where it is nibabel's, got {type(x).__name__}. Convert it first.")
        volume = to_volume(x)
        return NiftiSource(x).to_image(run(volume.data, volume.spacing))
    if isinstance(x, torch.Tensor):
        spacing = x.pixdim.tolist() if isinstance(x, MetaTensor) else None
        values = _denoise_array(
            x.detach().cpu().to(torch.float32 if x.dtype == torch.bfloat16 else x.dtype).numpy(), True, spacing, run
        )
        result = torch.from_numpy(values).to(x.device)
        return MetaTensor(result, meta=x.meta) if isinstance(x, MetaTensor) else result
    if isinstance(x, np.ndarray):
        return _denoise_array(x, False, None, run)
    raise TypeError(
        f"x must be a path, nibabel image, ndarray, tensor or MetaTensor, got {type(x).__name__}. Convert it first."
    )


def _denoise_array(
    values: np.ndarray,
    channel_first: bool,
    spacing: Sequence[float] | None,
    run: Callable[[np.ndarray, Sequence[float]], np.ndarray],
) -> np.ndarray:
    """Denoise an array: its volumes to the front, axes of a single voxel away, and back."""
    if values.ndim not in (2, 3, 4) or values.size == 0:
        raise ValueError(f"x must have voxels and 2 to 4 axes, got shape {values.shape}. Pass an image or a volume.")
    if channel_first and (values.ndim == 4 or values.shape[0] == 1):
        stack = values
    else:
        stack = np.moveaxis(values, -1, 0) if values.ndim == 4 else values[None]
    keep = [axis for axis in range(1, stack.ndim) if stack.shape[axis] > 1]
    if len(keep) < 2:
        raise ValueError(f"x must have 2 or 3 spatial axes, got shape {values.shape}. Pass an image or a volume.")
    sides = [*(spacing or []), 1.0, 1.0, 1.0]
    squeezed = stack.reshape(stack.shape[0], *(stack.shape[axis] for axis in keep))
    output = run(squeezed, [sides[axis - 1] for axis in keep]).reshape(stack.shape)
    return np.moveaxis(output, 0, -1) if values.ndim == 4 and not channel_first else output.reshape(values.shape)
