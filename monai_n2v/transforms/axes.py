# SPDX-License-Identifier: Apache-2.0
"""Volumes of one image, in memory or read when needed, as a network is to learn from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from monai.data import MetaTensor

from monai_n2v.bundle.run import as_image

__all__ = ["MIN_DEPTH", "LazyStack", "Stack", "choose_dims", "last_axis", "to_image"]

# Below this many voxels an axis holds too little context for a 3D network: such volumes are denoised slice by slice.
MIN_DEPTH = 8


@dataclass(frozen=True)
class Stack:
    """Volumes of one image, as a network is to learn from them.

    Attributes:
        volumes: ``(n_volumes, *spatial)`` with 2 or 3 spatial axes.
        spacing: voxel sides in mm, one per spatial axis.
        name: for messages.
    """

    volumes: np.ndarray
    spacing: tuple[float, ...]
    name: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the volumes."""
        return self.volumes.shape

    @property
    def statistics(self) -> tuple[float, float]:
        """Mean and standard deviation of all voxels."""
        return float(self.volumes.mean(dtype=np.float64)), float(self.volumes.std(dtype=np.float64))

    def let_go(self, read: Callable[[], np.ndarray]) -> LazyStack:
        """The same volumes, to be read again when needed."""
        return LazyStack(read, self.shape, self.statistics, self.spacing, self.name)


@dataclass(frozen=True)
class LazyStack:
    """A `Stack` whose volumes are read whenever they are asked for, since all together exceed memory.

    Attributes:
        read: gives the volumes.
        shape: of the volumes.
        statistics: mean and standard deviation of all voxels.
        spacing: as of a `Stack`.
        name: for messages.
    """

    read: Callable[[], np.ndarray]
    shape: tuple[int, ...]
    statistics: tuple[float, float]
    spacing: tuple[float, ...]
    name: str = ""

    @property
    def volumes(self) -> np.ndarray:
        """The volumes, read now."""
        return self.read()


def choose_dims(shapes: Sequence[tuple[int, ...]], asked: int | None = None) -> int:
    """Choose between a network for images and one for volumes.

    Args:
        shapes: spatial shapes of all images, in voxels.
        asked: what the user wants.

    Returns:
        3 where all are volumes of at least 8 voxels along every axis, otherwise 2.

    Raises:
        ValueError: where 3 is asked for images.
    """
    n_axes = min(len(shape) for shape in shapes)
    if asked is not None and asked > n_axes:
        raise ValueError(f"spatial_dims must be at most the image's {n_axes} axes, got {asked}. Use 2.")
    return asked or (3 if n_axes == 3 and min(min(shape) for shape in shapes) >= MIN_DEPTH else 2)


def to_image(stack: Stack | LazyStack, spatial_dims: int) -> tuple[MetaTensor, int]:
    """Turn volumes so that the axis a 2D network passes over, the shortest, is the last, as the bundles want it.

    Args:
        stack: the volumes.
        spatial_dims: axes of the network.

    Returns:
        float32 ``(n_volumes, *spatial)``, and the axis of ``stack.volumes`` that is now last.
    """
    axis = last_axis(stack.shape, spatial_dims)
    sides = list(stack.spacing)
    sides.append(sides.pop(axis - 1))
    return as_image(np.ascontiguousarray(np.moveaxis(stack.volumes, axis, -1), dtype=np.float32), sides), axis


def last_axis(shape: Sequence[int], spatial_dims: int) -> int:
    """The axis of volumes of this shape, ``(n_volumes, *spatial)``, that `to_image` puts last."""
    n_axes = len(shape) - 1
    # Of equally short axes the last.
    return n_axes if spatial_dims == n_axes else n_axes - int(np.argmin(shape[:0:-1]))
