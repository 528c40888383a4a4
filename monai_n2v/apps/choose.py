# SPDX-License-Identifier: Apache-2.0
"""What suits an image: 2D or 3D, which scheme, and at last the trained network or the prior alone; by the image itself.

Everything is decided by Stein's unbiased risk estimate (`sure`) of the networks' results on a part of the images, with
the noise that the prior's residual shows.
"""

import functools
import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from monai_n2v.apps.context import choose_context
from monai_n2v.apps.inspect import NoisyImage
from monai_n2v.bundle.options import PredictionOptions, TrainingOptions
from monai_n2v.bundle.run import Denoiser
from monai_n2v.bundle.trained import TrainedNetwork, prior_network
from monai_n2v.inferers.noise_by_network import (
    Predict,
    evenly,
    measure_part,
    padding_of,
    parts_of,
    scales_of_parts,
    sure,
)
from monai_n2v.noise.block_statistics import MIN_SIDE
from monai_n2v.noise.model import NoiseModel, NoNoiseError
from monai_n2v.noise.noise_map import NoiseMap
from monai_n2v.transforms.axes import choose_dims, slice_axis
from monai_n2v.transforms.series import NearestVolumesd

logger = logging.getLogger(__name__)

# Images that are judged by, and voxels of each channel.
_N_IMAGES, _MAX_VOXELS = 3, 2**19
# A 2D network has to be better by this factor of the error, since slices may differ visibly.
_CLEARLY = 0.97
# Noise below this share of the standard deviation of what is not padding is not worth a training.
_HARDLY = 0.01
# Where neighbors are that alike along every axis, what varies is structure.
_SMOOTH = 0.6
# Noises whose strengths differ by no more than the first factor are one; by more than the second, one model is useless.
_ALIKE, _UNLIKE = 1.15, 1.5
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
        context: how many other volumes of a series the network sees beside each.
        judge: who chose, and tells at the end whether the training was worth it; None where nobody was asked.
    """

    spatial_dims: int
    scheme: str
    reason: str
    context: int = 0
    judge: "Judge | None" = None


@dataclass(frozen=True)
class _Part:
    """A part of one channel of an image, and its noise.

    Attributes:
        noisy: ``(1, *spatial)``, standardized.
        level: the same denoised by the prior: the intensities that noise may go with.
        noise: by the difference of the two.
        axis: the spatial axis across which a 2D network would cut slices.
        context: of the same place in other volumes, ``(context, *spatial)``.
        scale: how strong noise that is even over the series is in this volume; 1 without context.
    """

    noisy: torch.Tensor
    level: torch.Tensor
    noise: NoiseModel
    axis: int
    context: torch.Tensor
    scale: float = 1.0

    @property
    def is_noisy(self) -> bool:
        """Whether there is noise worth a training."""
        sides = self.noisy.shape[1:]
        lags = [self.noise.lags[axis, 0] for axis, side in enumerate(sides) if side >= MIN_SIDE]
        counted = self.noisy[~torch.from_numpy(padding_of(self.noisy)).to(self.noisy.device)]
        return min(lags) <= _SMOOTH and self.noise.sigma >= _HARDLY * float(counted.std())

    def sliced(self) -> "_Part":
        """The same with the axis across slices last, as a 2D network takes it."""
        order = [*np.delete(np.arange(self.noisy.ndim - 1), self.axis), self.axis]
        noise = replace(self.noise, lags=self.noise.lags[order])
        turned = (torch.movedim(one, 1 + self.axis, -1) for one in (self.noisy, self.level, self.context))
        noisy, level, context = turned
        return _Part(noisy, level, noise, len(order) - 1, context, self.scale)


class Judge:
    """Parts of images with their noise, by which networks are compared.

    Args:
        parts: what to judge by.
        spatial_dims: axes of the networks.
        device: as torch names it.
    """

    def __init__(self, parts: Sequence[_Part], spatial_dims: int, device: str) -> None:
        self.parts, self.spatial_dims, self.device = parts, spatial_dims, device

    @classmethod
    def of(
        cls,
        images: Sequence[NoisyImage],
        spatial_dims: int,
        device: str,
        context: int = 0,
        noise_map: NoiseMap | None = None,
    ) -> "Judge":
        """Take parts of a few images, as far as there is noise in them.

        Args:
            images: to judge by.
            spatial_dims: axes of the networks.
            device: as torch names it.
            context: how many other volumes a trained network sees beside each; the prior sees none.
            noise_map: how their noise varies.
        """
        prior = Denoiser(prior_network(spatial_dims), PredictionOptions(device, noise_map=noise_map))
        predict = prior.network_alone()
        parts: list[_Part] = []
        for image in (images[number] for number in evenly(len(images), _N_IMAGES)):
            axis = slice_axis(image.shape[1:], 2)
            whole: dict[Hashable, Any] = {"image": prior.standardized(image.image, image.series)}
            series = NearestVolumesd("image", context)(whole)["image"]
            for volumes, scales in zip(parts_of(series, _MAX_VOXELS), scales_of_parts(series)):
                noisy = volumes[:1]
                level = predict(noisy[None])[0]
                try:
                    part = _Part(noisy, level, measure_part(volumes, level, scales), axis, volumes[1:], scales[0])
                except NoNoiseError:
                    continue
                if part.is_noisy:
                    parts.append(part)
        return cls(parts, spatial_dims, device)

    def sliced(self) -> "Judge":
        """A judge of 2D networks by the same parts of volumes."""
        return Judge([part.sliced() for part in self.parts], 2, self.device)

    @functools.cached_property
    def error_of_prior(self) -> float:
        """Estimated mean squared error of the prior's result, in standardized units."""
        return self._error(_denoiser(prior_network(self.spatial_dims), self.device).network_alone())

    def prefers(self, network: TrainedNetwork) -> bool:
        """Tell whether a trained network's result is better than the prior's, by the estimated error."""
        trained = self._error(_denoiser(network, self.device).network_alone(), with_context=True)
        logger.debug("Estimated error trained %.4g, of the prior %.4g.", trained, self.error_of_prior)
        return trained < self.error_of_prior

    def _error(self, predict: Predict, with_context: bool = False) -> float:
        # Noise of the context is independent, so the estimate holds as if the context were a part of the network.
        def of(part: _Part) -> Predict:
            beside = part.context[None]
            return (lambda noisy: predict(torch.cat([noisy, beside], dim=1))) if with_context else predict

        return float(np.mean([sure(part.noisy, of(part), part.noise, part.level) for part in self.parts]))


def _denoiser(network: TrainedNetwork, device: str) -> Denoiser:
    return Denoiser(network, PredictionOptions(device))


def has_own_network(options: TrainingOptions) -> bool:
    """Whether the settings make another network than that of the prior, which then starts from random weights."""
    return any(key.partition("#")[0] in _OF_NETWORK for key in options.settings)


def assumes_white_noise(options: TrainingOptions) -> bool:
    """Whether a training is Noise2Void's in any case, which keeps noise that neighboring voxels share."""
    return options.scheme == "n2v" or not options.prior or has_own_network(options)


def _is_for_volumes(options: TrainingOptions, images: Sequence[NoisyImage]) -> bool:
    """Whether some option means a 3D network: patches of three sides, or a footprint that reaches across slices."""
    patch_size, footprint = options.settings.get("patch_size"), options.footprint
    if isinstance(patch_size, list) and len(patch_size) == 3:
        return True
    if not isinstance(footprint, np.ndarray) or footprint.ndim != 3:
        return False
    return any(footprint.shape[slice_axis(image.shape[1:], 2)] > 1 for image in images)


def choose(images: Sequence[NoisyImage], options: TrainingOptions) -> Choice:
    """Choose axes and scheme of a training, where the options leave them open.

    Args:
        images: to train on.
        options: as they were given.

    Raises:
        ValueError: where 3D is asked for images, a scheme needs the prior and the network is another, or an image has
            not so many other volumes as are asked for.
    """
    spatial_dims = choose_dims([image.shape[1:] for image in images], options.spatial_dims)
    scheme = options.scheme
    blind_spots = options.footprint is not None or any(key in _OF_BLIND_SPOTS for key in options.settings)
    if not options.prior or has_own_network(options):
        if scheme not in ("auto", "n2v"):
            raise ValueError(
                f"scheme must be n2v for a network of other features, channels or kind than the prior's, got {scheme}. "
                "Use --scheme n2v, or leave the network as it is."
            )
        return Choice(spatial_dims, "n2v", "without the prior", choose_context(images, options.context)[0])
    if blind_spots and scheme == "auto":
        scheme = "n2v"
    of_prior = scheme in ("renoised", "prior")
    context, independent = (0, False) if of_prior else choose_context(images, options.context)
    open_dims = spatial_dims == 3 and options.spatial_dims is None and not _is_for_volumes(options, images)
    if scheme != "auto" and not open_dims:
        return Choice(spatial_dims, scheme, "as asked for", context)
    judge = Judge.of(images, spatial_dims, options.device, context, options.noise_map)
    if not judge.parts:
        found = "next to no noise was found"
        return (
            Choice(spatial_dims, "prior", found) if scheme == "auto" else Choice(spatial_dims, scheme, found, context)
        )
    if open_dims:
        sliced = judge.sliced()
        logger.debug(
            "Estimated error of the prior in 2D %.4g, in 3D %.4g.", sliced.error_of_prior, judge.error_of_prior
        )
        judge = sliced if sliced.error_of_prior < _CLEARLY * judge.error_of_prior else judge
    if scheme != "auto":
        return Choice(judge.spatial_dims, scheme, "as asked for", context)
    noises = [replace(part.noise, sigmas=part.noise.sigmas / part.scale) for part in judge.parts]
    scheme, reason = _scheme_for(noises)
    if context:
        scheme, reason = _scheme_for_series(noises, independent)
    return Choice(judge.spatial_dims, scheme, reason, context, judge)


def _scheme_for_series(noises: Sequence[NoiseModel], independent: bool) -> tuple[str, str]:
    """What suits volumes with context. Not renoising, whose target is the prior's result: context has no part in it."""
    sigmas = [noise.sigma for noise in noises]
    if independent and max(sigmas) / min(sigmas) <= _ALIKE:
        return "recorrupted", "the noise is independent and as strong in all volumes"
    return "n2v", "the noise of the volumes is known roughly"


def _scheme_for(noises: Sequence[NoiseModel]) -> tuple[str, str]:
    """What suits measured noises, and why."""
    sigmas = [noise.sigma for noise in noises]
    differ = max(sigmas) / min(sigmas)
    if differ > _UNLIKE:
        return "n2v", "the noise differs from image to image"
    if not all(noise.is_white for noise in noises):
        return "renoised", "neighboring voxels share noise"
    if differ > _ALIKE or not all(noise.is_sure for noise in noises):
        return "renoised", "the strength of the noise is known roughly"
    return "recorrupted", "the noise is white and well known"
