# SPDX-License-Identifier: Apache-2.0
"""The noise of an image by what a network removes from it, and which of several results is the best, by SURE."""

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from monai_n2v.noise.model import NoiseModel, NoNoiseError, pooled
from monai_n2v.transforms.drawn_noise import draw_noise
from monai_n2v.transforms.noise_parts import evenly, measure_part, padding_of, parts_of

_N_IMAGES = 8  # that a noise model is read from: more make it no better
_STEP = 0.1  # of the derivative in SURE, in standard deviations of the noise

Predict = Callable[[torch.Tensor], torch.Tensor]
# Makes results of a noisy image and its prediction.
Finish = Callable[[torch.Tensor, torch.Tensor], Sequence[torch.Tensor]]


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
        predict: see `predict_with`.
        key: of the images.

    Returns:
        the model, in units of the standardized images; of several images and channels a common one.

    Raises:
        NoNoiseError: where none of the images holds noise to measure.
    """
    models: list[NoiseModel] = []
    missing: NoNoiseError | None = None
    for number in evenly(len(images), _N_IMAGES):
        image = images[number][key]
        for part in parts_of(image):
            try:
                models.append(measure_part(part, predict(part.noisy[None])[0]))
            except NoNoiseError as error:
                missing = error
    if missing is not None and not models:
        raise missing
    return pooled(models)


def sure(
    part: torch.Tensor,
    predict: Predict,
    noise: NoiseModel,
    level: torch.Tensor | None = None,
    finish: Finish = lambda _, denoised: [denoised],
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
        finish: what is done to the prediction; it may have several results.
        seed: of the drawn noise.
        padding: where the part was padded, bool of its shape; by default the constant areas of it.

    Returns:
        mean squared errors ``(n_results,)`` in units of the standardized image; they may be negative by chance.

    References:
        .. [1] Ramani, Blu, Unser, "Monte-Carlo SURE: A Black-Box Optimization of Regularization Parameters for General
           Denoising Algorithms", IEEE TIP 2008.
    """
    noisy = part[None]
    padding = padding_of(part) if padding is None else padding
    counted = torch.from_numpy(~padding).to(noisy.device)[None]

    def results(image: torch.Tensor) -> list[torch.Tensor]:
        return [found + (image - found)[counted].mean() for found in finish(image, predict(image))]

    found = results(noisy)
    if not counted.any():
        return np.zeros(len(found))
    drawn = draw_noise(noise, found[0] if level is None else level[None], np.random.RandomState(seed))

    def risk(clean: torch.Tensor, of_noisier: torch.Tensor) -> float:
        change = of_noisier - clean
        return float(((clean - noisy) ** 2 - drawn**2 + 2 * drawn * change / _STEP)[counted].mean())

    return np.array([risk(*both) for both in zip(found, results(noisy + _STEP * drawn), strict=True)])
