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

from monai_n2v.noise.model import NoiseModel, fit_noise_model, pooled
from monai_n2v.transforms.drawn_noise import draw_noise

# Images that a noise model is read from, and voxels of each: more make it no better.
_N_IMAGES, _MAX_VOXELS = 8, 2**21
_STEP = 0.1  # of the derivative in SURE, in standard deviations of the noise

Predict = Callable[[torch.Tensor], torch.Tensor]


def predictor(network: torch.nn.Module, inferer: Callable[..., torch.Tensor]) -> Predict:
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
        self.predict = predictor(copy.deepcopy(network), inferer)
        self.label_key, self.device = label_key, device

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Denoise ``data[key]``; returns a new dictionary."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[self.label_key] = self.predict(d[key][None].to(self.device))[0].to(d[key].device)
        return d


def measure_by_network(
    images: Sequence[Mapping[str, Any]], predict: Predict, spatial_dims: int, key: str = "image", seed: int = 0
) -> NoiseModel:
    """Measure the noise of images by what a network removes from them.

    It is measured twice: of the image, and of the network's own result with drawn noise, whose measured strength tells
    the bias. Slices of a 2D network count as images.

    Args:
        images: a dataset of standardized images ``(C, *spatial)``.
        predict: see `predictor`.
        spatial_dims: axes of the network.
        key: of the images.
        seed: of the drawn noise.

    Returns:
        the model, in units of the standardized images; of several images a common one.

    Raises:
        ValueError: where there is no noise to measure.
    """
    chosen = np.unique(np.linspace(0, len(images) - 1, min(len(images), _N_IMAGES)).astype(int))
    rng = np.random.RandomState(seed)
    return pooled([_measure(images[int(n)][key], predict, spatial_dims, rng) for n in chosen])


def _measure(image: torch.Tensor, predict: Predict, n_axes: int, rng: np.random.RandomState) -> NoiseModel:
    image = _central(image.as_tensor() if isinstance(image, MetaTensor) else image)
    noisy = image[:, None]  # each channel on its own
    clean = predict(noisy)
    found = fit_noise_model(_stack(noisy, n_axes), _stack(clean, n_axes))
    drawn = _renoise(clean, found, n_axes, rng)
    again = fit_noise_model(_stack(drawn, n_axes), _stack(predict(drawn), n_axes), like=found)
    return found.corrected(found, again)


def _central(image: torch.Tensor) -> torch.Tensor:
    """The middle part of an image, of no more voxels than are needed."""
    sides = list(image.shape[1:])
    share = min(1.0, (_MAX_VOXELS / image[0].numel()) ** (1 / len(sides)))
    for axis, side in enumerate(sides, start=1):
        kept = min(side, max(32, int(side * share)))
        image = image.narrow(axis, (side - kept) // 2, kept)
    return image


def _stack(images: torch.Tensor, n_axes: int) -> np.ndarray:
    """``(n_images, *axes of the network)``: slices along the last axis of a volume count as images."""
    plain = images[:, 0].as_tensor() if isinstance(images, MetaTensor) else images[:, 0]
    if plain.ndim - 1 > n_axes:
        plain = plain.movedim(-1, 1).flatten(0, 1)
    return plain.cpu().float().numpy()


def _renoise(clean: torch.Tensor, noise: NoiseModel, n_axes: int, rng: np.random.RandomState) -> torch.Tensor:
    return clean + noise_like(clean, noise, n_axes, rng)


def noise_like(clean: torch.Tensor, noise: NoiseModel, n_axes: int, rng: np.random.RandomState) -> torch.Tensor:
    """Draw noise for ``(B, C, *spatial)``, slice by slice where a volume has an axis more than the network.

    Args:
        clean: the intensities that a strength depends on.
        noise: what to draw.
        n_axes: of the network.
        rng: source of all that is random.
    """
    if clean.ndim - 2 == n_axes:
        return draw_noise(noise, clean, rng)
    slices = clean.movedim(-1, 1).flatten(0, 1)
    drawn = draw_noise(noise, slices, rng)
    return drawn.unflatten(0, (clean.shape[0], clean.shape[-1])).movedim(1, -1)


def sure(image: torch.Tensor, predict: Predict, noise: NoiseModel, n_axes: int, seed: int = 0) -> float:
    """Estimate a result's mean squared error against the clean image from the noisy one alone.

    Stein's unbiased risk estimate, for noise of a known covariance ([1]_, Eq. 7; its derivative by drawn noise):
    ``|f(y) - y|^2 - |n|^2 + 2 n (f(y + t n) - f(y)) / t``, as means over the voxels. What is wrong about the noise is
    wrong about all results alike, but for how much of it they keep.

    Args:
        image: noisy, standardized ``(C, *spatial)``.
        predict: see `predictor`.
        noise: of the image.
        n_axes: axes of the network.
        seed: of the drawn noise.

    Returns:
        mean squared error in units of the standardized image; it may be negative by chance.

    References:
        .. [1] Ramani, Blu, Unser, "Monte-Carlo SURE: A Black-Box Optimization of Regularization Parameters for General
           Denoising Algorithms", IEEE TIP 2008.
    """
    image = _central(image.as_tensor() if isinstance(image, MetaTensor) else image)
    noisy = image[:, None]
    clean = predict(noisy)
    drawn = noise_like(clean, noise, n_axes, np.random.RandomState(seed))
    moved = predict(noisy + _STEP * drawn)
    terms = ((clean - noisy) ** 2).mean(), (drawn**2).mean(), (drawn * (moved - clean)).mean() / _STEP
    return float(terms[0] - terms[1] + 2 * terms[2])
