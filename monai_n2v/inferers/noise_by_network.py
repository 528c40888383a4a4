# SPDX-License-Identifier: Apache-2.0
"""The noise of an image by what a network removes from it, and which of several results is the best, by SURE."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from scipy import ndimage

from monai_n2v.noise.model import NoiseModel, fit_noise_model, pooled
from monai_n2v.noise.processing import constant_areas
from monai_n2v.transforms.drawn_noise import draw_noise

# Images that a noise model is read from, and voxels of each: more make it no better.
_N_IMAGES, _MAX_VOXELS = 8, 2**20
_STEP = 0.1  # of the derivative in SURE, in standard deviations of the noise

Predict = Callable[[torch.Tensor], torch.Tensor]


def predict_with(network: torch.nn.Module, inferer: Callable[..., torch.Tensor]) -> Predict:
    """A function that denoises ``(B, C, *spatial)`` by a network in evaluation mode, without gradients.

    Args:
        network: to predict with; it is left as it was.
        inferer: as MONAI's engines call it.
    """

    def predict(images: torch.Tensor) -> torch.Tensor:
        training = network.training
        network.eval()
        try:
            with torch.inference_mode():
                return inferer(images, network)
        finally:
            network.train(training)

    return predict


class DenoisedLabeld(MapTransform):
    """Put a network's result beside an image: the target to re-noise, or the intensities that noise depends on.

    The network is copied as it is now, so that a training that starts from it does not change it.

    Args:
        keys: standardized images ``(C, *spatial)``.
        network: to denoise with.
        inferer: as MONAI's engines call it.
        label_key: where the result goes, one for each key.
        device: of the network.
    """

    def __init__(
        self, keys: KeysCollection, network: torch.nn.Module, inferer: Callable[..., torch.Tensor],
        label_key: str = "label", device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        super().__init__(keys)
        self.predict = predict_with(copy.deepcopy(network), inferer)
        self.label_key, self.device = label_key, device

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Denoise ``data[key]``; returns a new dictionary."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[self.label_key] = self.predict(d[key][None].to(self.device))[0].to(d[key].device)
        return d


def measure_by_network(images: Sequence[Mapping[str, Any]], predict: Predict, key: str = "image") -> NoiseModel:
    """Measure the noise of images by what a network removes from them.

    Args:
        images: a dataset of standardized images ``(C, *spatial)``.
        predict: see `predict_with`.
        key: of the images.

    Returns:
        the model, in units of the standardized images; of several images a common one.

    Raises:
        ValueError: where there is no noise to measure.
    """
    chosen = np.unique(np.linspace(0, len(images) - 1, min(len(images), _N_IMAGES)).astype(int))
    models = []
    for number in chosen:
        noisy = central(images[int(number)][key])[:, None]  # each channel on its own
        before, after = (one[:, 0].cpu().float().numpy() for one in (noisy, predict(noisy)))
        models.append(fit_noise_model(before, after, _padding(before)))
    return pooled(models)


def _padding(volumes: np.ndarray) -> np.ndarray:
    """Constant padding and the two voxels around it."""
    padded = constant_areas(volumes, float(volumes.min()))
    return ndimage.maximum_filter(padded, (1, *(5,) * (volumes.ndim - 1)))


def central(image: torch.Tensor, max_voxels: int = _MAX_VOXELS) -> torch.Tensor:
    """The middle part of an image, of no more voxels than are needed to measure it.

    Args:
        image: ``(C, *spatial)``.
        max_voxels: of a channel, roughly.

    Returns:
        a plain tensor, a view.
    """
    part = image.as_tensor() if isinstance(image, MetaTensor) else image
    for axis, side in enumerate(image.shape[1:], start=1):
        share = (max_voxels / part[0].numel()) ** (1 / (image.ndim - axis))
        kept = min(side, max(32, int(side * min(1.0, share)) // 16 * 16))
        part = part.narrow(axis, (side - kept) // 2, kept)
    return part


def sure(image: torch.Tensor, predict: Predict, noise: NoiseModel, seed: int = 0) -> float:
    """Estimate a result's mean squared error against the clean image from the noisy one alone.

    Stein's unbiased risk estimate, for noise of a known covariance ([1]_, Eq. 7; its derivative by drawn noise):
    ``|f(y) - y|^2 - |n|^2 + 2 n (f(y + t n) - f(y)) / t``, as means over the voxels but padding. What is wrong
    about the noise is wrong about all results alike, but for how much of it they keep.

    Args:
        image: noisy, standardized ``(C, *spatial)``.
        predict: see `predict_with`.
        noise: of the image.
        seed: of the drawn noise.

    Returns:
        mean squared error in units of the standardized image; it may be negative by chance.

    References:
        .. [1] Ramani, Blu, Unser, "Monte-Carlo SURE: A Black-Box Optimization of Regularization Parameters for General
           Denoising Algorithms", IEEE TIP 2008.
    """
    noisy = image[:, None]
    clean = predict(noisy)
    drawn = draw_noise(noise, clean, np.random.RandomState(seed))
    moved = predict(noisy + _STEP * drawn)
    risk = (clean - noisy) ** 2 - drawn**2 + 2 * drawn * (moved - clean) / _STEP
    counted = torch.from_numpy(~_padding(noisy[:, 0].cpu().float().numpy())).to(risk.device)[:, None]
    return float(risk[counted].mean()) if counted.any() else 0.0
