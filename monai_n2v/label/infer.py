# SPDX-License-Identifier: Apache-2.0
"""Denoising as an inference task of MONAI Label."""

import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.utils.others.generic import device_list

from monai_n2v.apps.folder import Settings, denoise_jobs
from monai_n2v.apps.inspect import choose_device
from monai_n2v.apps.paths import plan_jobs
from monai_n2v.bundle.options import PredictionOptions, TrainingOptions
from monai_n2v.bundle.resources import PRIOR
from monai_n2v.bundle.trained import TrainedNetwork, resolve_model
from monai_n2v.io.images import read_volume, split_name, targets_of
from monai_n2v.io.volume import where
from monai_n2v.label.options import check_keys, chosen, device_of, number, switched, whole_number
from monai_n2v.noise.magnitude import MAGNITUDES
from monai_n2v.noise.noise_map import NoiseMap
from monai_n2v.transforms.components import VOLUMES

# What is written beside a denoised image, by the option that asks for it; each is kept as a label of that tag.
BESIDE = {"save_residual": "residual", "save_noise_map": "noise_map", "report": "report"}
# What clients and MONAI Label itself send beside the options.
_ALWAYS_SENT = frozenset(("model", "image", "images", "client_id", "session", "session_id", "user", "label", "labels"))
_ALWAYS_SENT |= {"result_extension", "result_dtype", "result_compress", "restore_label_idx", "label_info"}
_ALWAYS_SENT |= {"save_label", "label_tag", "logging", "description", "timeout", "bundle_path", "_id", "_image_id"}
_ALWAYS_SENT |= {"multi_gpu", "gpus", "max_workers", "max_batch_size"}
_MORE = ("coils", "noise_map", "max_epochs", "epochs")  # without a default that clients could show
# Formats of two files: an answer is one.
_ONE_FILE = {".mhd": ".mha", ".hdr": ".nii.gz", ".img": ".nii.gz"}

_TRAINED = "a network that was trained on images of these studies"
_TRAINED_HERE = "a network that was trained on this image alone"


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
        # Lists hold texts alone: 3D Slicer's table of options fails on others.
        options = {
            "device": device_list(),
            "dtype": ["float32", "input"],
            **({"magnitude": list(MAGNITUDES)} if self._has_magnitude else {}),
            "save_image": False,
            "overwrite": False,
            **dict.fromkeys(BESIDE, False),
            **self._defaults,
            "train_on_image": False,
            "max_time": 300,
            "volumes": list(VOLUMES),
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

    def check(self, request: Mapping[str, Any]) -> None:
        """Refuse a request before any work.

        Raises:
            ValueError: for options that cannot be, or a key that is none.
        """
        check_keys(request, {*self.config(), *_MORE}, _ALWAYS_SENT)
        self._settings(request)
        for name in ("save_image", "overwrite", *BESIDE):
            switched(request, name, False)

    def prediction(self, request: Mapping[str, Any]) -> PredictionOptions:
        """Options of a prediction, as a client asks for them; what it does not name is the bundle's.

        Raises:
            ValueError: for options that cannot be.
        """
        switches = {name: switched(request, name, self._defaults[name]) for name in self._defaults}
        magnitude = chosen(request, "magnitude", "auto" if self._has_magnitude else None)
        noise_map = chosen(request, "noise_map") or None
        dtype = str(chosen(request, "dtype", "float32"))
        if dtype not in ("float32", "input"):
            raise ValueError(f"dtype must be float32 or input, got {dtype}. Leave it out for float32.")
        return PredictionOptions(
            choose_device(device_of(request)),
            dtype=dtype,
            magnitude=None if magnitude is None else str(magnitude),
            coils=None if chosen(request, "coils") is None else number(request, "coils", 1),
            noise_map=None if noise_map is None else NoiseMap.of(str(noise_map)),
            volumes=None if chosen(request, "volumes") is None else str(chosen(request, "volumes")),
            **switches,
        )

    def _settings(self, request: Mapping[str, Any]) -> Settings:
        """How to denoise: by the bundle's network, or by one that is trained on the image."""
        prediction = self.prediction(request)
        training = TrainingOptions(
            device=prediction.device,
            noise_map=prediction.noise_map,
            volumes=prediction.volumes or "auto",
            progress=False,
        )
        if not switched(request, "train_on_image", False):
            return Settings(training, prediction, self.bundle)
        name = "max_epochs" if chosen(request, "max_epochs") is not None else "epochs"
        by_epochs = chosen(request, name) is not None
        training = replace(
            training,
            epochs=whole_number(request, name, 1) if by_epochs else None,
            max_time=None if by_epochs else number(request, "max_time", 300),
            spatial_dims=2 if self.spatial_dims == 2 else None,
        )
        return Settings(training, prediction)

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Denoise ``request["image"]``, a path.

        Returns:
            the file of the result, the caller's to remove, and what is told of it. What was asked for beside it lies in
            the folder ``request["beside"]``, and is told of by its path.

        Raises:
            ValueError: for options or voxels that cannot be.
        """
        started = time.time()
        source, settings = Path(str(request["image"])), self._settings(request)
        if settings.model is not None:
            self.network()  # refused before the image is read
        volume = read_volume(source)
        n_axes = volume.data.ndim - 1
        if settings.model is not None and n_axes < self.spatial_dims:
            raise ValueError(
                f"image must have 3 axes for {self.name}, got {n_axes}{where(source)}. Use n2v_denoise_2d."
            )
        read = time.time()
        wanted = {option: switched(request, option, False) for option in BESIDE} if "beside" in request else {}
        with tempfile.TemporaryDirectory() as here:
            folder = Path(request.get("beside", here))
            stem, suffix = self._name(source, request)
            (job,) = plan_jobs(
                source,
                folder / f"{stem}_denoised{suffix}",
                report=wanted.get("report", False),
                residual=wanted.get("save_residual", False),
                noise_map=wanted.get("save_noise_map", False),
            )
            records: list[dict[str, Any]] = []
            denoise_jobs([job], settings, records.append, {str(source): volume})
            (record,) = records
            if record["status"] == "failed":
                raise ValueError(record["error"])
            handle, target = tempfile.mkstemp(suffix, f"{stem}_denoised_")
            os.close(handle)
            shutil.move(job.target, target)
        times = {"pre": read - started, "infer": time.time() - read, "total": time.time() - started}
        latencies = {name: round(value, 2) for name, value in times.items()}
        told = {"label_names": {}, "latencies": latencies, "centroids": {}, "model": self.name}
        told |= {"network": record.get("network", _TRAINED_HERE if settings.model is None else _TRAINED)}
        told |= {"warnings": record["warnings"], "magnitude": record["magnitude"]}
        written = {"save_residual": job.residual, "save_noise_map": job.noise_map}
        written["report"] = record.get("report", {}).get("page")
        told |= {tag: str(written[option]) for option, tag in BESIDE.items() if wanted.get(option)}
        return target, told

    @staticmethod
    def _name(source: Path, request: Mapping[str, Any]) -> tuple[str, str]:
        """Stem and ending of the answer: as clients ask for it, where the image can be written so."""
        stem, own = (source.name, ".nii.gz") if source.is_dir() else split_name(source)
        suffix = str(chosen(request, "result_extension", ""))
        suffix = suffix if suffix and suffix in targets_of(source) else own
        return stem, _ONE_FILE.get(suffix.lower(), suffix)
