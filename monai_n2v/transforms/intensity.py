# SPDX-License-Identifier: Apache-2.0
"""Intensity standardization that can be undone: the statistics stay with the image."""

import math
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.config.type_definitions import NdarrayOrTensor
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from monai.utils import TransformBackends, ensure_tuple_rep

from monai_n2v.io.volume import check_finite, where
from monai_n2v.transforms.outliers import find_outliers
from monai_n2v.transforms.padding import PADDING, fill_padding, find_padding, note_kept, padding_in

_MAX_AT_A_TIME = 1 << 22


def _parts(voxels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Views of an image, small enough to hold one at a time in float64."""
    return voxels.split(max(1, _MAX_AT_A_TIME // max(1, voxels[0].numel())))


def _n_not_finite(values: torch.Tensor) -> int:
    """Voxels that are NaN or infinite, counted part by part: torch makes copies to look."""
    return sum(part.numel() - int(torch.isfinite(part).sum()) for voxels in values for part in _parts(voxels))


def _without_outliers(values: torch.Tensor, meta: dict[str, Any]) -> torch.Tensor:
    """The same with the median of its neighbors in place of every voxel far outside of all others.

    Where they are, and where padding is, goes into the metadata.
    """
    images = [voxels.cpu().numpy() for voxels in values]
    found = [find_outliers(image) for image in images]
    note_kept([find_padding(image) for image in images], found, meta)
    if not any(found):
        return values
    replaced = values.clone()
    for channel, outliers in enumerate(found):
        if outliers is not None:
            sites = tuple(torch.from_numpy(axis).to(values.device) for axis in outliers.sites)
            replaced[channel][sites] = torch.from_numpy(outliers.medians).to(values)
    return replaced


def _without_padding(values: torch.Tensor, meta: Mapping[str, Any]) -> torch.Tensor:
    """The same with intensities from beside it in place of the padding that the metadata tells of."""
    if PADDING not in meta:
        return values
    filled = torch.empty(values.shape, dtype=torch.promote_types(values.dtype, torch.float32), device=values.device)
    for channel, voxels in enumerate(values):
        padding = padding_in(meta, channel, voxels.shape)
        image = voxels.to(filled.dtype).cpu().numpy()
        whole = padding.all() or not padding.any()
        filled[channel] = torch.from_numpy(image if whole else fill_padding(image, padding, seed=channel))
    return filled


def _statistics(values: torch.Tensor, meta: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of every channel; the latter exactly 0 for a constant one, and without padding."""
    means, stds = np.empty(len(values)), np.empty(len(values))
    for channel, voxels in enumerate(values):
        means[channel] = mean = _mean(voxels)
        known: torch.Tensor | None = None
        if PADDING in meta:
            known = torch.from_numpy(~padding_in(meta, channel, voxels.shape)).to(voxels.device)
            known = known if known.any() else None
        n = voxels.numel() if known is None else int(known.sum())
        if known is not None:
            mean = sum(part.double().sum().item() for part in _measured(voxels, known)) / n
        squares = sum((part.double() - mean).square().sum().item() for part in _measured(voxels, known))
        spread = math.sqrt(squares / n)
        # Rounding leaves a constant channel a spread of about 1e-16 of its value, which must not become its unit.
        stds[channel] = spread if spread > 1e-12 * abs(mean) else 0.0
    return means, stds


def _measured(voxels: torch.Tensor, known: torch.Tensor | None) -> Iterator[torch.Tensor]:
    """The voxels that are known, part by part: to choose among all, torch would hold three indices of each."""
    for part, mask in zip(_parts(voxels), _parts(voxels if known is None else known)):
        yield part if known is None else part[mask]


def _mean(voxels: torch.Tensor) -> float:
    return sum(part.double().sum().item() for part in _parts(voxels)) / voxels.numel()


class StandardizeIntensity(Transform):
    """Give every channel zero mean and unit standard deviation, and remember both to undo it.

    The statistics travel in the image's metadata as ``intensity_mean`` and ``intensity_std``, in the image's own units
    (HU, gray values); :py:class:`RestoreIntensity` reads them there. Single voxels far outside of all others (see
    `find_outliers`) count for nothing: the median of their neighbors takes their place. Nor does constant padding (see
    `find_padding`): beside it a network would take its edge for what is to be seen, and miss the noise. A constant
    channel is divided by 1 and keeps the spread 0, so whatever a network makes of it, it is restored to what it was.

    Args:
        fill_padding: whether padding is filled with the intensities beside it; it has to be put back then, by
            :py:class:`RestorePaddingd`.
    """

    backend = [TransformBackends.TORCH]

    def __init__(self, fill_padding: bool = True) -> None:
        self.fill_padding = fill_padding

    def __call__(self, img: NdarrayOrTensor, reference: Mapping[str, Any] | None = None) -> MetaTensor:
        """Standardize ``img``.

        Args:
            img: ``(C, *spatial)``, any real dtype.
            reference: metadata with the statistics of another image to use instead of its own; where that one is
                padded, this one is filled, too.

        Returns:
            float32 MetaTensor of the same shape.

        Raises:
            ValueError: for complex values, NaN or infinity, or a reference of other channels.
        """
        image = MetaTensor(img) if not isinstance(img, MetaTensor) else img
        values = image.as_tensor()
        name = image.meta.get("filename_or_obj") or ""
        if values.is_complex():
            raise ValueError(f"image must be real, got complex voxels{where(name)}. Take the magnitude first.")
        check_finite(_n_not_finite(values), name)
        standard = torch.empty(values.shape, dtype=torch.float32, device=values.device)
        meta = dict(image.meta)
        if reference is None:
            values = _without_outliers(values, meta)
            values = _without_padding(values, meta) if self.fill_padding else values
            means, stds = _statistics(values, meta if self.fill_padding else {})
        else:
            means, stds = (np.asarray(reference[key], dtype=np.float64) for key in ("intensity_mean", "intensity_std"))
        if len(means) != len(values):
            raise ValueError(
                f"image must have the {len(means)} channels of its reference, got {len(values)}{where(name)}. "
                "Pair images of the same grid."
            )
        if reference is not None and self.fill_padding:
            values = _without_padding(values, reference)
        for channel, voxels in enumerate(values):
            parts = _parts(voxels)
            for part, out_part in zip(parts, _parts(standard[channel])):
                out_part.copy_((part.double() - means[channel]) / (stds[channel] or 1.0))
        out = MetaTensor(standard, meta=meta)
        out.meta["intensity_mean"], out.meta["intensity_std"] = means, stds
        return out


class RestoreIntensity(Transform):
    """Undo :py:class:`StandardizeIntensity` on a prediction.

    Args:
        keep_mean: give every channel the mean of the original. Noise2Void assumes noise of zero mean ([1]_, Eq. 4-5),
            so image and noisy image share their mean, which many voxels tell far better than a network, whose batch
            norms are estimated on few patches and leave an offset.

    References:
        .. [1] Krull et al., "Noise2Void - Learning Denoising from Single Noisy Images", CVPR 2019.
    """

    backend = [TransformBackends.TORCH]

    def __init__(self, keep_mean: bool = True) -> None:
        self.keep_mean = keep_mean

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
        prediction = img if isinstance(img, torch.Tensor) else torch.as_tensor(img)
        restored = torch.empty(prediction.shape, dtype=torch.float32, device=prediction.device)
        means, stds = (np.asarray(meta[name], dtype=np.float64) for name in ("intensity_mean", "intensity_std"))
        for channel, voxels in enumerate(prediction):
            parts = _parts(voxels)
            offset = sum(part.double().sum().item() for part in parts) / voxels.numel() if self.keep_mean else 0.0
            for part, out_part in zip(parts, _parts(restored[channel])):
                out_part.copy_((part.double() - offset) * stds[channel] + means[channel])
        return restored


class StandardizeIntensityd(MapTransform):
    """Dictionary version of :py:class:`StandardizeIntensity`.

    Args:
        keys: images to standardize.
        allow_missing_keys: whether absent keys are skipped.
        reference_key: one of ``keys``, whose statistics serve for all, so that a target keeps its relation to the
            image; by default each image has its own.
        fill_padding: see :py:class:`StandardizeIntensity`.

    Raises:
        ValueError: for a ``reference_key`` that is none of the keys.
    """

    backend = StandardizeIntensity.backend

    def __init__(
        self,
        keys: KeysCollection,
        allow_missing_keys: bool = False,
        reference_key: Hashable | None = None,
        fill_padding: bool = True,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if reference_key is not None and reference_key not in self.keys:
            raise ValueError(f"reference_key must be one of {self.keys}, got {reference_key!r}. Name the noisy image.")
        self.reference_key = reference_key
        self.standardize = StandardizeIntensity(fill_padding)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Standardize ``data[key]``; returns a new dictionary."""
        d = dict(data)
        reference = None
        if self.reference_key is not None:
            d[self.reference_key] = self.standardize(d[self.reference_key])
            reference = d[self.reference_key].meta
        for key in self.key_iterator(d):
            if self.reference_key is None or key != self.reference_key:
                d[key] = self.standardize(d[key], reference)
        return d


class RestoreIntensityd(MapTransform):
    """Dictionary version of :py:class:`RestoreIntensity`.

    Args:
        keys: predictions to restore.
        source_key: the standardized image whose metadata holds the statistics, one for all keys or one per key.
        keep_mean: see :py:class:`RestoreIntensity`.
        allow_missing_keys: whether absent keys are skipped.

    Raises:
        ValueError: on restoring, for a prediction that is not finite.
    """

    backend = RestoreIntensity.backend

    def __init__(
        self,
        keys: KeysCollection,
        source_key: KeysCollection = "image",
        keep_mean: bool = True,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.source_keys = ensure_tuple_rep(source_key, len(self.keys))
        self.restore = RestoreIntensity(keep_mean)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Restore ``data[key]``; returns a new dictionary."""
        d = dict(data)
        for key, source_key in self.key_iterator(d, self.source_keys):
            d[key] = self.restore(d[key], d[source_key].meta)
            if _n_not_finite(d[key]):
                name = d[source_key].meta.get("filename_or_obj") or ""
                raise ValueError(
                    f"prediction must be finite, got NaN or infinite voxels{where(name)}: the training diverged. "
                    "Try another seed."
                )
        return d


StandardizeIntensityD = StandardizeIntensityDict = StandardizeIntensityd
RestoreIntensityD = RestoreIntensityDict = RestoreIntensityd
