# SPDX-License-Identifier: Apache-2.0
"""What suits an image: 2D or 3D, which scheme, and at last the trained network or the prior alone.

Everything is decided by the image itself (`Judge`).
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from monai_n2v.apps.inspect import NoisyImage
from monai_n2v.apps.judge import Judge
from monai_n2v.bundle.options import TrainingOptions
from monai_n2v.noise.model import NoiseModel
from monai_n2v.transforms.axes import choose_dims, slice_axis

logger = logging.getLogger(__name__)

# A 2D network has to be better by this factor of the error, since slices may differ visibly.
_CLEARLY = 0.97
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
        judge: who chose, and tells at the end whether the training was worth it; None where nobody was asked.
    """

    spatial_dims: int
    scheme: str
    reason: str
    judge: Judge | None = None


def starts_from_prior(options: TrainingOptions) -> bool:
    """Whether a training starts from the prior; a network of another kind starts from random weights."""
    return options.prior and not _of_network(options)


def _of_network(options: TrainingOptions) -> list[str]:
    """The settings that make another network than that of the prior."""
    return [key for key in options.settings if key.partition("#")[0] in _OF_NETWORK]


def assumes_white_noise(options: TrainingOptions) -> bool:
    """Whether a training is Noise2Void's in any case, which keeps noise that neighboring voxels share."""
    return options.scheme == "n2v" or not starts_from_prior(options)


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
        ValueError: where 3D is asked for images, or a scheme needs the prior and the network is another.
    """
    spatial_dims = choose_dims([image.shape[1:] for image in images], options.spatial_dims)
    scheme = options.scheme
    blind_spots = options.footprint is not None or any(key in _OF_BLIND_SPOTS for key in options.settings)
    if not starts_from_prior(options):
        if scheme not in ("auto", "n2v"):
            raise ValueError(
                f"scheme must be n2v for another network than the prior's, got {scheme} and "
                f"{', '.join(_of_network(options))}. Use --scheme n2v, or leave the network as it is."
            )
        return Choice(spatial_dims, "n2v", "without the prior")
    if blind_spots and scheme == "auto":
        scheme = "n2v"
    open_dims = spatial_dims == 3 and options.spatial_dims is None and not _is_for_volumes(options, images)
    if scheme not in ("auto", "prior") and not open_dims:
        return Choice(spatial_dims, scheme, "as asked for")
    judge = Judge.of(images, spatial_dims, options.device, options.noise_map, options.volumes_for(scheme))
    if not judge.parts:
        return Choice(spatial_dims, "prior" if scheme == "auto" else scheme, "next to no noise was found")
    if open_dims:
        sliced = judge.sliced()
        logger.debug("Estimated errors of the prior: in 2D %s, in 3D %s.", sliced.prior, judge.prior)
        judge = sliced if sliced.prior.error < _CLEARLY * judge.prior.error else judge
    if scheme != "auto":
        return Choice(judge.spatial_dims, scheme, "as asked for", judge if scheme == "prior" else None)
    scheme, reason = _scheme_for([part.noise for part in judge.parts])
    if judge.of_components:
        scheme, reason = "prior", "volumes that are denoised together tell more than a training would"
    return Choice(judge.spatial_dims, scheme, reason, judge)


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
