# SPDX-License-Identifier: Apache-2.0
"""Training a denoiser on the unlabeled images of a MONAI Label datastore."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.tasks.train.bundle import BundleTrainTask
from monailabel.utils.others.generic import device_list

from monai_n2v.handlers.checkpoints import checkpoints_of
from monai_n2v.label.datastore import noisy_images
from monai_n2v.label.options import check_keys, chosen, device_of, number, switched, whole_number
from monai_n2v.label.progress import read_stats

logger = logging.getLogger(__name__)

# What clients and MONAI Label itself send beside the options, and what its own trainings know.
_ALWAYS_SENT = frozenset(
    ("model", "client_id", "bundle_path", "local_rank", "user", "name", "run_id", "force_multi_gpu", "logging")
) | frozenset(("tracking", "tracking_uri", "tracking_experiment_name", "tracking_run_name", "model_filename"))
_OWN = ("NetworkInUse", "TrainingProgress")


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
        """How far the last training is or was, and when the network in use was written, in seconds since 1970."""
        path = Path(self.bundle_path) / "models" / "model.pt"
        written = {"model_time": int(path.stat().st_mtime)} if path.is_file() else {}
        return read_stats(self.bundle_path) | written

    def options(self, request: Mapping[str, Any], others: frozenset[str] = frozenset()) -> dict[str, Any]:
        """The options of a request, checked, with the usual ones for those that it leaves out.

        Args:
            request: of a client.
            others: further keys that may be in it.

        Raises:
            ValueError: for an option that cannot be, or a key that is none.
            FileNotFoundError: where there is nothing to resume.
        """
        usual = self.config()
        check_keys(request, {*usual, "epochs"}, _ALWAYS_SENT | others)
        if "epochs" in request:
            if "max_epochs" in request:
                raise ValueError("epochs must come without max_epochs, got both. Send one of them.")
            request = {**request, "max_epochs": whole_number(request, "epochs", usual["max_epochs"])}
        options = {**usual, **request, "device": device_of(request)}
        for name in ("max_epochs", "epoch_length"):
            options[name] = whole_number(request, name, usual[name])
        for name in ("pretrained", "resume", "multi_gpu"):
            options[name] = switched(request, name, False)
        options["val_split"] = number(request, "val_split", -1)
        if not options["val_split"] < 1:
            raise ValueError(f"val_split must be below 1, got {options['val_split']:g}. Leave it out for -1.")
        options["gpus"] = str(chosen(request, "gpus", "all"))
        if options["gpus"] != "all" and not all(part.strip().isdecimal() for part in options["gpus"].split(",")):
            raise ValueError(f"gpus must be all or numbers with commas, got {options['gpus']}. Leave it out for all.")
        options["images"] = _names(request.get("images"))
        if options["resume"]:
            self._check_resume(options["max_epochs"])
        return options

    def _check_resume(self, n_epochs: int) -> None:
        done = max(checkpoints_of(Path(self.bundle_path) / "checkpoints"), default=0)
        if not done:
            raise FileNotFoundError("resume must find a training that was stopped, got none. Train without it first.")
        if n_epochs <= done:
            raise ValueError(
                f"max_epochs must be above the {done} epochs that the training has done, got {n_epochs}. "
                f"Send for example {2 * done}, or leave resume out to train anew."
            )

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train; ``models/model.pt`` is what the next inference uses, from the first epoch on.

        Raises:
            ValueError: for no images, or an option that cannot be.
        """
        options = self.options(request)
        self._resume, self._epoch_length = options["resume"], options["epoch_length"]
        return super().__call__(options, datastore)

    def image_ids(self, wanted: list[str] | None, datastore: Datastore) -> list[str]:
        """The images to train on.

        Args:
            wanted: those that a request names, or None.
            datastore: of the app.

        Raises:
            ValueError: for names that are none, or where no noisy image is left.
        """
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
        return image_ids

    def _fetch_datalist(self, request: Mapping[str, Any], datastore: Datastore) -> list[dict[str, str]]:
        image_ids = self.image_ids(_names(request.get("images")), datastore)
        logger.info("Training on %d images, without labels.", len(image_ids))
        return [{"image": datastore.get_image_uri(image_id)} for image_id in image_ids]

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
        overrides["network_in_use"] = self._network_in_use()
        key = self.const.key_train_handlers()
        overrides[key] = [*self._with_network_in_use(overrides[key]), self._progress()]
        return overrides

    @staticmethod
    def _with_network_in_use(handlers: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The bundle's handlers; the one that saves a network in the end gives way to the one that does so always."""
        handlers = [one for one in handlers if str(one.get("_target_")).rpartition(".")[2] not in _OWN]
        shared = {"_target_": "monai_n2v.handlers.shared_handler", "handler": "@network_in_use"}
        return [shared if one.get("_target_") == "monai_n2v.handlers.ModelSaver" else one for one in handlers]

    def _network_in_use(self) -> dict[str, Any]:
        scorer = {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@validate#dataloader",
            "network": "$@averaged.network",
            "prepare_batch": {"_target_": "monai_n2v.handlers.PrepareN2VBatch"},
            "inferer": "@validate#inferer",
            "key_val_metric": "%validate#key_metric",
            "decollate": False,
        }
        return {
            "_target_": "monai_n2v.label.progress.NetworkInUse",
            "network": "$@averaged.network",
            "path": "@ckpt_path",
            "scorer": scorer,
            "evaluator": "@validate#evaluator",
            "begun": read_stats(self.bundle_path) if self._resume else None,
        }

    def _progress(self) -> dict[str, Any]:
        return {
            "_target_": "monai_n2v.label.progress.TrainingProgress",
            "bundle": str(self.bundle_path),
            "in_use": "@network_in_use",
            "best_loss": "$lambda: @best_saver.best",
            "loader": "@train#dataloader",
        }


def _names(images: Any) -> list[str] | None:
    """Ids of a list, or of a text with commas; None for all."""
    if isinstance(images, str):
        images = [name.strip() for name in images.split(",") if name.strip()]
    if images is not None and not isinstance(images, (list, tuple)):
        raise ValueError(f"images must be ids with commas, got {images!r}. Leave it out for all.")
    return list(images) if images else None
