# SPDX-License-Identifier: Apache-2.0
"""Which axis of a volume a 2D network is led along: the shortest, which is brought to the end and back."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.data import MetaTensor
from monai.transforms import MapTransform

# Below this many voxels an axis holds too little context for a 3D network: such volumes are denoised slice by slice.
MIN_DEPTH = 8


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


def slice_axis(shape: Sequence[int], spatial_dims: int) -> int:
    """The axis across which a network cuts slices: the shortest, of equally short ones the last.

    Args:
        shape: spatial shape in voxels.
        spatial_dims: axes of the network.

    Returns:
        an index; the last axis where the network has as many axes as the image.
    """
    n_axes = len(shape)
    return n_axes - 1 if spatial_dims >= n_axes else n_axes - 1 - int(np.argmin(shape[::-1]))


class ShortestAxisLastd(MapTransform):
    """Bring the shortest axis of a volume to the end, where a 2D network passes over it slice by slice.

    Images of as many axes as the network has stay as they are. The metadata's ``slice_axis`` remembers the axis;
    `RestoreAxesd` brings it back. The affine follows.

    Args:
        keys: images ``(C, *spatial)``.
        spatial_dims: axes of the network.
    """

    def __init__(self, keys: Any = "image", spatial_dims: int = 3) -> None:
        super().__init__(keys)
        self.spatial_dims = spatial_dims

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Turn ``data[key]``; returns a new dictionary with views."""
        d = dict(data)
        for key in self.key_iterator(d):
            image = d[key] if isinstance(d[key], MetaTensor) else MetaTensor(d[key])
            n_axes = image.ndim - 1
            axis = slice_axis(image.shape[1:], self.spatial_dims)
            order = [*(i for i in range(n_axes) if i != axis), axis, *range(n_axes, image.affine.shape[-1])]
            meta = {**image.meta, "affine": image.affine[:, order], "slice_axis": axis}
            d[key] = MetaTensor(image.as_tensor().movedim(1 + axis, -1), meta=meta)
        return d


class RestoreAxesd(MapTransform):
    """Undo `ShortestAxisLastd` on predictions.

    Args:
        keys: predictions ``(C, *spatial)``.
        source_key: the turned image, whose metadata remembers the axis.
    """

    def __init__(self, keys: Any = "pred", source_key: str = "image") -> None:
        super().__init__(keys)
        self.source_key = source_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Turn ``data[key]`` back; returns a new dictionary with views."""
        d = dict(data)
        axis = int(d[self.source_key].meta["slice_axis"])
        for key in self.key_iterator(d):
            d[key] = d[key].movedim(-1, 1 + axis)
        return d
