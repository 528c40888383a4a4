# SPDX-License-Identifier: Apache-2.0
"""One noisy image in, a denoised one out: the public `denoise`, and the same for an image that was loaded."""

import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor

from monai_n2v.apps.inspect import NoisyImage, check_image, choose_device
from monai_n2v.apps.train import train_network
from monai_n2v.bundle.options import PredictionOptions, TrainingOptions
from monai_n2v.bundle.resources import nearest
from monai_n2v.bundle.run import Denoiser
from monai_n2v.bundle.trained import TrainedNetwork, resolve_model
from monai_n2v.io.atomic import scratch
from monai_n2v.io.images import check_target, default_target, read_volume
from monai_n2v.io.nifti import NiftiSource, to_volume
from monai_n2v.io.volume import Volume, rounding_of, where
from monai_n2v.noise.magnitude import check_not_negative
from monai_n2v.noise.noise_map import NoiseMap
from monai_n2v.transforms.axes import slice_axis
from monai_n2v.transforms.files import as_meta_tensor

logger = logging.getLogger(__name__)

_OF_TRAINING = ("epochs", "max_time", "scheme", "prior", "spatial_dims")
_OF_PREDICTION = ("tta", "keep_padding", "magnitude", "coils", "dtype", "noise_map", "wiener", "volumes")
# Kinds of ndarray that do not behave like one.
_NOT_PLAIN = {
    np.ma.MaskedArray: "Fill what is masked, such as by x.filled(0): a constant around the image is taken for padding.",
    np.matrix: "Pass numpy.asarray(x).",
}
# What the command line calls these.
_OF_COMMAND = {"fast": 'scheme="prior"', "from_scratch": "prior=False"}


def check_axes(network: TrainedNetwork, image: NoisyImage) -> None:
    """Refuse an image of fewer axes than a network has.

    Args:
        network: the network.
        image: to denoise.

    Raises:
        ValueError: for a 3D network and a 2D image.
    """
    n_axes = len(image.shape) - 1
    if network.spatial_dims > n_axes:
        raise ValueError(
            f"model must fit an image of {n_axes} axes, got a {network.spatial_dims}D network in {network.weights}"
            f"{where(image.name)}. Use a 2D model."
        )


def say_slice_axis(network: TrainedNetwork, image: NoisyImage) -> None:
    """Say along which axis a 2D network is led through a volume."""
    shape = image.shape[1:]
    if network.spatial_dims < len(shape):
        logger.info("Slice by slice across the axis of %d voxels.", shape[slice_axis(shape, network.spatial_dims)])


def denoise_image(
    image: Volume | MetaTensor,
    *,
    model: str | Path | None = None,
    training: TrainingOptions | None = None,
    prediction: PredictionOptions | None = None,
    target: Path | None = None,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Denoise a loaded image.

    Args:
        image: as read, or a tensor ``(n_volumes, *spatial)``.
        model: a trained bundle's folder or a file of weights; without it a network trains on ``image``.
        training: options of that training.
        prediction: options of the prediction; its device and noise map are used for both.
        target: where the result of an image that came from a file is written, too.

    Returns:
        float32 ``(n_volumes, *spatial)`` in the units of the image, and a record of the run.

    Raises:
        ValueError: for images that cannot be denoised, or a model that does not fit.
        FileNotFoundError: for a missing model.
    """
    prediction = prediction or PredictionOptions()
    noisy = NoisyImage.of(image, prediction.noise_map)
    prediction = replace(prediction, device=choose_device(prediction.device))
    check_not_negative(image.data if isinstance(image, Volume) else image.numpy(), prediction.magnitude, noisy.name)
    record: dict[str, Any] = {"device": prediction.device}
    with contextlib.ExitStack() as work:
        if model is not None:
            network = resolve_model(model)
            record["model"] = str(model)
        else:
            folder = work.enter_context(scratch())
            training = replace(
                training or TrainingOptions(),
                device=prediction.device,
                noise_map=prediction.noise_map,
                volumes=prediction.volumes or "auto",
            )
            network, trained = train_network([noisy], folder, training)
            record |= trained
        check_axes(network, noisy)
        say_slice_axis(network, noisy)
        started = time.perf_counter()
        denoiser = Denoiser(network, prediction)
        output = denoiser(image, target)
    record |= {"spatial_dims": network.spatial_dims, **denoiser.options}
    record |= {"prediction_seconds": round(time.perf_counter() - started, 1)}
    return output, record


def denoise(
    x: Any,
    *,
    model: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    output: str | Path | None = None,
    series: str | None = None,
    **options: Any,
) -> Any:
    """Denoise an image by Noise2Void; without a model the network trains on the image itself.

    Args:
        x: path of an image file or a folder with a DICOM series, nibabel image, ndarray, tensor or MetaTensor. Arrays
            have 2 or 3 spatial axes; with 4 axes, the volumes lie along the last axis of an ndarray, as in NIfTI, and
            along the first of a tensor, as MONAI's channels. Axes of a single voxel are skipped. Complex voxels are
            denoised by their real and imaginary parts, and come back complex.
        model: a trained bundle's folder or a file of weights.
        seed: source of all randomness; same seed, same result on the same machine.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        output: for a path, where the result is written; beside ``x`` under ``<name>_denoised`` by default.
        series: for a folder with several DICOM series, the Series Instance UID or number to denoise.
        options: of the training, which cannot be combined with ``model``: ``epochs``, or ``max_time`` in seconds, is
            its length; ``scheme`` is ``"auto"``, ``"n2v"``, ``"recorrupted"``, ``"renoised"``, or ``"prior"``, which
            does not train at all and takes seconds; ``prior=False`` trains from random weights; ``spatial_dims`` is
            3, or 2 to denoise volumes slice by slice, across their shortest axis (chosen by the image where it is
            left out). Of the prediction, where None stands for the model's own default: ``tta`` averages over flips
            and turns of the image; ``volumes`` is ``"together"`` or ``"apart"``, how the volumes of a series are
            denoised, or ``"auto"``; ``keep_padding`` leaves constant padding exactly as it is; ``magnitude`` is
            ``"auto"``, ``"rician"`` or ``"off"``, whether the bias of a magnitude image is taken off, and ``coils`` how
            many coils it was combined of; ``noise_map`` tells how the noise varies over the image, a path or an array
            ``(*spatial)`` of any unit; ``wiener`` is the weight of the Wiener filter, 0 for the network alone;
            ``dtype="input"`` writes a file in its own type.

    Returns:
        the denoised image of the same kind, shape and units as ``x``, float32 or complex64, of twice that precision
        where an array's noise is too small for it beside the values; for a path, the path of the result.

    Raises:
        ValueError: for images that cannot be denoised.
        TypeError: for an unknown option, or another kind of ``x``, such as a masked array or one of objects.
        FileNotFoundError: for a missing file or model.
        FileExistsError: where ``output`` exists.

    Example:
        >>> import numpy as np, monai_n2v
        >>> noisy = np.random.default_rng(0).normal(100, 10, (64, 64)).astype("float32")
        >>> clean = monai_n2v.denoise(noisy, max_time=60)  # doctest: +SKIP
    """
    training, prediction = _split_options(options, model is not None, seed, device)
    if not isinstance(x, (str, Path)) and (output is not None or series is not None):
        name = "output" if output is not None else "series"
        raise ValueError(f"{name} must come with a path, got x of type {type(x).__name__}. Leave it out.")

    def run(image: Volume | MetaTensor, target: Path | None = None) -> np.ndarray:
        for note in image.notes if isinstance(image, Volume) else ():
            logger.warning("%s", note)
        return denoise_image(image, model=model, training=training, prediction=prediction, target=target)[0]

    if isinstance(x, (str, Path)):
        source = Path(x)
        target = default_target(source) if output is None else Path(output)
        if target.exists():
            raise FileExistsError(f"output must not exist yet, got {target}. Remove it or choose another name.")
        if source.exists():
            check_target(target, source)
        run(read_volume(source, None if series is None else str(series)), target)
        return target
    if hasattr(x, "dataobj"):
        if "sform_code" not in x.header:
            raise TypeError(f"x must be a NIfTI image where it is nibabel's, got {type(x).__name__}. Convert it first.")
        return NiftiSource(x).to_image(run(to_volume(x)))
    if isinstance(x, torch.Tensor):
        dtype = torch.float32 if x.dtype == torch.bfloat16 else x.dtype
        values = x.detach().cpu().to(dtype).resolve_conj().resolve_neg().numpy()
        spacing = x.pixdim.tolist() if isinstance(x, MetaTensor) else []
        channel_first = values.ndim == 4 or values.shape[:1] == (1,)
        result = torch.from_numpy(_denoise_array(values, 0 if channel_first else None, spacing, run)).to(x.device)
        return MetaTensor(result, meta=x.meta) if isinstance(x, MetaTensor) else result
    if isinstance(x, np.ndarray):
        return _denoise_array(x, -1 if x.ndim == 4 else None, [], run)
    raise TypeError(
        f"x must be a path, nibabel image, ndarray, tensor or MetaTensor, got {type(x).__name__}. Convert it first."
    )


def _split_options(
    options: Mapping[str, Any], has_model: bool, seed: int, device: str
) -> tuple[TrainingOptions, PredictionOptions]:
    """Sort the options of `denoise` into those of the training and those of the prediction."""
    known = (*_OF_TRAINING, *_OF_PREDICTION)
    unknown = next((name for name in options if name not in known), None)
    if unknown is not None:
        here = _OF_COMMAND.get(unknown) or nearest(unknown, known)
        step = f"Did you mean {here}?" if here else "Check the spelling."
        raise TypeError(f"options must be of {', '.join(known)}, got {unknown}. {step}")
    training = {name: options[name] for name in _OF_TRAINING if options.get(name) not in (None, False)}
    if options.get("prior") is False:
        training["prior"] = False
    if has_model and training:
        raise ValueError(
            f"model must come without options of a training, got {', '.join(training)}. Drop one of the two."
        )
    # A length of 0 is refused there.
    training |= {name: options[name] for name in ("epochs", "max_time") if options.get(name) is not None}
    prediction = {name: options[name] for name in _OF_PREDICTION if name in options}
    if prediction.get("noise_map") is not None:
        prediction["noise_map"] = NoiseMap.of(prediction["noise_map"])
    return TrainingOptions(seed=seed, **training), PredictionOptions(device=device, **prediction)


def _denoise_array(
    values: np.ndarray, volume_axis: int | None, spacing: Sequence[float], run: Callable[[MetaTensor], np.ndarray]
) -> np.ndarray:
    """Denoise an array: its volumes to the front, axes of a single voxel away, and back; complex ones by both parts."""
    for kind, step in _NOT_PLAIN.items():
        if isinstance(values, kind):
            raise TypeError(f"x must be a plain ndarray where it is numpy's, got {kind.__name__}. {step}")
    if values.dtype.kind not in "biufc":
        raise TypeError(f"x must hold numbers, got an array of {values.dtype}. Convert it, such as by x.astype(float).")
    if values.ndim not in (2, 3, 4) or values.size == 0:
        raise ValueError(f"x must have voxels and 2 to 4 axes, got shape {values.shape}. Pass an image or a volume.")
    stack = values[None] if volume_axis is None else np.moveaxis(values, volume_axis, 0)
    keep = [axis for axis in range(1, stack.ndim) if stack.shape[axis] > 1]
    if len(keep) < 2:
        raise ValueError(f"x must have 2 or 3 spatial axes, got shape {values.shape}. Pass an image or a volume.")
    squeezed = stack.reshape(stack.shape[0], *(stack.shape[axis] for axis in keep))
    is_complex = np.iscomplexobj(squeezed)
    if is_complex:
        squeezed = np.concatenate([squeezed.real, squeezed.imag])
    check_image(squeezed)
    sides = [*spacing, 1.0, 1.0, 1.0]
    # Differences that float32 does not hold beside an offset are denoised without it. It is one of float32 itself, so
    # that taking it off and adding it again leaves padding exactly as it is.
    offset = np.float64(np.float32(squeezed.mean(dtype=np.float64))) if rounding_of(squeezed) else None
    # A copy where it is the caller's own memory: nothing may write there.
    image = as_meta_tensor(
        np.array(squeezed if offset is None else squeezed - offset, dtype=np.float32, order="C"),
        [sides[axis - 1] for axis in keep],
        is_complex=is_complex,
    )
    output = run(image)
    output = output if offset is None else output + offset
    if is_complex:
        real, imaginary = np.split(output, 2)
        output = (real + 1j * imaginary).astype(np.complex64 if offset is None else np.complex128)
    output = output.reshape(stack.shape)
    return output[0] if volume_axis is None else np.moveaxis(output, 0, volume_axis)
