# SPDX-License-Identifier: Apache-2.0
"""Training a denoiser on the unlabeled images of a MONAI Label datastore."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.tasks.train.bundle import BundleTrainTask
from monailabel.utils.others.generic import device_list

from monai_n2v.label.options import chosen, switched
from monai_n2v.label.studies import is_denoised, noisy_images

__all__ = ["TrainDenoiserTask"]

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
        request = {**self.config(), **request}
        request["device"] = chosen(request, "device", "cuda")
        for name in ("max_epochs", "epoch_length"):
            value, usual = chosen(request, name), self.config()[name]
            if isinstance(value, bool) or not str(value).isdecimal() or int(value) < 1:
                raise ValueError(f"{name} must be a whole number from 1, got {value!r}. Leave it out for {usual}.")
            request[name] = int(value)
        for name in ("pretrained", "resume", "multi_gpu"):
            request[name] = switched(request, name, False)
        request["val_split"] = float(chosen(request, "val_split", -1))
        self._resume, self._epoch_length = request["resume"], request["epoch_length"]
        found: dict[str, Any] = super().__call__(request, datastore)
        return found

    def _fetch_datalist(self, request: Mapping[str, Any], datastore: Datastore) -> list[dict[str, str]]:
        wanted = request.get("images") or None
        if isinstance(wanted, str):
            wanted = [name.strip() for name in wanted.split(",")]
        known = set(datastore.list_images())
        unknown = sorted(set(wanted or ()) - known)
        if unknown:
            raise ValueError(f"images must be of the studies, got {', '.join(unknown)}. GET /datastore/ lists them.")
        image_ids = noisy_images(datastore, wanted)
        if not image_ids:
            n_denoised = sum(is_denoised(datastore, image_id) for image_id in known)
            raise ValueError(
                f"studies must hold at least one noisy image, got none beside {n_denoised} denoised ones. "
                "Add images to the studies."
            )
        logger.info("Training on %d images without labels.", len(image_ids))
        return [{"image": datastore.get_image_uri(image_id)} for image_id in image_ids]

    def _load_checkpoint(self, model_pytorch: str, pretrained: bool, train_handlers: list[Any]) -> None:
        """Begin with the weights there are, where that is asked for; MONAI Label's own stumbles where it is not."""
        if pretrained and Path(model_pytorch).is_file():
            super()._load_checkpoint(model_pytorch, True, train_handlers)

    def _update_overrides(self, overrides: dict[str, Any]) -> dict[str, Any]:
        # Validation scores blind spots, so it needs no images of its own.
        overrides.setdefault(self.const.key_validate_dataset_data(), overrides[self.const.key_train_dataset_data()])
        overrides["resume"] = self._resume
        overrides["epoch_length"] = self._epoch_length
        return overrides
