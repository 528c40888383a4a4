# SPDX-License-Identifier: Apache-2.0
"""What the results of networks on an image are worth, by the noisy image alone.

They are judged by Stein's unbiased risk estimate (`sure`) on parts of the image, with the noise that the prior's
residual shows.
"""

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from monai_n2v.apps.inspect import NoisyImage
from monai_n2v.bundle.options import PredictionOptions
from monai_n2v.bundle.run import Denoiser
from monai_n2v.bundle.trained import TrainedNetwork, prior_network
from monai_n2v.inferers.noise_by_network import Predict, sure
from monai_n2v.noise.block_statistics import MIN_SIDE
from monai_n2v.noise.model import NoiseModel, NoNoiseError
from monai_n2v.noise.noise_map import NoiseMap
from monai_n2v.transforms.axes import slice_axis
from monai_n2v.transforms.components import are_components
from monai_n2v.transforms.noise_parts import evenly, measure_part, parts_of
from monai_n2v.transforms.wiener import wiener_filter

logger = logging.getLogger(__name__)

# Images that are judged by, and voxels of each channel.
_N_IMAGES, _MAX_VOXELS = 3, 2**19
# Noise below this share of the standard deviation of what is not padding is not worth a training.
_HARDLY = 0.01
# Where neighbors are that alike along every axis, what varies is structure.
_SMOOTH = 0.6
# Weights of the filtered image whose errors are estimated: a parabola goes through them.
_WEIGHTS = (0.0, 0.5, 1.0)


@dataclass(frozen=True)
class _Part:
    """A part of one channel of an image, and its noise.

    Attributes:
        noisy: ``(1, *spatial)``, standardized.
        level: the same denoised by the prior: the intensities that noise may go with.
        noise: by the difference of the two.
        axis: the spatial axis across which a 2D network would cut slices.
        padding: where it was padded, ``(1, *spatial)``.
    """

    noisy: torch.Tensor
    level: torch.Tensor
    noise: NoiseModel
    axis: int
    padding: np.ndarray

    @property
    def is_noisy(self) -> bool:
        """Whether there is noise worth a training."""
        sides = self.noisy.shape[1:]
        lags = [self.noise.lags[axis, 0] for axis, side in enumerate(sides) if side >= MIN_SIDE]
        counted = self.noisy[~torch.from_numpy(self.padding).to(self.noisy.device)]
        return min(lags) <= _SMOOTH and self.noise.sigma >= _HARDLY * float(counted.std())

    def sliced(self) -> "_Part":
        """The same with the axis across slices last, as a 2D network takes it."""
        order = [*np.delete(np.arange(self.noisy.ndim - 1), self.axis), self.axis]
        noise = replace(self.noise, lags=self.noise.lags[order])
        noisy, level = (torch.movedim(one, 1 + self.axis, -1) for one in (self.noisy, self.level))
        padding = np.moveaxis(self.padding, 1 + self.axis, -1)
        return _Part(noisy, level, noise, len(order) - 1, padding)


class Verdict(NamedTuple):
    """What a result is worth.

    Attributes:
        error: estimated mean squared error in standardized units.
        weight: of the Wiener filter in the result, by which the error is least (`WienerFilterd`).
    """

    error: float
    weight: float


class Judge:
    """Parts of images with their noise, by which networks are compared.

    Args:
        parts: what to judge by.
        spatial_dims: axes of the networks.
        device: as torch names it.
        of_components: whether the parts are of series that are denoised together.
    """

    def __init__(self, parts: Sequence[_Part], spatial_dims: int, device: str, of_components: bool = False) -> None:
        self.parts, self.spatial_dims, self.device, self.of_components = parts, spatial_dims, device, of_components

    @classmethod
    def of(
        cls,
        images: Sequence[NoisyImage],
        spatial_dims: int,
        device: str,
        noise_map: NoiseMap | None = None,
        volumes: str = "apart",
    ) -> "Judge":
        """Take parts of a few images, as far as there is noise in them.

        Args:
            images: to judge by.
            spatial_dims: axes of the networks.
            device: as torch names it.
            noise_map: how their noise varies.
            volumes: how series are denoised, see `PrincipalComponentsd`.
        """
        prior = Denoiser(prior_network(spatial_dims), PredictionOptions(device, noise_map=noise_map, volumes=volumes))
        predict = prior.network_alone()
        parts: list[_Part] = []
        together = []
        for image in (images[number] for number in evenly(len(images), _N_IMAGES)):
            axis = slice_axis(image.shape[1:], 2)
            standardized = prior.standardized(image.image, image.series)
            together.append(are_components(standardized))
            for cut in parts_of(standardized, _MAX_VOXELS):
                level = predict(cut.noisy[None])[0]
                try:
                    model = measure_part(cut, level)
                except NoNoiseError:
                    continue
                part = _Part(cut.noisy, level, model, axis, cut.padding)
                if part.is_noisy:
                    parts.append(part)
        return cls(parts, spatial_dims, device, all(together))

    def sliced(self) -> "Judge":
        """A judge of 2D networks by the same parts of volumes."""
        return Judge([part.sliced() for part in self.parts], 2, self.device, self.of_components)

    @functools.cached_property
    def prior(self) -> Verdict:
        """Of the prior alone."""
        return self._judge(_denoiser(prior_network(self.spatial_dims), self.device).network_alone())

    def trained(self, network: TrainedNetwork) -> Verdict:
        """Of a trained network."""
        found = self._judge(_denoiser(network, self.device).network_alone())
        logger.debug("Estimated errors: trained %s, prior %s.", found, self.prior)
        return found

    def _judge(self, predict: Predict) -> Verdict:
        def errors_of(part: _Part) -> np.ndarray:
            def finish(noisy: torch.Tensor, denoised: torch.Tensor) -> list[torch.Tensor]:
                filtered = wiener_filter(noisy[0, 0], denoised[0, 0], part.noise, self.spatial_dims)[None, None]
                return [torch.lerp(denoised, filtered, weight) for weight in _WEIGHTS]

            return sure(part.noisy, predict, part.noise, part.level, finish, padding=part.padding)

        return _best(np.mean([errors_of(part) for part in self.parts], axis=0))


def _best(errors: np.ndarray) -> Verdict:
    """The weight where a parabola through the errors of `_WEIGHTS` is least, in steps of a twentieth."""
    parabola = np.polynomial.Polynomial.fit(_WEIGHTS, errors, 2).convert()
    weights = np.linspace(0, 1, 21)
    best = int(np.argmin(parabola(weights)))
    return Verdict(float(parabola(weights[best])), round(float(weights[best]), 2))


def _denoiser(network: TrainedNetwork, device: str) -> Denoiser:
    return Denoiser(network, PredictionOptions(device))
