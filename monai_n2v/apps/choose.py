# SPDX-License-Identifier: Apache-2.0
"""What suits an image: 2D or 3D, which scheme, and at last the trained network or the prior alone; by the image itself.

Everything is decided by Stein's unbiased risk estimate (`sure`) of the networks' results on a part of the images, with
the noise that the prior's residual shows.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from monai_n2v.apps.inspect import NoisyImage
from monai_n2v.bundle.options import PredictionOptions, TrainingOptions
from monai_n2v.bundle.run import Denoiser
from monai_n2v.bundle.trained import TrainedNetwork, prior_network
from monai_n2v.inferers.noise_by_network import central, measure_by_network, sure
from monai_n2v.noise.model import NoiseModel
from monai_n2v.transforms.axes import choose_dims, slice_axis

logger = logging.getLogger(__name__)

# Images that are judged by, and voxels of each.
_N_IMAGES, _MAX_VOXELS = 3, 2**19
# A 2D network has to be better by this factor of the error, since slices may differ visibly.
_CLEARLY = 0.97
# Noise below this share of the image's standard deviation is not worth a training.
_HARDLY = 0.01
# Where neighbors are that alike along every axis, what varies is structure.
_SMOOTH = 0.6
# Settings that make another network than that of the prior.
_OF_NETWORK = ("features", "network_def", "in_channels")
# Settings that mean Noise2Void.
_OF_BLIND_SPOTS = ("mask_fraction", "radius", "fill", "footprint")


@dataclass(frozen=True)
class Choice:
    """How images are to be trained on.

    Attributes:
        spatial_dims: axes of the network.
        scheme: the training scheme, one of `SCHEMES` but not ``"auto"``.
        reason: why, for the log.
        judge: who chose, and tells at the end whether the training was worth it; None where nobody was asked.
    """

    spatial_dims: int
    scheme: str
    reason: str
    judge: "Judge | None" = None


class Judge:
    """Parts of images, noise measured on them, and scores of networks by both.

    Args:
        images: to judge by; a few of them are looked at.
        spatial_dims: axes of the networks.
        device: as torch names it.

    Attributes:
        noise: of the images in standardized units, once it is measured or set.
    """

    noise: NoiseModel

    def __init__(self, images: Sequence[NoisyImage], spatial_dims: int, device: str) -> None:
        self.spatial_dims, self.device = spatial_dims, device
        prior = self._denoiser(prior_network(spatial_dims))
        numbers = np.unique(np.linspace(0, len(images) - 1, min(len(images), _N_IMAGES)).astype(int))
        chosen = [images[int(number)] for number in numbers]
        self.parts = [
            central(prior.standardized(image.image, image.series), _MAX_VOXELS).to(device) for image in chosen
        ]
        self._prior = prior.network_alone()

    def _denoiser(self, network: TrainedNetwork) -> Denoiser:
        return Denoiser(network, PredictionOptions(self.device))

    def measure_noise(self) -> NoiseModel:
        """Measure the noise, by what the prior removes.

        Raises:
            ValueError: where there is none to measure.
        """
        self.noise = measure_by_network([{"image": part} for part in self.parts], self._prior)
        return self.noise

    def error_of_prior(self) -> float:
        """Estimated mean squared error of the prior's result, in standardized units."""
        return float(np.mean([sure(part, self._prior, self.noise) for part in self.parts]))

    def prefers(self, network: TrainedNetwork) -> bool:
        """Tell whether a trained network's result is better than the prior's, by the estimated error."""
        predict = self._denoiser(network).network_alone()
        trained = float(np.mean([sure(part, predict, self.noise) for part in self.parts]))
        prior = self.error_of_prior()
        logger.debug("Estimated error trained %.4g, of the prior %.4g.", trained, prior)
        return trained < prior


def choose(images: Sequence[NoisyImage], options: TrainingOptions) -> Choice:
    """Choose axes and scheme of a training, where the options leave them open.

    Args:
        images: to train on.
        options: as they were given.

    Raises:
        ValueError: where 3D is asked for images.
    """
    spatial_dims = choose_dims([image.shape[1:] for image in images], options.spatial_dims)
    scheme = "prior" if options.fast else options.scheme
    own_network = any(key.partition("#")[0] in _OF_NETWORK for key in options.settings)
    blind_spots = options.footprint is not None or any(key in _OF_BLIND_SPOTS for key in options.settings)
    if scheme == "auto" and (not options.prior or own_network or blind_spots):
        scheme = "n2v"
    if scheme == "n2v" and (not options.prior or own_network):
        return Choice(spatial_dims, scheme, "without the prior")
    open_dims = spatial_dims == 3 and options.spatial_dims is None
    if scheme != "auto" and not open_dims:
        return Choice(spatial_dims, scheme, "as asked for")
    judge = Judge(images, spatial_dims, options.device)
    try:
        noise = judge.measure_noise()
    except ValueError:  # none at all
        noise = None
    if noise is None or noise.sigma < _HARDLY or noise.lags[:, 0].min() > _SMOOTH:
        return Choice(spatial_dims, "prior" if scheme == "auto" else scheme, "next to no noise was found")
    if open_dims:
        in_slices = Judge(images, 2, options.device)
        in_slices.noise = _turned(noise, images[0])
        across, whole = in_slices.error_of_prior(), judge.error_of_prior()
        logger.debug("Estimated error of the prior in 2D %.4g, in 3D %.4g.", across, whole)
        judge = in_slices if across < _CLEARLY * whole else judge
    if scheme != "auto":
        return Choice(judge.spatial_dims, scheme, "as asked for")
    if noise.is_white:
        return Choice(judge.spatial_dims, "recorrupted", "the noise is white and well known", judge)
    return Choice(judge.spatial_dims, "renoised", "neighboring voxels share noise", judge)


def _turned(noise: NoiseModel, image: NoisyImage) -> NoiseModel:
    """The noise of a volume whose shortest axis was brought to the end."""
    axis = slice_axis(image.shape[1:], 2)
    return replace(noise, lags=np.concatenate([np.delete(noise.lags, axis, 0), noise.lags[axis : axis + 1]]))
