# SPDX-License-Identifier: Apache-2.0
"""The bias of magnitude images, taken off denoised ones."""

import logging
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.transforms import MapTransform

from monai_n2v.noise.magnitude import (
    MagnitudeNoise,
    assume_magnitude_noise,
    check_magnitude,
    check_not_negative,
    find_magnitude_noise,
    remove_magnitude_bias,
)
from monai_n2v.transforms.padding import find_kept

logger = logging.getLogger(__name__)


class RemoveMagnitudeBiasd(MapTransform):
    """Take off what noise adds to the mean of a magnitude image, 1.25 of its standard deviation in air.

    A denoiser estimates the mean of the noisy values. In a magnitude image (MR) this is a known function of signal and
    noise, which is inverted voxel by voxel ([1]_, Eq. 3). Constant padding and outliers stay as they are.

    Args:
        keys: predictions ``(C, *spatial)``, float32, in the units of the source.
        source_key: the noisy image, as it was read.
        magnitude: ``"auto"``: where the air shows that the image is a magnitude (see `find_magnitude_noise`);
            ``"rician"``: on any image without negative values; ``"off"``: never.
        coils: how many coils were combined by the root of the sum of squares; None for 1.
        noise_key: where the `MagnitudeNoise` goes whose bias was taken off, or None.
        mean_key: where predictions go as they were, with the bias.

    Raises:
        ValueError: for another ``magnitude`` or ``coils``; when called, for negative values under ``"rician"``.

    References:
        .. [1] Koay, Basser, "Analytically exact correction scheme for signal extraction from noisy magnitude MR
           signals", JMR 2006.
    """

    def __init__(
        self,
        keys: Any = "pred",
        source_key: str = "noisy",
        magnitude: str = "auto",
        coils: float | None = None,
        noise_key: str = "magnitude_noise",
        mean_key: str = "noisy_mean",
    ) -> None:
        super().__init__(keys)
        check_magnitude(magnitude, coils)
        self.source_key, self.magnitude, self.coils = source_key, magnitude, coils
        self.noise_key, self.mean_key = noise_key, mean_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Take the bias off ``data[key]``; returns a new dictionary."""
        d = dict(data)
        noisy = d[self.source_key].float().cpu().numpy()
        d[self.noise_key] = noise = self._noise(noisy, d[self.source_key].meta.get("filename_or_obj") or "")
        if noise is None:
            if self.magnitude == "auto" and self.coils is not None:
                logger.warning("The air does not look like the noise of %g coil(s): no bias was taken off.", self.coils)
            return d
        logger.info("Magnitude image: the bias of %s was taken off.", noise)
        for key in self.key_iterator(d):
            d[self.mean_key] = d[key]
            denoised = d[key].float().cpu().numpy()
            output = [remove_magnitude_bias(b, noise, find_kept(a)[0]) for a, b in zip(noisy, denoised)]
            d[key] = torch.from_numpy(np.stack(output))
        return d

    def _noise(self, noisy: np.ndarray, name: Any) -> MagnitudeNoise | None:
        if self.magnitude == "off":
            return None
        if self.magnitude == "auto":
            return find_magnitude_noise(noisy, self.coils)
        check_not_negative(noisy, self.magnitude, name)
        noise = assume_magnitude_noise(noisy, self.coils)
        if noise is None:
            logger.warning("The noise could not be measured: the bias of the magnitude stays.")
        return noise
