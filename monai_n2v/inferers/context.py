# SPDX-License-Identifier: Apache-2.0
"""Prediction of series whose volumes a network sees beside their nearest ones."""

from collections.abc import Callable
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer

from monai_n2v.transforms.series import NEAREST


class ContextInferer(Inferer):
    """Predict each volume of a series once, from itself and its nearest others.

    The image's metadata names them (see `NearestVolumesd`); an image without goes to the inferer as it is. Memory:
    beside input and result, one volume with its context.

    Args:
        inferer: predicts ``(B, 1 + context, *spatial)``, the volume itself first.
    """

    def __init__(self, inferer: Inferer) -> None:
        self.inferer = inferer

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Predict.

        Args:
            inputs: ``(B, n_volumes, *spatial)``; of one image where it has context.
            network: as the inferer takes it.
            args: further arguments of the network.
            kwargs: further keyword arguments of the network.

        Returns:
            ``(B, n * n_volumes, *spatial)`` where the inferer returns n channels for a volume: the first of all
            volumes, then the second of all.
        """
        nearest = inputs.meta.get(NEAREST) if isinstance(inputs, MetaTensor) else None
        if nearest is None or not isinstance(inputs, MetaTensor):
            return self.inferer(inputs, network, *args, **kwargs)
        images, n_volumes = inputs.as_tensor(), inputs.shape[1]
        table = torch.as_tensor(nearest).reshape(n_volumes, -1).tolist()
        name = inputs.meta.get("filename_or_obj", "")
        output: torch.Tensor | None = None
        for number, others in enumerate(table):
            beside = MetaTensor(images[:, [number, *others]], affine=inputs.affine, meta={"filename_or_obj": name})
            predicted = self.inferer(beside, network, *args, **kwargs)
            if output is None:
                output = predicted.new_empty((*predicted.shape[:2], n_volumes, *predicted.shape[2:]))
            output[:, :, number] = predicted.as_tensor() if isinstance(predicted, MetaTensor) else predicted
        assert output is not None
        return output.flatten(1, 2)
