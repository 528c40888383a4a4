# SPDX-License-Identifier: Apache-2.0
"""One noisy image in, a denoised one out: the public `denoise`, and the same for a stack of volumes in memory."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor

from monai_n2v.bundles import as_image, bundle_name, find_bundle, predict, train
from monai_n2v.models import resolve_model
from monai_n2v.volumes import check_target, read_nifti, save_nifti, stem_of, to_nifti, to_volume

__all__ = ["check_stack", "choose_device", "denoise", "denoise_stack"]

logger = logging.getLogger(__name__)

# Below this many voxels an axis holds too little context for a 3D network: such volumes are denoised slice by slice.
_MIN_DEPTH = 8


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
    if max(volumes.shape[1:]) < _MIN_DEPTH:
        raise ValueError(
            f"image must have at least {_MIN_DEPTH} voxels along some axis, got {volumes.shape[1:]}{where}. "
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


def denoise_stack(
    volumes: np.ndarray,
    spacing: Sequence[float] | None = None,
    *,
    model: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    spatial_dims: int | None = None,
    epochs: int | None = None,
    max_time: float | None = None,
    fast: bool = False,
    progress: bool = False,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Denoise volumes that share one network.

    Args:
        volumes: ``(n_volumes, *spatial)`` with 2 or 3 spatial axes, any real dtype.
        spacing: voxel sides in mm, one per spatial axis; equal sides allow rotated training patches.
        model: a trained bundle's folder or a file of weights; without it the network trains on ``volumes``.
        seed: source of all randomness; same seed, same result on the same machine.
        device: as in `choose_device`.
        spatial_dims: 2 to denoise volumes slice by slice, across their shortest axis; 3 for volumes; by default 3 for
            volumes of at least 8 voxels along every axis.
        epochs: length of the training.
        max_time: length of the training in seconds instead, at least two epochs.
        fast: a short training with a small network.
        progress: whether to show a bar on standard error.

    Returns:
        float32 of the shape and in the units of ``volumes``, and a record of the run.

    Raises:
        ValueError: for images that cannot be denoised, or a model that does not fit.
        FileNotFoundError: for a missing model.
    """
    check_stack(volumes)
    _check_question(model, spatial_dims, epochs, max_time, fast)
    n_axes = volumes.ndim - 1
    device = choose_device(device)
    if spatial_dims is None:
        spatial_dims = 3 if n_axes == 3 and min(volumes.shape[1:]) >= _MIN_DEPTH else 2
    if spatial_dims > n_axes:
        raise ValueError(f"spatial_dims must be at most the image's {n_axes} axes, got {spatial_dims}. Use 2.")
    if model is not None:
        bundle, weights, spatial_dims = resolve_model(model, n_axes)
    record: dict[str, Any] = {"seed": seed, "device": device, "spatial_dims": spatial_dims}
    settings = {"device": f"$torch.device('{device}')"}
    # The bundles cut slices along the last axis: bring the shortest there (of equals the last).
    slice_axis = n_axes if spatial_dims == n_axes else n_axes - int(np.argmin(volumes.shape[:0:-1]))
    if spatial_dims < n_axes:
        logger.info("Slice by slice across the axis of %d voxels.", volumes.shape[slice_axis])
    sides = list(spacing or [1.0] * n_axes)
    sides.append(sides.pop(slice_axis - 1))
    image = as_image(np.ascontiguousarray(np.moveaxis(volumes, slice_axis, -1), dtype=np.float32), sides)
    with contextlib.ExitStack() as stack:
        if model is not None:
            record["model"] = str(model)
            overlays: list[str] = []
        else:
            bundle = find_bundle(bundle_name(spatial_dims))
            work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="monai_n2v_")))
            weights = work / "models" / "model.pt"
            overlays = [f"self_{spatial_dims}d.json", *(["fast.json"] if fast else [])]
            budget: dict[str, Any] = {"seed": seed, "max_time": max_time, "progress": progress}
            if epochs is not None:
                budget["epochs"] = epochs
            started = time.perf_counter()
            record |= train(
                bundle, [image], work, [*overlays, "anneal.json", "in_memory_train.json"], **settings, **budget
            )
            record["training_seconds"] = round(time.perf_counter() - started, 1)
        started = time.perf_counter()
        try:
            output = predict(bundle, image, weights, [*overlays, "in_memory_inference.json"], **settings)
        except RuntimeError as error:
            if "loading state_dict" not in str(error.__cause__ or error):
                raise
            raise ValueError(
                f"model must hold weights of the network its bundle configures, got others for {weights}. "
                "Set features in the bundle's inference.json as in training."
            ) from error
        record["prediction_seconds"] = round(time.perf_counter() - started, 1)
    if not np.isfinite(output).all():
        raise ValueError(
            "prediction must be finite, got NaN or infinite voxels: the training diverged. Try another seed."
        )
    return np.moveaxis(output, -1, slice_axis), record


def _check_question(
    model: str | Path | None, spatial_dims: int | None, epochs: int | None, max_time: float | None, fast: bool
) -> None:
    if model is not None and (spatial_dims is not None or epochs is not None or max_time is not None or fast):
        raise ValueError(
            "model must stand alone, got settings of a training too. Drop fast, epochs, max_time and spatial_dims."
        )
    if epochs is not None and max_time is not None:
        raise ValueError(f"epochs must stand alone, got max_time {max_time:g} too. Drop one of them.")
    if epochs is not None and epochs < 1:
        raise ValueError(f"epochs must be at least 1, got {epochs}. Use for example 100.")
    if spatial_dims not in (None, 2, 3):
        raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}. Use 3 for volumes.")


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
) -> Any:
    """Denoise an image by Noise2Void; without a model the network trains on the image itself.

    Args:
        x: path of a NIfTI file, nibabel image, ndarray, tensor or MetaTensor. Arrays have 2 or 3 spatial axes; with 4
            axes, the volumes lie along the last axis of an ndarray, as in NIfTI, and along the first of a tensor, as
            MONAI's channels. Axes of a single voxel are passed over.
        model: a trained bundle's folder or a file of weights.
        seed: source of all randomness; same seed, same result on the same machine.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        epochs: length of the training.
        max_time: length of the training in seconds instead, at least two epochs.
        fast: a short training with a small network.
        spatial_dims: 2 to denoise volumes slice by slice, across their shortest axis; by default 3 for volumes of at
            least 8 voxels along every axis.
        output: for a path, where the result is written; ``<name>_denoised.nii.gz`` beside ``x`` by default.

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
    options: dict[str, Any] = {
        "model": model,
        "seed": seed,
        "device": device,
        "epochs": epochs,
        "max_time": max_time,
        "fast": fast,
        "spatial_dims": spatial_dims,
    }
    if isinstance(x, (str, Path)):
        target = Path(output) if output is not None else Path(x).with_name(f"{stem_of(Path(x))}_denoised.nii.gz")
        if target.exists():
            raise FileExistsError(f"output must not exist yet, got {target}. Remove it or choose another name.")
        check_target(target)
        volume = read_nifti(x)
        save_nifti(to_nifti(denoise_stack(volume.data, volume.spacing, **options)[0], volume.source), target)
        return target
    if hasattr(x, "dataobj"):
        volume = to_volume(x)
        return to_nifti(denoise_stack(volume.data, volume.spacing, **options)[0], volume.source)
    if isinstance(x, torch.Tensor):
        spacing = x.pixdim.tolist() if isinstance(x, MetaTensor) else None
        values = _denoise_array(x.detach().cpu().numpy(), True, spacing, options)
        result = torch.from_numpy(values).to(x.device)
        return MetaTensor(result, meta=x.meta) if isinstance(x, MetaTensor) else result
    if isinstance(x, np.ndarray):
        return _denoise_array(x, False, None, options)
    raise TypeError(
        f"x must be a path, nibabel image, ndarray, tensor or MetaTensor, got {type(x).__name__}. Convert it first."
    )


def _denoise_array(
    values: np.ndarray, channel_first: bool, spacing: Sequence[float] | None, options: dict[str, Any]
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
    output = denoise_stack(squeezed, [sides[axis - 1] for axis in keep], **options)[0].reshape(stack.shape)
    return np.moveaxis(output, 0, -1) if values.ndim == 4 and not channel_first else output.reshape(values.shape)
