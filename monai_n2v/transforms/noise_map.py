# SPDX-License-Identifier: Apache-2.0
"""Noise of uneven strength, made even by a map of it, and the denoised image brought back."""

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import MapTransform

from monai_n2v.noise.noise_map import NoiseMap
from monai_n2v.transforms.files import affine_of
from monai_n2v.transforms.padding import find_padding


def noise_gain(volumes: np.ndarray, noise_map: NoiseMap) -> np.ndarray:
    """Strength of an image's noise in units of its median; 1 in constant padding, which so stays constant.

    Args:
        volumes: the image, ``(C, *spatial)``, in the grid of the map.
        noise_map: the map.

    Returns:
        float32 ``(*spatial)``, see `NoiseMap.gain`.
    """
    padding: np.ndarray | None = None
    for volume in volumes:  # what some volume holds was measured
        found = find_padding(volume)
        if found is None:
            return noise_map.gain()
        padding = found if padding is None else padding & found
    return noise_map.gain(padding)


class DivideByNoiseMapd(MapTransform):
    """Make noise even, where a map tells how its strength varies over the image (g-factor of parallel imaging).

    Noise is even in an image that is divided by its strength. So all that follows, measuring noise, training and the
    bias of magnitudes, may take it for even. `MultiplyByNoiseMapd` brings predictions back.

    Args:
        keys: images ``(C, *spatial)`` as they were read, of one grid; the first tells where padding is.
        noise_map: path, array or `NoiseMap` in the image's grid, one for all channels; None leaves images as they are.
        gain_key: where the divisor ``(*spatial)`` goes, in units of its median; None for nowhere.

    Raises:
        ValueError: for a map without values above 0; when called, for an image of another grid.
        FileNotFoundError: where there is no such file.
    """

    def __init__(
        self, keys: Any = "image", noise_map: str | Path | np.ndarray | NoiseMap | None = None, gain_key: Any = None
    ) -> None:
        super().__init__(keys)
        self.noise_map = None if noise_map is None else NoiseMap.of(noise_map)
        self.gain_key = gain_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Divide ``data[key]``; returns a new dictionary."""
        d = dict(data)
        if self.noise_map is None:
            return d
        for key in self.key_iterator(d):
            name = getattr(d[key], "meta", {}).get("filename_or_obj") or ""
            self.noise_map.check_grid(tuple(d[key].shape[1:]), affine_of(name), name)
        gain = torch.from_numpy(noise_gain(d[self.keys[0]].float().cpu().numpy(), self.noise_map))
        for key in self.key_iterator(d):
            d[key] = d[key] / gain.to(d[key].device)
        if self.gain_key is not None:
            d[self.gain_key] = gain
        return d


class MultiplyByNoiseMapd(MapTransform):
    """Undo `DivideByNoiseMapd` on predictions, where it has left a divisor.

    Args:
        keys: predictions ``(C, *spatial)``.
        gain_key: where the divisor is.
    """

    def __init__(self, keys: Any = "pred", gain_key: str = "noise_gain") -> None:
        super().__init__(keys)
        self.gain_key = gain_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Multiply ``data[key]``; returns a new dictionary."""
        d = dict(data)
        if self.gain_key in d:
            for key in self.key_iterator(d):
                d[key] = d[key] * d[self.gain_key].to(d[key].device)
        return d
