# SPDX-License-Identifier: Apache-2.0
"""Facts about an image or a trained network, for ``monai-n2v info``."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from monai_n2v.io.images import read_volume, split_name


def describe(path: Path, series: str | None = None) -> dict[str, Any]:
    """Tell what a path is.

    Args:
        path: an image, a folder with a DICOM series, a trained bundle, or a file of weights.
        series: of a folder with several series, the one to describe.

    Returns:
        facts by name, as plain values.

    Raises:
        FileNotFoundError: where there is no such path, or no network in a bundle.
        ValueError: for what can be neither read nor run.
    """
    if not path.exists():
        raise FileNotFoundError(f"path must be an existing file, got {path}. Check the path.")
    is_bundle = path.is_dir() and ((path / "models").is_dir() or (path / "configs").is_dir())
    if is_bundle or path.suffix in (".pt", ".pth"):
        return _describe_network(path)
    return _describe_image(path, series)


def _describe_image(path: Path, series: str | None) -> dict[str, Any]:
    volume = read_volume(path, series)
    source = volume.source
    facts: dict[str, Any] = {
        "kind": "DICOM series" if path.is_dir() else split_name(path)[1].lstrip(".").lower(),
        "shape": list(volume.data.shape[1:]),
        "n_volumes": volume.data.shape[0] // (2 if source.is_complex else 1),
        "spacing_mm": [float(f"{side:.6g}") for side in volume.spacing],
        "stored_type": str(source.stored),
        "min": float(volume.data.min()),
        "max": float(volume.data.max()),
        "mean": float(volume.data.mean(dtype=np.float64)),
        "std": float(volume.data.std(dtype=np.float64)),
        "n_not_finite": int(volume.data.size - np.isfinite(volume.data).sum()),
    }
    if source.affine is not None:
        facts["affine"] = np.round(source.affine, 6).tolist()
    if volume.notes:
        facts["notes"] = volume.notes
    return facts


def _describe_network(path: Path) -> dict[str, Any]:
    """Tell of a bundle without running it: a stranger's is a stranger's program."""
    from monai_n2v.bundle.trained import find_network
    from monai_n2v.handlers.checkpoints import load_weights

    bundle, weights = find_network(path)
    config = json.loads((bundle / "configs" / "inference.json").read_text())
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    tensors = load_weights(weights, "model")
    return {
        "kind": "trained network",
        "bundle": str(bundle),
        "weights": str(weights),
        "network": str(config["network_def"]["_target_"]).rpartition(".")[2],
        "spatial_dims": max(tensor.ndim for tensor in tensors.values()) - 2,
        "n_parameters": sum(tensor.numel() for tensor in tensors.values()),
        "version": metadata.get("version"),
        "training_data": metadata.get("training_data", "unknown"),
    }
