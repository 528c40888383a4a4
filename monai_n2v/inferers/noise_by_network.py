# SPDX-License-Identifier: Apache-2.0
"""The noise of an image by what a network removes from it, and which of several results is the best, by SURE."""

import copy
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from scipy import ndimage

from monai_n2v.noise.model import NoiseModel, NoNoiseError, fit_noise_model, pooled
from monai_n2v.noise.processing import constant_areas
from monai_n2v.transforms.drawn_noise import draw_noise
from monai_n2v.transforms.padding import padding_in
from monai_n2v.transforms.series import NEAREST, noise_scales

# Images that a noise model is read from, channels of each, and voxels of these: more make it no better.
_N_IMAGES, _N_CHANNELS, _MAX_VOXELS = 8, 4, 2**20
_COARSE = 2**20  # voxels in which content is looked for
_STEP = 0.1  # of the derivative in SURE, in standard deviations of the noise

Predict = Callable[[torch.Tensor], torch.Tensor]
# Makes a result of a noisy image and its prediction.
Finish = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def predict_with(network: torch.nn.Module, inferer: Callable[..., torch.Tensor]) -> Predict:
    """A function that denoises ``(B, C, *spatial)`` by a network in evaluation mode, without gradients.

    Args:
        network: to predict with; it is left as it was.
        inferer: as MONAI's engines call it.
    """
    return functools.partial(_predict, network, inferer)


def _predict(network: torch.nn.Module, inferer: Callable[..., torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            return inferer(images, network)
    finally:
        network.train(training)


class DenoisedLabeld(MapTransform):
    """Put a network's result beside an image: the target to re-noise, or the intensities that noise depends on.

    The network is copied as it is now, so that a training that starts from it does not change it.

    Args:
        keys: standardized images ``(C, *spatial)``.
        network: to denoise with.
        inferer: as MONAI's engines call it.
        label_key: where the result goes.
    """

    def __init__(
        self,
        keys: KeysCollection,
        network: torch.nn.Module,
        inferer: Callable[..., torch.Tensor],
        label_key: str = "label",
    ) -> None:
        super().__init__(keys)
        self.predict = predict_with(copy.deepcopy(network), inferer)
        self.label_key = label_key

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Denoise ``data[key]``; returns a new dictionary."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[self.label_key] = self.predict(d[key][None])[0].to(d[key].device)
        return d


def measure_by_network(images: Sequence[Mapping[str, Any]], predict: Predict, key: str = "image") -> NoiseModel:
    """Measure the noise of images by what a network removes from them.

    Args:
        images: a dataset of standardized images ``(C, *spatial)``.
        predict: see `predict_with`; of a volume from itself and its context, where there is some.
        key: of the images.

    Returns:
        the model, in units of the standardized images; of several images and channels a common one. Of volumes with
        context it is divided by their `noise_scales`.

    Raises:
        NoNoiseError: where none of the images holds noise to measure.
    """
    models: list[NoiseModel] = []
    missing: NoNoiseError | None = None
    for number in evenly(len(images), _N_IMAGES):
        image = images[number][key]
        for part, scales in zip(parts_of(image), scales_of_parts(image)):
            try:
                model = measure_part(part, predict(part.volumes[None])[0], scales)
            except NoNoiseError as error:
                missing = error
                continue
            models.append(replace(model, sigmas=model.sigmas / scales[0]))
    if missing is not None and not models:
        raise missing
    return pooled(models)


class NoisyPart(NamedTuple):
    """A part of one channel of an image.

    Attributes:
        volumes: ``(1 + context, *spatial)``, standardized; a channel and its context.
        padding: where the channel was padded, and the two voxels around it; bool ``(1, *spatial)``.
    """

    volumes: torch.Tensor
    padding: np.ndarray


def measure_part(part: NoisyPart, denoised: torch.Tensor, scales: Sequence[float] = (1.0,)) -> NoiseModel:
    """Measure the noise of a channel by its denoised version.

    With context it is measured by the difference to the nearest volume, in which structure is gone.

    Args:
        part: as of `parts_of`.
        denoised: the channel, ``(1, *spatial)``.
        scales: of channel and context, see `noise_scales`.

    Raises:
        NoNoiseError: where there is none to measure.
    """
    before, after = (one.cpu().float().numpy() for one in (part.volumes, denoised))
    if len(before) == 1:
        return fit_noise_model(before, after, part.padding)
    noise = (before[:1] - before[1:2]) / np.float32(math.hypot(1.0, scales[1] / scales[0]))
    return fit_noise_model(before[:1], after, part.padding, noise)


def _padding_of(channel: torch.Tensor, filled: np.ndarray | None = None) -> np.ndarray:
    """Constant areas of a channel ``(1, *spatial)``, what was filled, and two voxels around; bool of the same shape."""
    voxels = channel.cpu().float().numpy()
    padded = constant_areas(voxels, float(voxels.min()))
    padded = padded if filled is None else padded | filled
    return ndimage.maximum_filter(padded, (1, *(5,) * (voxels.ndim - 1)))


def parts_of(image: torch.Tensor, max_voxels: int = _MAX_VOXELS) -> list[NoisyPart]:
    """Parts of an image that are enough to measure its noise: of a few channels, where there is most content.

    Args:
        image: ``(C, *spatial)``.
        max_voxels: of a channel, roughly.

    Returns:
        copies, plain tensors; the context is as `NearestVolumesd` found it.
    """
    whole = image.as_tensor() if isinstance(image, MetaTensor) else image
    meta = image.meta if isinstance(image, MetaTensor) else {}
    parts = []
    for channel in evenly(len(whole), _N_CHANNELS):
        others = [int(other) for other in meta[NEAREST][channel]] if NEAREST in meta else []
        filled = padding_in(meta, channel, whole.shape[1:])[None]
        place = _fullest(whole[channel : channel + 1], filled, max_voxels)
        volumes = torch.stack([whole[number][place] for number in (channel, *others)])
        parts.append(NoisyPart(volumes, _padding_of(volumes[:1], filled[(slice(None), *place)])))
    return parts


def evenly(n: int, n_chosen: int) -> list[int]:
    """A few of the numbers below ``n``, evenly spaced, the first and the last among them."""
    return sorted({round(k) for k in np.linspace(0, n - 1, min(n, n_chosen))})


def scales_of_parts(image: torch.Tensor) -> list[list[float]]:
    """The `noise_scales` of the parts of `parts_of`, channel and context; 1 for an image without context."""
    channels = evenly(len(image), _N_CHANNELS)
    if not isinstance(image, MetaTensor) or NEAREST not in image.meta:
        return [[1.0] for _ in channels]
    scales, nearest = noise_scales(image), image.meta[NEAREST]
    return [[float(scales[number]) for number in (channel, *nearest[channel])] for channel in channels]


def _fullest(channel: torch.Tensor, filled: np.ndarray, max_voxels: int) -> tuple[slice, ...]:
    """Where a channel has the least padding along every axis; of equals the place nearest to the middle."""
    n_axes = channel.ndim - 1
    stride = max(1, math.ceil((channel.numel() / _COARSE) ** (1 / n_axes)))
    every = (slice(None), *(slice(None, None, stride),) * n_axes)
    coarse = channel[every].cpu().float().numpy()
    content = ~(constant_areas(coarse, float(coarse.min())) | filled[every])[0]
    place, n_voxels = [], channel.numel()
    for axis, side in enumerate(channel.shape[1:]):
        share = (max_voxels / n_voxels) ** (1 / (n_axes - axis))
        kept = min(side, max(32, int(side * min(1.0, share)) // 16 * 16))
        counts = content.sum(axis=tuple(other for other in range(n_axes) if other != axis))
        window = max(1, min(len(counts), kept // stride))
        sums = np.convolve(counts, np.ones(window, dtype=int), mode="valid")
        middle = (len(counts) - window) / 2
        best = min(np.flatnonzero(sums == sums.max()), key=lambda start: abs(start - middle))
        start = (side - kept) // 2 if sums.min() == sums.max() else min(int(best) * stride, side - kept)
        place.append(slice(start, start + kept))
        n_voxels = n_voxels // side * kept
    return tuple(place)


def sure(
    part: torch.Tensor,
    predict: Predict,
    noise: NoiseModel,
    level: torch.Tensor | None = None,
    finishes: Sequence[Finish] = (lambda _, denoised: denoised,),
    seed: int = 0,
    padding: np.ndarray | None = None,
) -> np.ndarray:
    """Estimate the mean squared error of results against the clean image from the noisy one alone.

    Stein's unbiased risk estimate, for noise of a known covariance ([1]_, Eq. 7; its derivative by drawn noise):
    ``|f(y) - y|^2 - |n|^2 + 2 n (f(y + t n) - f(y)) / t``, as means over the voxels but padding. The result is given
    the mean of the noisy image first, as every denoised image is (`RestoreIntensity`). What is wrong about the noise is
    wrong about all results alike, but for how much of it they keep.

    Args:
        part: one channel, noisy, standardized, ``(1, *spatial)``.
        predict: see `predict_with`.
        noise: of the image.
        level: a denoised version of the part, the intensities that the noise goes with. To compare results it must be
            the same for all; each result's own where it is left out.
        finishes: what is done to the prediction, one for each result.
        seed: of the drawn noise.
        padding: where the part was padded, bool of its shape; by default the constant areas of it.

    Returns:
        mean squared errors ``(n_finishes,)`` in units of the standardized image; they may be negative by chance.

    References:
        .. [1] Ramani, Blu, Unser, "Monte-Carlo SURE: A Black-Box Optimization of Regularization Parameters for General
           Denoising Algorithms", IEEE TIP 2008.
    """
    noisy = part[None]
    padding = _padding_of(part) if padding is None else padding
    counted = torch.from_numpy(~padding).to(noisy.device)[None]
    if not counted.any():
        return np.zeros(len(finishes))
    predicted = predict(noisy)
    drawn = draw_noise(noise, predicted if level is None else level[None], np.random.RandomState(seed))
    noisier = noisy + _STEP * drawn
    predicted_noisier = predict(noisier)

    def risk(finish: Finish) -> float:
        def result(image: torch.Tensor, denoised: torch.Tensor) -> torch.Tensor:
            found = finish(image, denoised)
            return found + (image - found)[counted].mean()

        clean = result(noisy, predicted)
        change = result(noisier, predicted_noisier) - clean
        return float(((clean - noisy) ** 2 - drawn**2 + 2 * drawn * change / _STEP)[counted].mean())

    return np.array([risk(finish) for finish in finishes])
