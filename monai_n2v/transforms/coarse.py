# SPDX-License-Identifier: Apache-2.0
"""Coarse structure: so wide that noise averages out within it. The image itself tells it better than a network."""

from collections.abc import Hashable, Mapping
from numbers import Real
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from scipy import ndimage

_LARGEST = 10  # beyond it next to nothing is coarse


def restore_coarse(noisy: np.ndarray, denoised: np.ndarray, scale: float, spatial_dims: int) -> np.ndarray:
    """Take coarse structure from the noisy image: ``denoised + G * (noisy - denoised)`` with a Gaussian G.

    Adding back the smoothed residual is known as twicing ([1]_, Sec. 16). The result keeps a share of the noise of
    about ``(3.5 * scale) ** (-spatial_dims / 2)``.

    Args:
        noisy: one image, float, ``(*spatial)``; with one axis more than ``spatial_dims`` slices lie along the last.
        denoised: of the same shape.
        scale: standard deviation of the Gaussian in voxels.
        spatial_dims: axes of the network, 2 or 3.

    Returns:
        float32 of the same shape.

    References:
        .. [1] Tukey, "Exploratory Data Analysis", 1977.
    """
    widths = [scale] * spatial_dims + [0.0] * (noisy.ndim - spatial_dims)
    residual = np.subtract(noisy, denoised, dtype=np.float32)
    return np.asarray(denoised + ndimage.gaussian_filter(residual, widths, truncate=3.0), dtype=np.float32)


class RestoreCoarsed(MapTransform):
    """Give predictions the coarse structure of the noisy image; see `restore_coarse`.

    It extends to every place what :py:class:`RestoreIntensity` does for the whole image, whose mean it keeps. It works
    on the CPU, and brings the result back to the device of the prediction.

    Args:
        keys: predictions ``(C, *spatial)``, standardized.
        source_key: the noisy image, standardized.
        scale: standard deviation of the Gaussian in voxels; None leaves predictions as they are.
        spatial_dims: axes of the network, 2 or 3.

    Raises:
        ValueError: for a scale that is no number above 0, or above 10.
    """

    def __init__(
        self,
        keys: KeysCollection = "pred",
        source_key: str = "image",
        scale: float | None = None,
        spatial_dims: int = 3,
    ) -> None:
        super().__init__(keys)
        if scale is not None and (isinstance(scale, bool) or not isinstance(scale, Real) or not 0 < scale <= _LARGEST):
            raise ValueError(f"keep_scale must be a number of voxels from 0 to 10, got {scale!r}. Use for example 2.")
        self.source_key, self.scale, self.spatial_dims = source_key, scale, spatial_dims

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Restore what is coarse in ``data[key]``; returns a new dictionary."""
        d = dict(data)
        if self.scale is None:
            return d
        for key in self.key_iterator(d):
            noisy, denoised = (d[one].cpu().float().numpy() for one in (self.source_key, key))
            found = [restore_coarse(a, b, self.scale, self.spatial_dims) for a, b in zip(noisy, denoised)]
            d[key] = torch.from_numpy(np.stack(found)).to(d[key].device)
        return d
