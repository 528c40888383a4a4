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
    may_be_magnitude,
    noise_of_each,
    remove_magnitude_bias,
    tell_noise,
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
        magnitude: ``"auto"``: where the air shows that the image is a magnitude (see `find_magnitude_noise`), never on
            complex voxels; ``"rician"``: on any image without negative values; ``"off"``: never.
        coils: how many coils were combined by the root of the sum of squares; None for 1.
        noise_key: where the `MagnitudeNoise` goes whose bias was taken off, one per volume; none where it was not.
        mean_key: where predictions go as they were, with the bias.
        gain_key: where `DivideByNoiseMapd` has left how the noise varies, its strength is measured and taken off in
            units of that.

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
        gain_key: str = "noise_gain",
    ) -> None:
        super().__init__(keys)
        check_magnitude(magnitude, coils)
        self.source_key, self.magnitude, self.coils = source_key, magnitude, coils
        self.noise_key, self.mean_key, self.gain_key = noise_key, mean_key, gain_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Take the bias off ``data[key]``; returns a new dictionary."""
        d = dict(data)
        source = d[self.source_key]
        noisy = source.float().cpu().numpy()
        gain = d[self.gain_key].cpu().numpy() if self.gain_key in d else None
        d[self.noise_key] = noises = self._noises(noisy if gain is None else noisy / gain, source.meta)
        if not noises:
            return d
        logger.info("Magnitude image: the bias of %s was taken off.", tell_noise(noises))
        for key in self.key_iterator(d):
            d[self.mean_key] = d[key]
            denoised = d[key].float().cpu().numpy()
            even = denoised if gain is None else denoised / gain
            kept = [mask for mask, _ in find_kept(d, self.source_key)]
            output = [remove_magnitude_bias(one, noise, mask) for one, noise, mask in zip(even, noises, kept)]
            if gain is not None:
                output = [one * gain for one in output]
            d[key] = torch.from_numpy(np.stack(output))
        return d

    def _noises(self, noisy: np.ndarray, meta: Mapping[str, Any]) -> list[MagnitudeNoise]:
        """Of every volume; none where no bias is to be taken off."""
        if self.magnitude == "off":
            return []
        if self.magnitude == "rician":
            check_not_negative(noisy, self.magnitude, meta.get("filename_or_obj") or "")
            noises = noise_of_each(noisy, self.coils, assume_magnitude_noise)
            if not noises:
                logger.warning("The noise could not be measured: the bias of the magnitude stays.")
            return noises
        if meta.get("is_complex"):  # both parts have noise of zero mean, whatever their values look like
            if self.coils is not None:
                logger.warning("Complex voxels have no bias of magnitudes: coils=%g has no effect.", self.coils)
            return []
        noises = noise_of_each(noisy, self.coils, find_magnitude_noise)
        if not noises and self.coils is not None:
            logger.warning("The air does not look like the noise of %g coil(s): no bias was taken off.", self.coils)
        elif not noises and may_be_magnitude(noisy, self.coils):
            logger.info(
                "Whether this is a magnitude image could not be decided, so no bias was removed. "
                "If it is one (MR), ask for it: --magnitude rician."
            )
        return noises
