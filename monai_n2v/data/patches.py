# SPDX-License-Identifier: Apache-2.0
"""Images held flat, and where patches are cut out of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.data import MetaTensor

from monai_n2v.data.cutting import cut_gathered, cut_views
from monai_n2v.transforms.symmetries import axis_orders, flippable_axes


def check_whole_number(name: str, value: Any, least: int) -> int:
    """Refuse what is no whole number or too small.

    Args:
        name: of the argument, for the message.
        value: a Python or NumPy number.
        least: that is permitted.

    Raises:
        ValueError: for anything else.
    """
    if not isinstance(value, Integral) or int(value) < least:
        raise ValueError(f"{name} must be a whole number from {least}, got {value!r}. Pass one such as {least + 1}.")
    return int(value)


class _Volume(NamedTuple):
    """Shape of a volume, and how patches may be cut from it."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    patch: tuple[int, ...]
    orders: np.ndarray  # (n_orders, n_patch_axes): axis of the volume that each patch axis runs along


class HeldImage(NamedTuple):
    """An image as it is held: the voxels ``(n_volumes, C, n_voxels)`` of its volumes, all of one kind."""

    voxels: torch.Tensor
    volume: _Volume

    @property
    def n_bytes(self) -> int:
        """Memory of the voxels."""
        return self.voxels.numel() * self.voxels.element_size()


@dataclass
class PatchCut:
    """How patches are cut out of images.

    A volume thinner than the patch is cut with a smaller patch. Rotations by 90 degrees exchange only axes of equal
    spacing (to 1 %) and equal patch length. With one spatial axis more than the patch has, a volume is cut slice by
    slice along its last axis.

    Attributes:
        patch_size: in voxels, one side per axis of the network.
        key: the image's name in the dictionaries of a dataset.
        label_key: the name of the target, of the image's shape and cut at the same place; None where a pairing
            transform makes the target.
        in_channels: channels of the network. With one, each channel of an image counts as a volume of its own.
        divisor: patch sides cut down to a volume's are rounded to a multiple of it where that fits, since the network
            would pad them up anyway.
        augment: whether to flip and rotate.
        rotate: whether to rotate; without, only flips.
        footprint: structN2V, as the pairing transform hides it: only flips and rotations that leave it unchanged are
            drawn.

    Raises:
        ValueError: for a patch size that is no whole number.
    """

    patch_size: Sequence[int]
    key: str = "image"
    label_key: str | None = None
    in_channels: int = 1
    divisor: int = 1
    augment: bool = True
    rotate: bool = True
    footprint: Any = None

    def __post_init__(self) -> None:
        self.patch_size = tuple(check_whole_number("patch_size", side, 1) for side in self.patch_size)

    def flippable(self) -> tuple[bool, ...]:
        """For each axis of a patch whether it may be flipped."""
        return tuple(free and self.augment for free in flippable_axes(self.footprint, len(self.patch_size)))

    def hold(self, item: dict[str, Any]) -> HeldImage:
        """Flatten an image, with its label behind its channels where there is one.

        Args:
            item: a dictionary with tensors ``(C, *spatial)``.

        Raises:
            ValueError: where axes or channels do not fit, or image and label differ in shape.
        """
        image = item[self.key]
        voxels = self._volumes_of(image)
        volume = self._plan(tuple(voxels.shape[2:]), image)
        if self.label_key is not None:
            label = item[self.label_key]
            if tuple(label.shape) != tuple(image.shape):
                raise ValueError(
                    f"label must have the shape of its image, {tuple(image.shape)}{_name_of(image)}, got "
                    f"{tuple(label.shape)}{_name_of(label)}. Pair images of the same grid."
                )
            voxels = torch.cat([voxels, self._volumes_of(label)], dim=1)
        return HeldImage(voxels.flatten(2).to(torch.float32).contiguous(), volume)

    def _volumes_of(self, image: torch.Tensor) -> torch.Tensor:
        """View an image as ``(n_volumes, in_channels, *spatial)``: all channels at once, or each on its own."""
        tensor = image.as_tensor() if isinstance(image, MetaTensor) else torch.as_tensor(image)
        n_axes = len(self.patch_size)
        fitting = (n_axes,) if n_axes == 3 else (n_axes, n_axes + 1)
        if tensor.ndim - 1 not in fitting:
            raise ValueError(
                f"image must have {' or '.join(map(str, fitting))} spatial axes, got shape {tuple(tensor.shape[1:])}"
                f"{_name_of(image)}. Use the 2D bundle for images, the 3D one for volumes; further axes are channels."
            )
        if tensor.shape[0] == self.in_channels:
            return tensor[None]
        if self.in_channels == 1:
            return tensor[:, None]
        raise ValueError(
            f"image must have {self.in_channels} channels, got {tensor.shape[0]}{_name_of(image)}. "
            "Set in_channels to the image's."
        )

    def _plan(self, shape: tuple[int, ...], image: torch.Tensor) -> _Volume:
        strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        n_axes = len(self.patch_size)
        patch = tuple(self._fit(side, size) for side, size in zip(self.patch_size, shape))
        spacing = image.pixdim.tolist() if isinstance(image, MetaTensor) else []
        orders = np.arange(n_axes)[None]
        if self.augment and self.rotate:
            orders = axis_orders(n_axes, [*spacing, *[1.0] * n_axes], patch, self.footprint)
        return _Volume(shape, strides, patch, orders)

    def _fit(self, side: int, size: int) -> int:
        """The patch side for an axis of ``size`` voxels."""
        return side if size >= side else size // self.divisor * self.divisor or size


def _name_of(image: Any) -> str:
    name = image.meta.get("filename_or_obj") if isinstance(image, MetaTensor) else None
    return f" for {name}" if name else ""


class _Place(NamedTuple):
    """A volume in the stores: number of its store, and offset in it."""

    store: int
    offset: int
    volume: _Volume


class PatchStore:
    """Volumes to cut patches from, in one flat store or in one per volume.

    Args:
        images: what is held; the order decides what a random draw means. The list is emptied on the way, so that
            beside the store no more than one image is held twice.
        device: where the voxels are to live.
        merge: whether to hold all in one store, cut by one gather. Separate stores can be let go of one by one.

    Attributes:
        groups: for each size of a patch the volumes cut with it.

    Raises:
        ValueError: for no images.
    """

    def __init__(self, images: list[HeldImage], device: torch.device, merge: bool) -> None:
        if not images:
            raise ValueError("dataset must hold at least one image, got none. Check dataset_dir.")
        self.device = device
        self.stores: list[torch.Tensor] = []
        self.groups: dict[tuple[int, ...], list[_Place]] = {}
        merge = merge and sum(len(image.voxels) for image in images) > 1
        if merge:
            n_voxels = sum(image.voxels[:, 0].numel() for image in images)
            self.stores.append(torch.empty(images[0].voxels.shape[1], n_voxels, device=device))
        offset = 0
        while images:
            voxels, volume = images.pop(0)
            n_volumes, _, size = voxels.shape
            first = len(self.stores)
            places = [(0, offset + n * size) if merge else (first + n, 0) for n in range(n_volumes)]
            for flat, (store, start) in zip(voxels, places):
                self.groups.setdefault(volume.patch, []).append(_Place(store, start, volume))
                if merge:
                    self.stores[0][:, start : start + size] = flat
                else:
                    self.stores.append(flat.to(device))
            offset += n_volumes * size
        sizes = {patch: [math.prod(place.volume.shape) for place in group] for patch, group in self.groups.items()}
        self._shares = {patch: _shares(of_group) for patch, of_group in sizes.items()}
        self._shares_of_groups = _shares([sum(of_group) for of_group in sizes.values()])

    def draw(self, rng: np.random.RandomState, batch_size: int, flippable: Sequence[bool]) -> torch.Tensor:
        """Cut a batch of random patches, all of one size, flipped along the axes that permit it.

        Returns:
            patches ``(B, C, *patch)``.
        """
        patch, group = list(self.groups.items())[rng.choice(len(self.groups), p=self._shares_of_groups)]
        chosen = [group[i] for i in rng.choice(len(group), size=batch_size, p=self._shares[patch])]
        n_axes = len(patch)
        start = np.empty(batch_size, dtype=np.int64)
        steps = np.empty((batch_size, n_axes), dtype=np.int64)
        uniform = rng.random_sample((batch_size, n_axes + 2))
        flips = rng.randint(0, 2, (batch_size, n_axes)).astype(bool) & np.asarray(flippable)
        for row, (_, offset, volume) in enumerate(chosen):
            start[row] = offset
            if len(volume.shape) > n_axes:
                start[row] += int(uniform[row, 1] * volume.shape[-1]) * volume.strides[-1]
            for axis, along in enumerate(volume.orders[int(uniform[row, 0] * len(volume.orders))]):
                stride = volume.strides[along]
                start[row] += int(uniform[row, 2 + axis] * (volume.shape[along] - patch[axis] + 1)) * stride
                if flips[row, axis]:
                    start[row] += (patch[axis] - 1) * stride
                    stride = -stride
                steps[row, axis] = stride
        cut = cut_views if self.device.type == "cpu" else cut_gathered
        return cut(self.stores, np.array([place.store for place in chosen]), start, steps, patch)


def _shares(sizes: Sequence[int]) -> np.ndarray:
    return np.asarray(sizes, dtype=np.float64) / sum(sizes)
