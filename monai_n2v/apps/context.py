# SPDX-License-Identifier: Apache-2.0
"""How many other volumes of a series a network may see beside each: only where their noise is independent."""

import logging
from collections.abc import Sequence

import numpy as np

from monai_n2v.apps.inspect import NoisyImage
from monai_n2v.io.images import read_volume
from monai_n2v.io.series import nearest_volumes, read_q_vectors
from monai_n2v.io.volume import Volume
from monai_n2v.noise.between_volumes import measure_series
from monai_n2v.noise.sentences import why_no_context
from monai_n2v.transforms.noise_parts import evenly

logger = logging.getLogger(__name__)

# What auto takes, and by how many images it is decided.
AUTO_CONTEXT = 8
_N_IMAGES = 3


def choose_context(images: Sequence[NoisyImage], asked: int | str) -> tuple[int, bool]:
    """Choose how many other volumes are context of each, by the number of volumes and what their noise shares.

    Args:
        images: to train on.
        asked: a number, which is taken with a warning where noise is shared, or ``"auto"``.

    Returns:
        the number, one for all images; and whether noise is independent, so that it can be drawn as white.

    Raises:
        ValueError: for more than an image has, or b-vectors that do not fit it.
    """
    fewest = min(images, key=lambda image: image.shape[0])
    n_others = fewest.shape[0] - 1
    if asked == "auto":
        if n_others == 0 and max(image.shape[0] for image in images) > 1:
            logger.info("No context: %s has one volume, and one network serves all.", fewest.name or "an image")
        context = min(AUTO_CONTEXT, n_others)
    else:
        context = int(asked)
        if context > n_others:
            nearest_volumes(n_others + 1, context, name=fewest.name)  # which refuses it
    if context == 0:
        return 0, False
    for image in images:  # a wrong file is to cost no training
        if image.name:
            read_q_vectors(image.name, image.shape[0])
    for number in evenly(len(images), _N_IMAGES):
        series = measure_series(_voxels(images[number]))
        if series is None or not series.is_independent:
            log = logger.info if asked == "auto" else logger.warning
            log("%s: %s.", "No context" if asked == "auto" else "Context does not suit", why_no_context(series))
            return (0 if asked == "auto" else context), False
    return context, True


def _voxels(image: NoisyImage) -> np.ndarray:
    if isinstance(image.image, str):
        return read_volume(image.image, image.series).data
    return image.image.data if isinstance(image.image, Volume) else image.image.numpy()
