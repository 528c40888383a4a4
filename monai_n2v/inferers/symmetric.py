# SPDX-License-Identifier: Apache-2.0
"""Test-time averaging: the mean of a network's predictions of an image mirrored and turned."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.inferers import Inferer

from monai_n2v.transforms.symmetries import flippable_axes, list_symmetries


class SymmetricInferer(Inferer):
    """Average another inferer's predictions over the symmetries of an image (test-time augmentation, TTA).

    Every permitted flip and exchange of axes is applied to the image, predicted, undone and averaged: 8 predictions in
    2D; in 3D 16 where two axes have equal spacing, otherwise 8; fewer under a directional footprint (see
    `list_symmetries`). What the network treats differently in these directions averages out: the result flips and turns
    with the image, for the symmetries averaged over. In isotropic 3D these are 16 of the 48, all flips and the exchange
    of the first two axes; under the others the result may change.

    The spacing is that of a MetaTensor; a plain tensor's voxels count as equally long along all axes. With one spatial
    axis more than the network has, only the slices are turned, never the order of slices.

    Memory: input, one turned input, the sum, and one prediction.

    Args:
        inferer: predicts ``(B, C, *spatial)`` of any spatial size.
        spatial_dims: axes of the network, 2 or 3.
        enabled: whether to average; otherwise the result is the inferer's own.
        footprint: structN2V, the one the network was trained with: an odd-sided 0/1 array with ``spatial_dims`` axes,
            or None.

    Raises:
        ValueError: for a footprint of another number of axes, or ``enabled`` other than true or false.
    """

    def __init__(self, inferer: Inferer, spatial_dims: int, enabled: bool = True, footprint: object = None) -> None:
        flippable_axes(footprint, spatial_dims)
        if not isinstance(enabled, bool):  # the text "false", from a command line, would count as true
            raise ValueError(f"tta must be True or False, got {enabled!r}. Pass a boolean, not a text.")
        self.inferer = inferer
        self.spatial_dims = spatial_dims
        self.enabled = enabled
        self.footprint = footprint

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Predict.

        Args:
            inputs: ``(B, C, *spatial)``, on any device the inferer takes.
            network: as the inferer takes it, with one tensor as its result.
            args: further arguments of the network.
            kwargs: further keyword arguments of the network.

        Returns:
            ``(B, C_out, *spatial)``, averaged in float32 or the prediction's wider type; exactly what the inferer
            returns where averaging is not enabled.
        """
        if not self.enabled:
            return self.inferer(inputs, network, *args, **kwargs)
        symmetries = list_symmetries(self.spatial_dims, _spacings(inputs, self.spatial_dims), self.footprint)
        images = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        total: torch.Tensor | None = None
        for symmetry in symmetries:
            prediction = self.inferer(symmetry.apply(images), network, *args, **kwargs)
            if total is None:  # the identity comes first
                total = torch.zeros_like(prediction, dtype=torch.promote_types(prediction.dtype, torch.float32))
            symmetry.add_undone(total, prediction)
            del prediction  # before the next one is made
        assert total is not None
        return total.div_(len(symmetries))


def _spacings(inputs: torch.Tensor, n_axes: int) -> list[Sequence[float]]:
    """Voxel sides of every image of a batch; MONAI's loaders stack the affines, other code leaves a single one."""
    if not isinstance(inputs, MetaTensor):
        return [(1.0,) * n_axes]
    affines = inputs.affine.reshape(-1, *inputs.affine.shape[-2:])
    return [[*affine_to_spacing(affine).tolist(), 1.0, 1.0][:n_axes] for affine in affines.cpu()]
