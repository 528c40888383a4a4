# SPDX-License-Identifier: Apache-2.0
"""Prediction at blind spots, for networks that see every voxel otherwise."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.transforms import MapTransform

from monai_n2v.io.volume import where
from monai_n2v.transforms.pairing import RandN2VMask


class BlindSpotInferer(Inferer):
    """Predict images plainly, and once more at blind spots, whose own values the network does not see.

    The blind spots are the same for images of one shape, whenever and in whatever order they come. Channels beyond
    those that the network predicts are context and stay as they are. Memory: beside the result, a masked copy of the
    images, the mask and one prediction.

    Args:
        inferer: what predicts images of any size.
        spatial_dims: axes of the network; a volume for a 2D network is masked slice by slice, along its last axis.
        masker: hides voxels of batches, anew each time.
        n_masks: how often voxels are hidden, each time others; more tell the error more exactly.

    Raises:
        ValueError: for ``n_masks`` below 1, or a masker that does not take batches.
    """

    def __init__(self, inferer: Inferer, spatial_dims: int, masker: RandN2VMask, n_masks: int = 4) -> None:
        if n_masks < 1:
            raise ValueError(f"n_masks must be at least 1, got {n_masks}. Use for example 4.")
        if not masker.batched:
            raise ValueError("masker must take batches, got one for single images. Make it with batched=True.")
        self.inferer = inferer
        self.spatial_dims = spatial_dims
        self.masker = masker
        self.n_masks = n_masks

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Predict.

        Args:
            inputs: ``(B, C, *spatial)``.
            network: as the inferer takes it; it predicts all channels, or the first ones.
            args: further arguments of the network.
            kwargs: further keyword arguments of the network.

        Returns:
            ``(B, 2 * C, *spatial)``: plain predictions, then those at blind spots, nan elsewhere. See `SeparateBlindd`.

        Raises:
            ValueError: for a prediction that is not finite.
        """
        images: torch.Tensor = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs

        def predict(images: torch.Tensor) -> torch.Tensor:
            if isinstance(inputs, MetaTensor):  # averaging over symmetries asks for the voxel sides
                images = MetaTensor(images, affine=inputs.affine)
            predicted = self.inferer(images, network, *args, **kwargs)
            # Later a blind prediction of nan could not be told from a voxel that was not hidden.
            if not torch.isfinite(predicted).all():
                names = inputs.meta.get("filename_or_obj", "") if isinstance(inputs, MetaTensor) else ""
                raise ValueError(
                    "prediction must be finite, got NaN or infinite voxels"
                    f"{where(names if isinstance(names, str) else ', '.join(map(str, names)))}: the training diverged. "
                    "Try another seed."
                )
            return predicted.as_tensor() if isinstance(predicted, MetaTensor) else predicted

        plain = predict(images)
        n_channels = plain.shape[1]
        output: torch.Tensor = plain.new_full((len(plain), 2 * n_channels, *plain.shape[2:]), torch.nan)
        output[:, :n_channels] = plain
        del plain
        self.masker.set_random_state(0)
        for _ in range(self.n_masks):
            masked, spots = self._hide(images)
            masked[:, n_channels:] = images[:, n_channels:]
            spots = spots[:, :n_channels]
            output[:, n_channels:][spots] = predict(masked)[spots]
        return output

    def _hide(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if images.ndim - 2 == self.spatial_dims:
            masked, mask = map(torch.as_tensor, self.masker(images))
        else:
            slices = images.movedim(-1, 1)
            hidden = map(torch.as_tensor, self.masker(slices.flatten(0, 1)))
            masked, mask = (x.unflatten(0, slices.shape[:2]).movedim(1, -1) for x in hidden)
        return masked, mask.bool()


class SeparateBlindd(MapTransform):
    """Separate the plain prediction from that at blind spots, as `BlindSpotInferer` returns them.

    The blind prediction goes to ``d["blind"]``, moved by the mean of the plain one, as `RestoreIntensity` will move
    that. ``d["val_loss"]`` is the mean squared error at blind spots against ``d["image"]`` in standardized units, noise
    included: what a Noise2Void training validates by. Supervised and Noise2Noise trainings validate by another number,
    the error of every voxel against the target.

    Args:
        keys: prediction ``(2 * C, *spatial)``, standardized.
    """

    def __init__(self, keys: str = "pred") -> None:
        super().__init__(keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Separate ``data[key]``; returns a new dictionary."""
        d = dict(data)
        for key in self.key_iterator(d):
            plain, blind = d[key].chunk(2)
            spots = ~torch.isnan(blind)
            error = (blind[spots] - torch.as_tensor(d["image"])[spots]).double()
            d["val_loss"] = error.square().mean().item()
            means = plain.flatten(1).mean(dim=1, dtype=torch.float64).to(blind)
            d["blind"] = blind - means.view(-1, *[1] * (blind.ndim - 1))
            d[key] = plain
        return d
