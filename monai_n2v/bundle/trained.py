# SPDX-License-Identifier: Apache-2.0
"""Trained networks: what a user may point at, and the bundle that runs them."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from monai.bundle import ConfigParser
from monai.data import MetaTensor

from monai_n2v.bundle.resources import bundle_name, find_bundle
from monai_n2v.bundle.run import predict
from monai_n2v.handlers.checkpoints import load_weights

__all__ = ["TrainedNetwork", "resolve_model"]


@dataclass(frozen=True)
class TrainedNetwork:
    """A bundle with weights for its network.

    Attributes:
        bundle: folder of the bundle.
        weights: file of the weights, a flat state dict.
        spatial_dims: axes of the network.
        tta: whether its bundle averages predictions over flips and turns by default; None for a bundle that cannot.
        keep_detail: whether its bundle takes detail back from the measured values by default (see `DetailInferer`).
    """

    bundle: Path
    weights: Path
    spatial_dims: int
    tta: bool | None = None
    keep_detail: bool = False

    def averages(self, tta: bool) -> bool:
        """Tell whether predictions are averaged over flips and turns: where that is asked for, or the bundle's default.

        Args:
            tta: whether it is asked for.

        Raises:
            ValueError: where it is, and the bundle was made before there was such a setting.
        """
        if tta and self.tta is None:
            raise ValueError(
                f"tta must come with a bundle whose inference.json has it, got {self.bundle}. "
                "Train again, or leave tta out."
            )
        return tta or bool(self.tta)

    def predict(self, image: MetaTensor, device: str, tta: bool = False, keep_detail: bool = True) -> np.ndarray:
        """Denoise an image by the bundle's inference.

        Args:
            image: ``(C, *spatial)``, noisy.
            device: as torch names it.
            tta: whether to average over flips and turns, even where the bundle does not by default.
            keep_detail: whether to take detail back where the bundle does; without, the network's own prediction.

        Returns:
            float32, of the shape and in the units of ``image``.

        Raises:
            ValueError: where the weights are those of another network, the bundle cannot average, or the prediction is
                not finite.
        """
        settings: dict[str, Any] = {"device": f"$torch.device('{device}')"}
        if self.averages(tta):
            settings["tta"] = True
        if self.keep_detail and not keep_detail:
            settings["keep_detail"] = False
        try:
            output = predict(self.bundle, image, self.weights, ["in_memory_inference.json"], **settings)
        except ValueError as error:
            raise ValueError(str(error).replace("ckpt_path must", "model must", 1)) from error
        if not np.isfinite(output).all():
            raise ValueError(
                "prediction must be finite, got NaN or infinite voxels: the training diverged. Try another seed."
            )
        # MONAI's engines and handlers refer to one another: their copies of the image would stay for a while.
        gc.collect()
        return output


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
    tta = bool(parser.get_parsed_content("tta")) if "tta" in parser else None
    detail = bool(parser.get_parsed_content("keep_detail")) if "keep_detail" in parser else False
    return TrainedNetwork(bundle, weights, int(parser.get_parsed_content("network_def#spatial_dims")), tta, detail)


def _axes_of_weights(path: Path) -> int:
    n_axes = max(tensor.ndim for tensor in load_weights(path, "model").values()) - 2
    if n_axes not in (2, 3):
        raise ValueError(f"model must be a 2D or 3D network, got weights of {n_axes} axes in {path}. Check the file.")
    return n_axes
