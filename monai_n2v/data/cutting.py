# SPDX-License-Identifier: Apache-2.0
"""Patches cut out of flat volumes: copies of views on a CPU, one gather elsewhere."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.lib.stride_tricks import as_strided

from monai_n2v.transforms.blind_spots import on_device


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
