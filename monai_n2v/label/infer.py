# SPDX-License-Identifier: Apache-2.0
"""Denoising as an inference task of MONAI Label."""

import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.utils.others.generic import device_list

from monai_n2v.apps.denoise import denoise_image
from monai_n2v.bundle.options import PredictionOptions, TrainingOptions
from monai_n2v.bundle.resources import PRIOR
from monai_n2v.bundle.run import Denoiser
from monai_n2v.bundle.trained import TrainedNetwork, resolve_model
from monai_n2v.io.images import read_volume, split_name, targets_of
from monai_n2v.io.volume import where
from monai_n2v.label.options import chosen, device_of, number, switched, whole_number
from monai_n2v.noise.magnitude import MAGNITUDES
from monai_n2v.noise.noise_map import NoiseMap


class DenoiseTask(InferTask):
    """Denoise an image by a bundle of this package, or by a network trained on that image alone.

    Not MONAI Label's own task for bundles: that one wants weights when the server starts, casts every result to what a
    client takes labels for (uint8), and writes no image of two axes. Values, header and file are those of
    ``monai.bundle run``.

    Args:
        bundle: folder of the bundle.
    """

    def __init__(self, bundle: Path) -> None:
        parser = ConfigParser()
        parser.read_config(str(bundle / "configs" / "inference.json"))
        parser.read_meta(str(bundle / "configs" / "metadata.json"))
        self.bundle = bundle
        self.spatial_dims = int(parser.get_parsed_content("spatial_dims"))
        switches = ("tta", "keep_padding")
        self._has_magnitude = "magnitude" in parser
        self._defaults = {name: bool(parser.get_parsed_content(name)) for name in switches if name in parser}
        options = {
            "device": device_list(),
            "dtype": ["float32", "input"],
            **({"magnitude": list(MAGNITUDES)} if self._has_magnitude else {}),
            "save_image": False,
            "overwrite": False,
            **self._defaults,
            "train_on_image": False,
            "max_time": 300,
            "context": [0, "auto"],
        }
        # Volumes go in whatever the network's axes: by a 2D one slice by slice.
        super().__init__(InferType.OTHERS, {}, 3, str(parser["_meta_#description"]), options)

    @property
    def name(self) -> str:
        """Of the model, as clients ask for it."""
        return self.bundle.name

    def is_valid(self) -> bool:
        """Always: without a trained network the prior denoises."""
        return True

    def get_path(self, validate: bool = True) -> str | None:
        """The file of the weights: those that were trained, or those of the prior."""
        path = self.bundle / "models" / "model.pt"
        return str(path if path.is_file() or not validate else self.bundle / PRIOR)

    def network(self) -> TrainedNetwork:
        """The trained network; before it was trained, the prior."""
        return resolve_model(self.bundle)

    def prediction(self, request: Mapping[str, Any]) -> PredictionOptions:
        """Options of a prediction, as a client asks for them; what it does not name is the bundle's.

        Raises:
            ValueError: for options that cannot be.
        """
        switches = {name: switched(request, name, self._defaults[name]) for name in self._defaults}
        magnitude = chosen(request, "magnitude", "auto" if self._has_magnitude else None)
        noise_map = chosen(request, "noise_map") or None
        return PredictionOptions(
            device_of(request),
            dtype=str(chosen(request, "dtype", "float32")),
            magnitude=None if magnitude is None else str(magnitude),
            coils=None if chosen(request, "coils") is None else number(request, "coils", 1),
            noise_map=None if noise_map is None else NoiseMap.of(str(noise_map)),
            **switches,
        )

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Denoise ``request["image"]``, a path.

        Returns:
            the file of the result, the caller's to remove, and what is told of it.

        Raises:
            ValueError: for options or voxels that cannot be.
        """
        started = time.time()
        source, prediction = Path(str(request["image"])), self.prediction(request)
        training, denoiser = None, None
        if switched(request, "train_on_image", False):
            by_epochs = chosen(request, "max_epochs") is not None
            epochs = whole_number(request, "max_epochs", 1) if by_epochs else None
            budget = None if by_epochs else number(request, "max_time", 300)
            asked = str(chosen(request, "context", 0))
            training = TrainingOptions(
                epochs,
                budget,
                context=int(asked) if asked.isdecimal() else asked,
                spatial_dims=2 if self.spatial_dims == 2 else None,
            )
        else:
            denoiser = Denoiser(self.network(), prediction)  # refuses before the image is read
        volume = read_volume(source)
        n_axes = volume.data.ndim - 1
        if denoiser is not None and n_axes < self.spatial_dims:
            raise ValueError(
                f"image must have 3 axes for {self.name}, got {n_axes}{where(source)}. Use n2v_denoise_2d."
            )
        read = time.time()
        # Clients ask for the file in which they keep labels; where the image cannot be written so, it keeps its own.
        suffix = str(chosen(request, "result_extension", ""))
        stem, own = (source.name, ".nii.gz") if source.is_dir() else split_name(source)
        suffix = suffix if suffix and suffix in targets_of(source) else own
        handle, target = tempfile.mkstemp(suffix, f"{stem}_denoised_")
        os.close(handle)
        try:
            if denoiser is not None:
                denoiser(volume, Path(target))
            else:
                denoise_image(volume, training=training, prediction=prediction, target=Path(target))
        except BaseException:
            Path(target).unlink(missing_ok=True)
            raise
        times = {"pre": read - started, "infer": time.time() - read, "total": time.time() - started}
        latencies = {name: round(value, 2) for name, value in times.items()}
        told = {"label_names": {}, "latencies": latencies, "centroids": {}, "model": self.name}
        return target, told
