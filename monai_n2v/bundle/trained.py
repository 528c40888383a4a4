# SPDX-License-Identifier: Apache-2.0
"""Trained networks: what a user may point at, and the bundle that runs them."""

import logging
from dataclasses import dataclass
from pathlib import Path

from monai.bundle import ConfigParser

from monai_n2v.bundle.resources import PRIOR, bundle_name, find_bundle
from monai_n2v.handlers.checkpoints import load_weights

logger = logging.getLogger(__name__)

# In a bundle's folder while configs and weights are replaced.
UNFINISHED = ".monai_n2v.unfinished"


@dataclass(frozen=True)
class TrainedNetwork:
    """A bundle with weights for its network.

    Attributes:
        bundle: folder of the bundle.
        weights: file of the weights, a flat state dict.
        spatial_dims: axes of the network.
        keys: of the bundle's ``inference.json``.
    """

    bundle: Path
    weights: Path
    spatial_dims: int
    keys: frozenset[str]


def resolve_model(model: str | Path) -> TrainedNetwork:
    """Find bundle and weights of a trained network.

    Args:
        model: a trained bundle's folder, the output_dir of a training, or a file of weights; weights outside of a
            bundle run in this package's own.

    Returns:
        the network.

    Raises:
        FileNotFoundError: where something is missing.
        ValueError: for another kind of file.
    """
    bundle, weights = find_network(model)
    parser = ConfigParser(ConfigParser.load_config_file(bundle / "configs" / "inference.json"))
    n_axes = parser.get_parsed_content("network_def#spatial_dims")
    return TrainedNetwork(bundle, weights, int(n_axes), frozenset(parser.get()))


def find_network(model: str | Path) -> tuple[Path, Path]:
    """Find bundle and weights; nothing of the bundle is run.

    Args:
        model: see `resolve_model`.

    Returns:
        the bundle's folder and the file of weights.

    Raises:
        FileNotFoundError: where something is missing.
        ValueError: for another kind of file.
    """
    path = Path(model)
    if (path / UNFINISHED).exists():
        raise ValueError(
            f"model must be a whole bundle, got one whose training was stopped while it was put in place for {path}. "
            "Train again."
        )
    weights = path / "models" / "model.pt" if path.is_dir() else path
    if path.is_dir() and not weights.is_file() and (path / PRIOR).is_file():
        logger.info("%s holds no trained network: its prior denoises.", path)
        weights = path / PRIOR
    if not weights.is_file():
        raise FileNotFoundError(
            f"model must be a trained bundle, the output_dir of a training, or a file of weights, got {path} without "
            f"{weights}. Train the bundle, or leave model out to train on the image."
        )
    bundle = weights.parent.parent
    if not (bundle / "configs" / "inference.json").is_file():
        bundle = find_bundle(bundle_name(_axes_of_weights(weights)))
    return bundle, weights


def prior_network(spatial_dims: int) -> TrainedNetwork:
    """The bundle of this package with the weights of its prior.

    Args:
        spatial_dims: 2 for images, 3 for volumes.
    """
    bundle = find_bundle(bundle_name(spatial_dims))
    config = ConfigParser.load_config_file(bundle / "configs" / "inference.json")
    return TrainedNetwork(bundle, bundle / PRIOR, spatial_dims, frozenset(config))


def _axes_of_weights(path: Path) -> int:
    n_axes = max(tensor.ndim for tensor in load_weights(path, "model").values()) - 2
    if n_axes not in (2, 3):
        raise ValueError(f"model must be a 2D or 3D network, got weights of {n_axes} axes in {path}. Check the file.")
    return n_axes
