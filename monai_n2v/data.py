# SPDX-License-Identifier: Apache-2.0
"""Batches of patches, cut out of the images to train on."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Randomizable

__all__ = ["PatchLoader"]

logger = logging.getLogger(__name__)


class _Volume(NamedTuple):
    """Where one volume lies in the flat store, and how patches may be cut from it."""

    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    patch: tuple[int, ...]
    permutations: np.ndarray  # (n_permutations, n_patch_axes): axis of the volume that each patch axis runs along


class PatchLoader:
    """Batches of random, randomly oriented patches, cut from volumes that stay on the training device.

    The volumes are stored flat; a whole batch is cropped, flipped and rotated by one gather, and the transform then
    masks it there. No patch becomes an object of its own. Per sample, MONAI's ``RandSpatialCropSamplesd``,
    ``RandFlipd`` and `RandN2VMaskd` in a ``DataLoader`` do the same, more slowly.

    Randomness depends on ``(seed, rank, epoch)`` alone; within an epoch batches follow from it in order. So a resumed
    epoch repeats exactly, once `set_epoch` has told it which one it is.

    Volumes are chosen with probability proportional to their size. A volume thinner than the patch is cut with a
    smaller patch, said once in the log; batches never mix patch sizes. Rotations by 90 degrees exchange only axes of
    equal spacing (to 1 %) and equal patch length. With one spatial axis more than the patch has, a volume is cut slice
    by slice along its last axis. With a single network channel, each channel of an image counts as a volume of its own.

    Args:
        dataset: a sequence of dictionaries with a tensor ``(C, *spatial)`` each, standardized; read once.
        patch_size: in voxels, one side per axis of the network.
        batch_size: patches per batch.
        epoch_length: batches per epoch.
        transform: applied to ``{key: patches}`` of a whole batch, `RandN2VMaskd` with ``batched=True`` for Noise2Void;
            its ``set_random_state`` is called every epoch.
        key: the image's name in the dictionaries.
        in_channels: channels of the network.
        divisor: patch sides cut down to a volume's are rounded to a multiple of it where that fits, since the network
            would pad them up anyway.
        augment: whether to flip and rotate.
        rotate: whether to rotate; without, only flips, as a directional footprint needs.
        device: where volumes and batches live.
        seed: with rank and epoch, the source of all randomness.
        rank: of this process, so that processes draw different patches.
        fixed: draw one epoch now and yield the same batches ever after, for validation; the volumes are let go.

    Raises:
        ValueError: where an image's axes or channels do not fit patch size and ``in_channels``.
    """

    def __init__(
        self,
        dataset: Sequence[dict[str, Any]],
        patch_size: Sequence[int],
        batch_size: int,
        epoch_length: int,
        transform: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] | None = None,
        key: str = "image",
        in_channels: int = 1,
        divisor: int = 1,
        augment: bool = True,
        rotate: bool = True,
        device: torch.device | str = "cpu",
        seed: int = 0,
        rank: int = 0,
        fixed: bool = False,
    ) -> None:
        for name, value in {
            "batch_size": batch_size,
            "epoch_length": epoch_length,
            "patch_size": min(patch_size),
        }.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}. Use a positive whole number.")
        self.batch_size = int(batch_size)
        self.epoch_length = int(epoch_length)
        self.transform = transform
        self.key = key
        self.augment = augment
        self.device = torch.device(device)
        self.seed = seed
        self.rank = rank
        self.epoch = 0

        self._fixed: list[dict[str, torch.Tensor]] | None = None
        stores: list[torch.Tensor] = []
        volumes: list[_Volume] = []
        offset = 0
        for item in dataset:
            image = item[key]
            for channels in _split_channels(image, in_channels, len(patch_size)):
                volumes.append(_plan(channels, image, offset, patch_size, divisor, augment and rotate))
                stores.append(channels.reshape(channels.shape[0], -1).to(self.device, torch.float32))
                offset += stores[-1].shape[1]
        if not volumes:
            raise ValueError("dataset must hold at least one image, got none. Check dataset_dir.")
        self._store = torch.cat(stores, dim=1) if len(stores) > 1 else stores[0]
        del stores
        self._groups = _group_by_patch(volumes)
        self._shares = _shares([sum(math.prod(volume.shape) for volume in group) for group in self._groups.values()])
        for patch, group in self._groups.items():
            if patch != tuple(patch_size):
                logger.info(
                    "%d volume(s) thinner than the patch %s: cut with %s.", len(group), tuple(patch_size), patch
                )
        if fixed:
            self._fixed = list(self)
            del self._store

    def __len__(self) -> int:
        """Batches per epoch."""
        return self.epoch_length

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, counted from 1 as Ignite does, whose batches the next iteration yields."""
        self.epoch = int(epoch)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """Yield the batches of the current epoch, ``{key: (B, C, *patch)}`` after the transform."""
        if self._fixed is not None:
            yield from self._fixed
            return
        rng = np.random.RandomState(np.random.SeedSequence([self.seed, self.rank, self.epoch]).generate_state(8))
        if isinstance(self.transform, Randomizable):
            self.transform.set_random_state(state=rng)
        for _ in range(self.epoch_length):
            batch = {self.key: self._draw_patches(rng)}
            yield batch if self.transform is None else self.transform(batch)

    def _draw_patches(self, rng: np.random.RandomState) -> torch.Tensor:
        patch, group = list(self._groups.items())[rng.choice(len(self._groups), p=self._shares)]
        shares = _shares([math.prod(volume.shape) for volume in group])
        chosen = rng.choice(len(group), size=self.batch_size, p=shares)
        n_axes = len(patch)
        start = np.empty(self.batch_size, dtype=np.int64)
        steps = np.empty((self.batch_size, n_axes), dtype=np.int64)
        uniform = rng.random_sample((self.batch_size, n_axes + 2))
        flips = rng.randint(0, 2, (self.batch_size, n_axes)).astype(bool) & self.augment
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
        return self._gather(start, steps, patch)

    def _gather(self, start: np.ndarray, steps: np.ndarray, patch: tuple[int, ...]) -> torch.Tensor:
        """Cut all patches at once: voxel ``i`` of a patch lies at ``start + i @ steps`` of the flat store."""
        index = torch.from_numpy(start).to(self.device).view(-1, *(1,) * len(patch))
        strides = torch.from_numpy(steps).to(self.device)
        for axis, length in enumerate(patch):
            along = torch.arange(length, device=self.device) * strides[:, axis : axis + 1]
            index = index + along.view(-1, *(length if a == axis else 1 for a in range(len(patch))))
        if self._store.shape[0] == 1:
            return self._store[0].take(index)[:, None]
        return self._store[:, index].movedim(0, 1).contiguous()


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


def _plan(
    channels: torch.Tensor, image: torch.Tensor, offset: int, patch_size: Sequence[int], divisor: int, rotate: bool
) -> _Volume:
    shape = tuple(channels.shape[1:])
    strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    n_axes = len(patch_size)
    patch = tuple(_fit(side, size, divisor) for side, size in zip(patch_size, shape))
    spacing = image.pixdim.tolist() if isinstance(image, MetaTensor) else [1.0] * n_axes
    spacing = [*spacing, *[1.0] * n_axes][:n_axes]
    identity = np.arange(n_axes)
    permutations = [identity]
    if rotate:
        permutations = [
            order
            for order in np.array(np.meshgrid(*[identity] * n_axes)).reshape(n_axes, -1).T
            if len(set(order)) == n_axes
            and all(
                patch[a] == patch[b] and math.isclose(spacing[a], spacing[b], rel_tol=0.01) for a, b in enumerate(order)
            )
        ]
    return _Volume(offset, shape, strides, patch, np.array(permutations))


def _fit(side: int, size: int, divisor: int) -> int:
    """The patch side for an axis of ``size`` voxels."""
    if size >= side:
        return int(side)
    return size // divisor * divisor if size >= divisor else size


def _group_by_patch(volumes: Sequence[_Volume]) -> dict[tuple[int, ...], list[_Volume]]:
    groups: dict[tuple[int, ...], list[_Volume]] = {}
    for volume in volumes:
        groups.setdefault(volume.patch, []).append(volume)
    return groups
