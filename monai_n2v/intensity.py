# SPDX-License-Identifier: Apache-2.0
"""Intensity standardization that can be undone: the statistics stay with the image."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.config.type_definitions import NdarrayOrTensor
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from monai.utils import TransformBackends, ensure_tuple_rep

__all__ = [
    "RestoreIntensity",
    "RestoreIntensityD",
    "RestoreIntensityDict",
    "RestoreIntensityd",
    "StandardizeIntensity",
    "StandardizeIntensityD",
    "StandardizeIntensityDict",
    "StandardizeIntensityd",
]


class StandardizeIntensity(Transform):
    """Give every channel zero mean and unit standard deviation, and remember both to undo it.

    The statistics travel in the image's metadata as ``intensity_mean`` and ``intensity_std``, in the image's own units
    (HU, gray values); :py:class:`RestoreIntensity` reads them there. A constant channel keeps the divisor 1.
    """

    backend = [TransformBackends.TORCH]

    def __call__(self, img: NdarrayOrTensor) -> MetaTensor:
        """Standardize ``img``.

        Args:
            img: ``(C, *spatial)``, any real dtype.

        Returns:
            float32 MetaTensor of the same shape.

        Raises:
            ValueError: for complex values, NaN or infinity.
        """
        image = MetaTensor(img) if not isinstance(img, MetaTensor) else img
        values = image.as_tensor()
        name = image.meta.get("filename_or_obj")
        where = f" for {name}" if name else ""
        if values.is_complex():
            raise ValueError(f"image must be real, got complex voxels{where}. Take the magnitude first.")
        values = values.double()
        n_bad = int(values.numel() - torch.isfinite(values).sum())
        if n_bad:
            raise ValueError(
                f"image must be finite, got {n_bad} NaN or infinite voxels{where}. "
                "Replace them first, for example with numpy.nan_to_num."
            )
        flat = values.flatten(1)
        mean, std = flat.mean(dim=1), flat.std(dim=1, correction=0)
        # Rounding leaves a constant channel a spread of about 1e-16 of its value, which must not become its unit.
        std = torch.where(std > 1e-12 * mean.abs(), std, torch.ones_like(std))
        per_channel = (-1, *(1,) * (values.ndim - 1))
        out = MetaTensor((values - mean.view(per_channel)) / std.view(per_channel), meta=image.meta).float()
        out.meta["intensity_mean"], out.meta["intensity_std"] = mean.cpu().numpy(), std.cpu().numpy()
        return out


class RestoreIntensity(Transform):
    """Undo :py:class:`StandardizeIntensity` on a prediction."""

    backend = [TransformBackends.TORCH]

    def __call__(self, img: NdarrayOrTensor, meta: Mapping[str, Any]) -> torch.Tensor:
        """Restore the intensities of ``img``.

        Args:
            img: ``(C, *spatial)``, standardized.
            meta: the metadata that :py:class:`StandardizeIntensity` filled.

        Returns:
            float32, of the shape of ``img``, in the units of the original image.

        Raises:
            ValueError: where ``meta`` holds no statistics.
        """
        if "intensity_mean" not in meta:
            raise ValueError(
                "meta must hold intensity_mean and intensity_std, got neither. Run StandardizeIntensity before."
            )
        per_channel = (-1, *(1,) * (img.ndim - 1))
        mean, std = (
            torch.as_tensor(meta[name], dtype=torch.float64, device="cpu").view(per_channel)
            for name in ("intensity_mean", "intensity_std")
        )
        tensor = img if isinstance(img, torch.Tensor) else torch.as_tensor(img)
        return (tensor.double() * std.to(tensor.device) + mean.to(tensor.device)).float()


class StandardizeIntensityd(MapTransform):
    """Dictionary version of :py:class:`StandardizeIntensity`.

    Args:
        keys: images to standardize.
        allow_missing_keys: whether absent keys are passed over.
    """

    backend = StandardizeIntensity.backend

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.standardize = StandardizeIntensity()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Standardize ``data[key]``; returns a new dictionary."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.standardize(d[key])
        return d


class RestoreIntensityd(MapTransform):
    """Dictionary version of :py:class:`RestoreIntensity`.

    Args:
        keys: predictions to restore.
        source_key: the standardized image whose metadata holds the statistics, one for all keys or one per key.
        allow_missing_keys: whether absent keys are passed over.
    """

    backend = RestoreIntensity.backend

    def __init__(
        self, keys: KeysCollection, source_key: KeysCollection = "image", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.source_keys = ensure_tuple_rep(source_key, len(self.keys))
        self.restore = RestoreIntensity()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Restore ``data[key]``; returns a new dictionary."""
        d = dict(data)
        for key, source_key in self.key_iterator(d, self.source_keys):
            d[key] = self.restore(d[key], d[source_key].meta)
        return d


StandardizeIntensityD = StandardizeIntensityDict = StandardizeIntensityd
RestoreIntensityD = RestoreIntensityDict = RestoreIntensityd
