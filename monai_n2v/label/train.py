# SPDX-License-Identifier: Apache-2.0
"""Training a denoiser on the unlabeled images of a MONAI Label datastore."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.interfaces.datastore import Datastore
from monailabel.tasks.train.bundle import BundleTrainTask
from monailabel.utils.others.generic import device_list

from monai_n2v.io.images import read_volume
from monai_n2v.label.datastore import noisy_images
from monai_n2v.label.options import chosen, device_of, number, switched, whole_number

logger = logging.getLogger(__name__)


class TrainDenoiserTask(BundleTrainTask):
    """Train a bundle of this package on images that nobody has labeled, denoised ones left out.

    Args:
        path: folder of the bundle.
        conf: of the app.
    """

    def __init__(self, path: str, conf: dict[str, str]) -> None:
        super().__init__(path, conf)
        self._resume, self._epoch_length = False, 1
        self._left_out: list[str] = []

    def config(self) -> dict[str, Any]:
        """Options of a training, as clients show them."""
        return {
            "device": device_list(),
            "max_epochs": int(self.bundle_config.get_parsed_content("epochs")),
            "epoch_length": int(self.bundle_config.get_parsed_content("epoch_length")),
            "images": "",
            "pretrained": False,
            "resume": False,
            "val_split": -1,
            "multi_gpu": False,
            "gpus": "all",
        }

    def stats(self) -> dict[str, Any]:
        """When the network that inference uses was trained, in seconds since 1970; empty before."""
        path = Path(self.bundle_path) / "models" / "model.pt"
        return {"model_time": int(path.stat().st_mtime)} if path.is_file() else {}

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train; ``models/model.pt`` is what the next inference uses.

        Raises:
            ValueError: for no images, or an option that cannot be.
        """
        usual = self.config()
        request = {**usual, **request, "device": device_of(request)}
        for name in ("max_epochs", "epoch_length"):
            request[name] = whole_number(request, name, usual[name])
        for name in ("pretrained", "resume", "multi_gpu"):
            request[name] = switched(request, name, False)
        request["val_split"] = number(request, "val_split", -1)
        request["gpus"] = str(chosen(request, "gpus", "all"))
        self._resume, self._epoch_length, self._left_out = request["resume"], request["epoch_length"], []
        found = super().__call__(request, datastore)
        for fault in self._left_out:  # again, since MONAI Label keeps the last lines alone
            logger.warning("Left out: %s", fault)
        return found

    def _fetch_datalist(self, request: Mapping[str, Any], datastore: Datastore) -> list[dict[str, str]]:
        wanted = request.get("images") or None
        if isinstance(wanted, str):
            wanted = [name.strip() for name in wanted.split(",") if name.strip()]
        if wanted is not None and not isinstance(wanted, (list, tuple)):
            raise ValueError(f"images must be ids with commas, got {wanted!r}. Leave it out for all.")
        known = set(datastore.list_images())
        unknown = sorted(set(wanted or ()) - known)
        if unknown:
            raise ValueError(f"images must be of the studies, got {', '.join(unknown)}. GET /datastore/ lists them.")
        image_ids = noisy_images(datastore, wanted)
        if not image_ids:
            where = "images" if wanted else "studies"
            n_denoised = len(wanted or known)
            raise ValueError(
                f"{where} must hold at least one noisy image, got none beside {n_denoised} denoised ones. "
                "Add images to the studies, or name others."
            )
        paths = [datastore.get_image_uri(image_id) for image_id in image_ids]
        faults = {path: fault for path in paths if (fault := self._fault_of(path)) is not None}
        self._left_out = list(faults.values())
        if len(faults) == len(paths):
            raise ValueError(self._left_out[0])
        for fault in self._left_out:
            logger.warning("Left out: %s", fault)
        logger.info("Training on %d of %d images, without labels.", len(paths) - len(faults), len(paths))
        return [{"image": path} for path in paths if path not in faults]

    def _fault_of(self, path: str) -> str | None:
        """Why an image cannot be trained on; one that is faulty is to cost no training."""
        n_axes = int(self.bundle_config.get_parsed_content("spatial_dims"))
        try:
            volume = read_volume(path)
        except (ValueError, OSError) as error:
            return str(error)
        if volume.data.ndim - 1 < n_axes:
            return f"image must have {n_axes} axes, got {volume.data.ndim - 1} for {path}. Use n2v_denoise_2d."
        if not np.isfinite(volume.data).all():
            return f"image must be finite, got NaN or infinite voxels for {path}. Replace them first."
        return None

    def _load_checkpoint(self, model_pytorch: str, pretrained: bool, train_handlers: list[Any]) -> None:
        """Begin with the weights there are, where that is asked for; MONAI Label's own stumbles where it is not."""
        # The list is the bundle's: what a training before put into it would stay.
        train_handlers[:] = [one for one in train_handlers if one.get("_target_") != "CheckpointLoader"]
        if pretrained and Path(model_pytorch).is_file():
            super()._load_checkpoint(model_pytorch, True, train_handlers)

    def _update_overrides(self, overrides: dict[str, Any]) -> dict[str, Any]:
        # Validation scores blind spots, so it needs no images of its own.
        overrides.setdefault(self.const.key_validate_dataset_data(), overrides[self.const.key_train_dataset_data()])
        overrides["resume"] = self._resume
        overrides["epoch_length"] = self._epoch_length
        return overrides
