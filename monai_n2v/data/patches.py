# SPDX-License-Identifier: Apache-2.0
"""Images held flat, and patches cut out of them: copies of views on a CPU, one gather elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.lib.stride_tricks import as_strided

from monai_n2v.transforms.blind_spots import on_device
from monai_n2v.transforms.symmetries import axis_orders

__all__ = ["CutRules", "HeldImage", "PatchStore", "check_whole_number", "hold_image"]


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


class CutRules(NamedTuple):
    """How patches are cut out of images; see `PatchLoader`."""

    patch_size: tuple[int, ...]
    key: str
    label_key: str | None
    in_channels: int
    divisor: int
    rotate: bool
    footprint: Any = None


class _Cut(NamedTuple):
    """Shape of one volume, and how patches may be cut from it."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    patch: tuple[int, ...]
    permutations: np.ndarray  # (n_permutations, n_patch_axes): axis of the volume that each patch axis runs along


class HeldImage(NamedTuple):
    """An image as it is held: one flat tensor ``(C, n_voxels)`` and its cut per volume."""

    flats: list[torch.Tensor]
    cuts: list[_Cut]

    @property
    def n_bytes(self) -> int:
        """Memory of the voxels."""
        return sum(flat.numel() * flat.element_size() for flat in self.flats)


class _Volume(NamedTuple):
    """A volume's place: in which store, from where on."""

    store: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    patch: tuple[int, ...]
    permutations: np.ndarray


def hold_image(item: dict[str, Any], rules: CutRules) -> HeldImage:
    """Flatten an image, with its label behind its channels where there is one.

    Args:
        item: a dictionary with tensors ``(C, *spatial)``.
        rules: how patches are cut.

    Raises:
        ValueError: where axes or channels do not fit the rules, or image and label differ in shape.
    """
    image = item[rules.key]
    parts = _split_channels(image, rules.in_channels, len(rules.patch_size))
    cuts = [_plan(part, image, rules) for part in parts]
    labels: list[torch.Tensor] = []
    if rules.label_key is not None:
        label = item[rules.label_key]
        if tuple(label.shape) != tuple(image.shape):
            raise ValueError(
                f"label must have the shape of its image, {tuple(image.shape)}{_name_of(image)}, got "
                f"{tuple(label.shape)}{_name_of(label)}. Pair images of the same grid."
            )
        labels = _split_channels(label, rules.in_channels, len(rules.patch_size))
    flats = []
    for k, part in enumerate(parts):
        both = torch.cat([part, labels[k]]) if labels else part
        flats.append(both.reshape(both.shape[0], -1).to(torch.float32).contiguous())
    return HeldImage(flats, cuts)


class PatchStore:
    """Volumes to cut patches from, in one flat store or in one per volume.

    Args:
        images: what is held; the order decides what a random draw means.
        device: where the voxels are to live.
        merge: whether to hold all in one store, cut by one gather; ``images`` is emptied on the way, so that beside
            the store no more than one image is held twice. Separate stores can be let go of one by one.

    Raises:
        ValueError: for no images.
    """

    def __init__(self, images: list[HeldImage], device: torch.device, merge: bool) -> None:
        if not images:
            raise ValueError("dataset must hold at least one image, got none. Check dataset_dir.")
        self.device = device
        self.stores: list[torch.Tensor] = []
        volumes: list[_Volume] = []
        if merge and sum(len(image.flats) for image in images) > 1:
            n_voxels = sum(flat.shape[1] for image in images for flat in image.flats)
            self.stores = [torch.empty(images[0].flats[0].shape[0], n_voxels, device=device)]
            offset = 0
            while images:
                image = images.pop(0)
                while image.flats:
                    flat = image.flats.pop(0)
                    self.stores[0][:, offset : offset + flat.shape[1]] = flat
                    volumes.append(_Volume(0, offset, *image.cuts.pop(0)))
                    offset += flat.shape[1]
        else:
            for image in images:
                for flat, cut in zip(image.flats, image.cuts):
                    volumes.append(_Volume(len(self.stores), 0, *cut))
                    self.stores.append(flat.to(device))
        self.groups: dict[tuple[int, ...], list[_Volume]] = {}
        for volume in volumes:
            self.groups.setdefault(volume.patch, []).append(volume)
        self.shares = _shares([sum(math.prod(volume.shape) for volume in group) for group in self.groups.values()])

    def draw(self, rng: np.random.RandomState, batch_size: int, flippable: Sequence[bool]) -> torch.Tensor:
        """Cut a batch of random patches ``(B, C, *patch)``, all of one size, flipped along the axes that permit it."""
        patch, group = list(self.groups.items())[rng.choice(len(self.groups), p=self.shares)]
        shares = _shares([math.prod(volume.shape) for volume in group])
        chosen = rng.choice(len(group), size=batch_size, p=shares)
        n_axes = len(patch)
        start = np.empty(batch_size, dtype=np.int64)
        steps = np.empty((batch_size, n_axes), dtype=np.int64)
        uniform = rng.random_sample((batch_size, n_axes + 2))
        flips = rng.randint(0, 2, (batch_size, n_axes)).astype(bool) & np.asarray(flippable)
        for row, volume in enumerate(group[i] for i in chosen):
            axes = volume.permutations[int(uniform[row, 0] * len(volume.permutations))]
            start[row] = volume.offset
            if len(volume.shape) > n_axes:
                start[row] += int(uniform[row, 1] * volume.shape[-1]) * volume.strides[-1]
            for axis in range(n_axes):
                along = axes[axis]
                stride = volume.strides[along]
                start[row] += int(uniform[row, 2 + axis] * (volume.shape[along] - patch[axis] + 1)) * stride
                if flips[row, axis]:
                    start[row] += (patch[axis] - 1) * stride
                    stride = -stride
                steps[row, axis] = stride
        cut = cut_views if self.device.type == "cpu" else cut_gathered
        return cut(self.stores, np.array([group[i].store for i in chosen]), start, steps, patch)


def cut_views(
    stores: Sequence[torch.Tensor], which: np.ndarray, start: np.ndarray, steps: np.ndarray, patch: tuple[int, ...]
) -> torch.Tensor:
    """Cut patches on a CPU: copies of strided views, which need no index of every voxel.

    Args:
        stores: flat voxels ``(C, n_voxels)`` each.
        which: int ``(B,)``, the store of every patch.
        start: int ``(B,)``, where in it the patch begins.
        steps: int ``(B, n_axes)``: voxel ``i`` of a patch lies at ``start + i @ steps``; negative where it is flipped.
        patch: shape of the patches.

    Returns:
        ``(B, C, *patch)``.
    """
    shape = (stores[0].shape[0], *patch)
    out = torch.empty(len(start), *shape)
    cut = out.numpy()
    for row, store in enumerate(which):
        flat = stores[store].numpy()
        strides = (flat.strides[0], *(steps[row] * flat.itemsize))
        cut[row] = as_strided(flat[:, start[row] :], shape, strides, writeable=False)
    return out


def cut_gathered(
    stores: Sequence[torch.Tensor], which: np.ndarray, start: np.ndarray, steps: np.ndarray, patch: tuple[int, ...]
) -> torch.Tensor:
    """Cut patches on a GPU, all of a store by one gather; see `cut_views`."""
    device = stores[0].device
    index = on_device(start, device).view(-1, *(1,) * len(patch))
    strides = on_device(steps, device)
    for axis, length in enumerate(patch):
        along = torch.arange(length, device=device) * strides[:, axis : axis + 1]
        index = index + along.view(-1, *(length if a == axis else 1 for a in range(len(patch))))
    if (which == which[0]).all():
        return _take(stores[which[0]], index)
    out = torch.empty(len(start), stores[0].shape[0], *patch, device=device)
    for store in np.unique(which):
        rows = on_device(np.flatnonzero(which == store), device)
        out[rows] = _take(stores[store], index[rows])
    return out


def _take(store: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    if store.shape[0] == 1:
        return store[0].take(index)[:, None]
    return store[:, index].movedim(0, 1).contiguous()


def _shares(sizes: Sequence[int]) -> np.ndarray:
    return np.asarray(sizes, dtype=np.float64) / sum(sizes)


def _split_channels(image: torch.Tensor, in_channels: int, n_axes: int) -> list[torch.Tensor]:
    """Views of an image that fit the network's channels: all channels at once, or each on its own."""
    tensor = image.as_tensor() if isinstance(image, MetaTensor) else torch.as_tensor(image)
    name = _name_of(image)
    if tensor.ndim - 1 not in (n_axes, n_axes + 1):
        raise ValueError(
            f"image must have {n_axes} or {n_axes + 1} spatial axes, got shape {tuple(tensor.shape[1:])}{name}. "
            "Use the 2D bundle for images and the 3D bundle for volumes."
        )
    if tensor.ndim - 1 == n_axes + 1 and n_axes == 3:
        raise ValueError(
            f"image must have 3 spatial axes, got shape {tuple(tensor.shape[1:])}{name}. "
            "Put further axes into the channels."
        )
    if tensor.shape[0] == in_channels:
        return [tensor]
    if in_channels == 1:
        return list(tensor.split(1))
    raise ValueError(
        f"image must have {in_channels} channels, got {tensor.shape[0]}{name}. Set in_channels to the image's."
    )


def _name_of(image: Any) -> str:
    name = image.meta.get("filename_or_obj") if isinstance(image, MetaTensor) else None
    return f" for {name}" if name else ""


def _plan(channels: torch.Tensor, image: torch.Tensor, rules: CutRules) -> _Cut:
    shape = tuple(channels.shape[1:])
    strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    n_axes = len(rules.patch_size)
    patch = tuple(_fit(side, size, rules.divisor) for side, size in zip(rules.patch_size, shape))
    spacing = image.pixdim.tolist() if isinstance(image, MetaTensor) else [1.0] * n_axes
    orders = np.arange(n_axes)[None]
    if rules.rotate:
        orders = axis_orders(n_axes, [*spacing, *[1.0] * n_axes][:n_axes], patch, rules.footprint)
    return _Cut(shape, strides, patch, orders)


def _fit(side: int, size: int, divisor: int) -> int:
    """The patch side for an axis of ``size`` voxels."""
    if size >= side:
        return int(side)
    return size // divisor * divisor if size >= divisor else size
