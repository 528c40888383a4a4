# SPDX-License-Identifier: Apache-2.0
"""Noise2Void masking and Noise2Noise swapping as MONAI transforms.

A training scheme is a pairing transform: it decides where network input and target come from. Noise2Void pairs a noisy
image with itself, seen through blind spots; Noise2Noise with a second noisy image, either of them in either role.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.config.type_definitions import NdarrayOrTensor
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import TransformBackends, convert_to_dst_type, ensure_tuple

from monai_n2v.transforms.blind_spots import FILLS, BlindSpots, apply_blind_spots, draw_blind_spots
from monai_n2v.transforms.footprints import check_footprint


class RandN2VMask(RandomizableTransform):
    """Hide random voxels behind values of their neighborhood, as Noise2Void trains ([1]_, Sec. 3.4).

    One blind spot is drawn per stratum of ``1 / mask_fraction`` voxels, so that they do not cluster; each is replaced
    by a value from the window around it, clipped to the image. Every other voxel stays bit-identical and the input is
    not changed.

    Apply it after all that interpolates or copies voxels (resampling, smoothing, padding): otherwise a blind spot's own
    noise is still seen in its neighbors.

    Args:
        mask_fraction: fraction of voxels to hide, in ``(0, 0.5]``; 64/4096 in [1]_.
        radius: half side of the window in voxels; 5 gives 11 x 11 or 11 x 11 x 11.
        fill: ``"uniform"``, any other voxel of the window, all equally likely ([1]_); ``"mean"`` or ``"median"`` of
            the window without its center (N2V2, [3]_).
        footprint: for noise correlated between voxels (structN2V, [2]_): an odd-sized 0/1 array with as many axes as
            the image has spatial axes, 1 at its center. All its voxels around a blind spot are replaced, by values
            from outside of it; the mask keeps the blind spot alone.
        batched: whether images come as ``(B, C, *spatial)`` rather than ``(C, *spatial)``.
        prob: probability that a call hides anything; drawn once per call. When not, the image is unchanged and the
            mask zero.

    Raises:
        ValueError: for a parameter outside its range.

    References:
        .. [1] Krull et al., "Noise2Void - Learning Denoising from Single Noisy Images", CVPR 2019.
        .. [2] Broaddus et al., "Removing Structured Noise with Self-Supervised Blind-Spot Networks", ISBI 2020.
        .. [3] Hoeck et al., "N2V2 - Fixing Noise2Void Checkerboard Artifacts", 2022.
    """

    backend = [TransformBackends.TORCH, TransformBackends.NUMPY]

    def __init__(
        self,
        mask_fraction: float = 64 / 4096,
        radius: int = 5,
        fill: str = "uniform",
        footprint: Any = None,
        batched: bool = False,
        prob: float = 1.0,
    ) -> None:
        RandomizableTransform.__init__(self, prob)
        if not 0 < mask_fraction <= 0.5:
            raise ValueError(
                f"mask_fraction must be in (0, 0.5], got {mask_fraction}. It is a fraction, not a percentage: 0.016."
            )
        if not isinstance(radius, (int, np.integer)) or radius < 1:
            raise ValueError(f"radius must be a whole number of voxels, at least 1, got {radius}. Use for example 5.")
        if fill not in FILLS:
            raise ValueError(f"fill must be one of {', '.join(FILLS)}, got {fill!r}. The paper uses uniform.")
        self.mask_fraction = float(mask_fraction)
        self.radius = int(radius)
        self.fill = fill
        self.footprint = check_footprint(footprint, self.radius)
        self.batched = batched
        self._spots: BlindSpots | None = None

    def randomize(self, data: tuple[int, ...]) -> None:  # type: ignore[override]
        """Draw the blind spots.

        Args:
            data: ``(n_images, *spatial)``, the shape of the batch without its channels.
        """
        super().randomize(None)
        self._spots = None
        if self._do_transform:
            self._spots = draw_blind_spots(
                data[1:], self.mask_fraction, self.radius, self.fill, self.footprint, self.R, data[0]
            )

    def __call__(self, img: NdarrayOrTensor, randomize: bool = True) -> tuple[NdarrayOrTensor, NdarrayOrTensor]:
        """Hide voxels.

        Args:
            img: ``(C, *spatial)``, or ``(B, C, *spatial)`` with ``batched``; 2D or 3D; numpy, tensor or MetaTensor,
                on any device.
            randomize: whether to draw anew; otherwise the previous draw is applied again.

        Returns:
            the masked image, and the mask of the same shape, 1 at blind spots, shared by the channels; both of the
            type, dtype and device of ``img``.

        Raises:
            ValueError: for an image that is neither 2D nor 3D.
        """
        images = _as_tensor(img) if self.batched else _as_tensor(img)[None]
        if images.ndim not in (4, 5):
            raise ValueError(
                f"img must be {'(B, C, ...)' if self.batched else '(C, ...)'} with 2 or 3 spatial axes, got shape "
                f"{tuple(img.shape)}. Add the channel axis, for example with EnsureChannelFirst."
            )
        shape = (images.shape[0], *images.shape[2:])
        if randomize:
            self.randomize(shape)
        if self._spots is None:
            masked, mask = images.clone(), torch.zeros_like(images)
        elif self._spots.shape != shape:
            raise ValueError(
                f"img must have the shape the blind spots were drawn for, {self._spots.shape} without channels, "
                f"got {shape}. Call with randomize=True."
            )
        else:
            masked, mask = apply_blind_spots(images, self._spots)
        if not self.batched:
            masked, mask = masked[0], mask[0]
        return _like(masked, img), _like(mask, img)


def _as_tensor(img: NdarrayOrTensor) -> torch.Tensor:
    if isinstance(img, MetaTensor):
        return img.as_tensor()
    if isinstance(img, torch.Tensor):
        return img
    return torch.from_numpy(np.ascontiguousarray(img, dtype=img.dtype.newbyteorder("=")))


def _like(values: torch.Tensor, img: NdarrayOrTensor) -> NdarrayOrTensor:
    if isinstance(img, torch.Tensor) and not isinstance(img, MetaTensor):
        return values  # the training path: nothing to convert
    return convert_to_dst_type(values, img, dtype=values.dtype)[0]


class RandN2VMaskd(RandomizableTransform, MapTransform):
    """Dictionary version of :py:class:`RandN2VMask`.

    ``d[key]`` becomes the masked image, ``d[label_key]`` the untouched original, ``d[mask_key]`` the mask. With
    several keys all share their blind spots and need one spatial shape; give as many ``label_key``.

    Args:
        keys: images to mask.
        label_key: where the original goes, one per key.
        mask_key: where the mask goes.
        mask_fraction: see :py:class:`RandN2VMask`.
        radius: see :py:class:`RandN2VMask`.
        fill: see :py:class:`RandN2VMask`.
        footprint: see :py:class:`RandN2VMask`.
        batched: see :py:class:`RandN2VMask`.
        prob: see :py:class:`RandN2VMask`.
        allow_missing_keys: whether absent keys are skipped.

    Raises:
        ValueError: for a parameter outside its range, or not one ``label_key`` per key.
    """

    backend = RandN2VMask.backend

    def __init__(
        self,
        keys: KeysCollection,
        label_key: KeysCollection = "label",
        mask_key: str = "mask",
        mask_fraction: float = 64 / 4096,
        radius: int = 5,
        fill: str = "uniform",
        footprint: Any = None,
        batched: bool = False,
        prob: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        self.label_keys = ensure_tuple(label_key)
        if len(self.label_keys) != len(self.keys):
            raise ValueError(
                f"label_key must have one name per key, got {len(self.label_keys)} for {len(self.keys)} keys. "
                "Name where the original of each key goes."
            )
        self.mask_key = mask_key
        self.masker = RandN2VMask(mask_fraction, radius, fill, footprint, batched, prob=1.0)

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> RandN2VMaskd:
        """Seed this transform and the array transform inside; see MONAI's ``Randomizable``."""
        super().set_random_state(seed, state)
        self.masker.set_random_state(state=self.R)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Hide voxels of ``data[key]``; returns a new dictionary."""
        d = dict(data)
        if self.first_key(d) == ():
            return d
        self.randomize(None)
        self.masker.prob = 1.0 if self._do_transform else 0.0
        draw = True
        for key, label_key in self.key_iterator(d, self.label_keys):
            d[label_key] = d[key]
            d[key], d[self.mask_key] = self.masker(d[key], randomize=draw)
            draw = False
        return d


class RandSwapPaird(RandomizableTransform, MapTransform):
    """Exchange two noisy images of one signal at random, so that each serves as input and as target (Noise2Noise).

    Args:
        keys: the two images, of one shape.
        batched: whether they come as ``(B, C, *spatial)``, drawn for every item of the batch, rather than one by one.
        prob: probability of an exchange.

    Raises:
        ValueError: for another number of keys than two, or images of different shapes.
    """

    backend = [TransformBackends.TORCH, TransformBackends.NUMPY]

    def __init__(self, keys: KeysCollection = ("image", "label"), batched: bool = False, prob: float = 0.5) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        if len(self.keys) != 2:
            raise ValueError(f"keys must name two images, got {len(self.keys)}. Use for example image and label.")
        if not 0 <= prob <= 1:
            raise ValueError(f"prob must be in [0, 1], got {prob}. Use 0.5.")
        self.batched = batched
        self._swapped = np.zeros(1, dtype=bool)

    def randomize(self, data: int = 1) -> None:
        """Draw which items are exchanged.

        Args:
            data: number of items.
        """
        self._swapped = self.R.random_sample(data) < self.prob

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Exchange ``data[keys[0]]`` and ``data[keys[1]]``, or parts of them; returns a new dictionary."""
        d = dict(data)
        first, second = (d[key] for key in self.key_iterator(d))
        if tuple(first.shape) != tuple(second.shape):
            raise ValueError(
                f"images must have one shape, got {tuple(first.shape)} and {tuple(second.shape)}. Use one grid."
            )
        self.randomize(first.shape[0] if self.batched else 1)
        if self.batched:
            a, b = _as_tensor(first), _as_tensor(second)
            swapped = torch.from_numpy(self._swapped).to(a.device).view(-1, *(1,) * (a.ndim - 1))
            d[self.keys[0]] = _like(torch.where(swapped, b, a), first)
            d[self.keys[1]] = _like(torch.where(swapped, a, b), second)
        elif self._swapped[0]:
            d[self.keys[0]], d[self.keys[1]] = second, first
        return d


RandN2VMaskD = RandN2VMaskDict = RandN2VMaskd
RandSwapPairD = RandSwapPairDict = RandSwapPaird
