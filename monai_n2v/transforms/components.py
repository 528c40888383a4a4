# SPDX-License-Identifier: Apache-2.0
"""The volumes of a series as principal components: a few hold what the volumes share, the others mostly noise."""

import logging
import math
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import convert_to_tensor

from monai_n2v.noise.between_volumes import are_independent, measure_series, noise_of_volumes
from monai_n2v.noise.sentences import why_apart
from monai_n2v.transforms.padding import PADDING, padding_in

logger = logging.getLogger(__name__)

VOLUMES = ("auto", "together", "apart")
# Keys of the metadata: what makes volumes of components again, float64 ``(n_volumes, n_volumes)``, and the spreads that
# components were divided by, ``(n_volumes,)``: noise is as strong in all before.
COMPONENTS, SPREADS = "components", "component_spreads"
# What `measure_series` found, NaN for nothing; where it was asked.
SHARED = "noise_between_volumes"
# From this many volumes on a series is one to auto; fewer are channels, each with noise of its own kind.
_FEWEST = 6
_AT_A_TIME = 2**14  # voxels of a volume that are turned at a time
_ALIKE = 1.3  # noises that differ by less count as one strength
_LEAST = 1e-6  # of the largest spread: components below hold rounding alone


def check_volumes(volumes: Any) -> None:
    """Refuse what is no way to denoise a series.

    Raises:
        ValueError: for anything but one of `VOLUMES`.
    """
    if volumes not in VOLUMES:
        raise ValueError(f"volumes must be one of {', '.join(VOLUMES)}, got {volumes!r}. Leave it out for auto.")


class PrincipalComponentsd(MapTransform):
    """Turn the volumes of a series into principal components, which a network then denoises as it does volumes.

    The components are uncorrelated mixtures of the volumes, each divided by the strength of its noise first.
    So independent noise is equally strong in all components, but what the volumes share gathers in a few of them, far
    above the noise ([1]_; [2]_ transforms the volumes of a series before it filters them, too). Each component is then
    divided by its spread. Nothing is left out. :py:class:`RestoreVolumesd` goes back.

    Args:
        keys: images ``(n_volumes, *spatial)``, as `StandardizeIntensityd` leaves them.
        volumes: ``"auto"`` does so for 6 volumes and more whose noise is independent (see `measure_series`);
            ``"together"`` always, ``"apart"`` never.

    Raises:
        ValueError: for another value of ``volumes``.

    References:
        .. [1] Veraart et al., "Denoising of Diffusion MRI Using Random Matrix Theory", NeuroImage 2016.
        .. [2] Manjon et al., "Diffusion Weighted Image Denoising Using Overcomplete Local PCA", PLoS ONE 2013.
    """

    def __init__(self, keys: KeysCollection = "image", volumes: str = "auto") -> None:
        super().__init__(keys)
        check_volumes(volumes)
        self.volumes = volumes

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Turn ``data[key]``; returns a new dictionary."""
        d = dict(data)
        fewest = _FEWEST if self.volumes == "auto" else 2
        for key in self.key_iterator(d) if self.volumes != "apart" else ():
            image = d[key] if isinstance(d[key], MetaTensor) else MetaTensor(d[key])
            if len(image) < fewest:
                continue
            shared = measure_series(image.as_tensor().cpu().numpy())
            found = {**image.meta, SHARED: np.array(np.nan if shared is None else shared)}
            image = MetaTensor(image.as_tensor(), meta=found)
            d[key] = _to_components(image) if self.volumes == "together" or are_independent(shared) else image
        return d


class RestoreVolumesd(MapTransform):
    """Make volumes of the components of :py:class:`PrincipalComponentsd` again; the log says how a series was denoised.

    Args:
        keys: predictions ``(n_volumes, *spatial)``.
        source_key: the image, whose metadata says how; without that, predictions stay as they are.
    """

    def __init__(self, keys: KeysCollection = "pred", source_key: str = "image") -> None:
        super().__init__(keys)
        self.source_key = source_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Turn ``data[key]`` back; returns a new dictionary."""
        d = dict(data)
        source = d[self.source_key]
        back = source.meta.get(COMPONENTS) if isinstance(source, MetaTensor) else None
        _tell(source)
        for key in self.key_iterator(d) if back is not None else ():
            values = convert_to_tensor(d[key])
            d[key] = _mixed(values, np.asarray(back, dtype=np.float64).reshape(len(values), -1))
        return d


def _tell(image: torch.Tensor) -> None:
    if not isinstance(image, MetaTensor) or SHARED not in image.meta:
        return
    found = float(image.meta[SHARED])
    shared = None if np.isnan(found) else found
    if are_independent(shared):
        logger.info("The %d volumes were denoised together: their noise is independent.", len(image))
    elif are_components(image):
        logger.warning("The volumes were denoised together, but should not be: %s.", why_apart(shared))
    else:
        logger.info("The %d volumes were denoised apart: %s.", len(image), why_apart(shared))


def are_components(image: torch.Tensor) -> bool:
    """Whether an image's channels are components."""
    return isinstance(image, MetaTensor) and COMPONENTS in image.meta


def _to_components(image: MetaTensor) -> MetaTensor:
    voxels = image.as_tensor()
    # In units in which noise is equally strong in all volumes.
    weights = 1 / _noise_of(image)
    weights = weights / np.exp(np.log(weights).mean())
    measured = _measured(image)
    moments = np.zeros((len(voxels), len(voxels)))
    for part, counts in zip(_pieces(voxels.flatten(1)), _pieces(measured)):
        counted = part[:, counts[0]].double()
        moments += (counted @ counted.T).cpu().numpy()
    moments /= int(measured.sum())
    values, vectors = np.linalg.eigh(weights[:, None] * moments * weights)
    values, vectors = values[::-1], vectors[:, ::-1]
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(len(values))])
    spreads = np.sqrt(np.maximum(values, _LEAST**2 * values[0]))
    there = vectors.T * weights / spreads[:, None]
    back = vectors * spreads / weights[:, None]
    return MetaTensor(_mixed(voxels, there), meta={**image.meta, COMPONENTS: back, SPREADS: spreads})


def _noise_of(image: MetaTensor) -> np.ndarray:
    """How strong noise is in each standardized volume, to a common factor; one strength where none clearly differs."""
    stds = np.asarray(image.meta.get("intensity_std", np.ones(len(image))), dtype=np.float64)
    stds = np.where(stds > 0, stds, 1.0)
    strengths = noise_of_volumes(image.as_tensor().cpu().numpy())
    if strengths is None or not (strengths > 0).any():
        return 1 / stds
    relative = strengths * stds / np.median((strengths * stds)[strengths > 0])
    differs = (strengths > 0) & (np.abs(np.log(np.where(strengths > 0, relative, 1.0))) > math.log(_ALIKE))
    return np.where(differs, relative, 1.0) / stds


def _measured(image: MetaTensor) -> torch.Tensor:
    """Where no volume was padded, bool ``(1, n_voxels)``: what fills padding says nothing about the volumes."""
    shape = image.shape[1:]
    padded = np.zeros(shape, dtype=bool)
    for channel in range(len(image)) if PADDING in image.meta else ():
        padded |= padding_in(image.meta, channel, shape)
    measured = padded if padded.all() else ~padded
    return torch.from_numpy(measured.reshape(1, -1)).to(image.device)


def _mixed(volumes: torch.Tensor, matrix: np.ndarray) -> torch.Tensor:
    """Mixtures of volumes ``(n_volumes, *spatial)``, one per row of the matrix; float32."""
    mixed = torch.empty(volumes.shape, dtype=torch.float32, device=volumes.device)
    factors = torch.from_numpy(matrix).to(volumes.device, torch.float32)
    plain = volumes.as_tensor() if isinstance(volumes, MetaTensor) else volumes
    for part, out in zip(_pieces(plain.flatten(1)), _pieces(mixed.flatten(1))):
        torch.matmul(factors, part.float(), out=out)
    return mixed


def _pieces(flat: torch.Tensor) -> Iterator[torch.Tensor]:
    for start in range(0, flat.shape[1], _AT_A_TIME):
        yield flat[:, start : start + _AT_A_TIME]
