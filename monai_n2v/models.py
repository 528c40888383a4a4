# SPDX-License-Identifier: Apache-2.0
"""Trained networks: what a user may point at, and which bundle runs it."""

from __future__ import annotations

from pathlib import Path

import torch
from monai.bundle import ConfigParser

from monai_n2v.bundles import bundle_name, find_bundle

__all__ = ["resolve_model"]


def resolve_model(model: str | Path, n_axes: int) -> tuple[Path, Path, int]:
    """Find bundle and weights of a trained network.

    Args:
        model: a trained bundle's folder, the output_dir of a training, or a file of weights; weights outside of a
            bundle run in this package's own.
        n_axes: spatial axes of the image.

    Returns:
        folder of the bundle, file of the weights, spatial axes of the network.

    Raises:
        FileNotFoundError: where something is missing.
        ValueError: for another kind of file, or a network of more axes than the image has.
    """
    path = Path(model)
    weights = path / "models" / "model.pt" if path.is_dir() else path
    if not weights.is_file():
        raise FileNotFoundError(
            f"model must be a trained bundle, the output_dir of a training, or a file of weights, got {path} without "
            f"{weights}. Noise2Void has no general weights: train the bundle, or leave model out to train on the image."
        )
    bundle = weights.parent.parent
    if not (bundle / "configs" / "inference.json").is_file():
        bundle = find_bundle(bundle_name(_axes_of_weights(weights)))
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    spatial_dims = int(parser.get_parsed_content("network_def#spatial_dims"))
    if spatial_dims > n_axes:
        raise ValueError(
            f"model must fit an image of {n_axes} axes, got a {spatial_dims}D network in {path}. Use a 2D model."
        )
    return bundle, weights, spatial_dims


def _axes_of_weights(path: Path) -> int:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        n_axes = int(max(tensor.ndim for tensor in state.values())) - 2
    except Exception as error:  # torch raises a dozen kinds for a file that is none of its own
        raise ValueError(
            f"model must be a file of network weights, got {path}. Pass a bundle's models/model.pt."
        ) from error
    if n_axes not in (2, 3):
        raise ValueError(f"model must be a 2D or 3D network, got weights of {n_axes} axes in {path}. Check the file.")
    return n_axes
