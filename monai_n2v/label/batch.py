# SPDX-License-Identifier: Apache-2.0
"""Batch inference that leaves denoised images alone."""

import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.batch_infer import BatchInferTask

from monai_n2v.label.datastore import check_can_add_images, denoised_id, noisy_images
from monai_n2v.label.infer import DenoiseTask
from monai_n2v.label.options import sentence, switched

logger = logging.getLogger(__name__)


class DenoisingBatchTask(BatchInferTask):
    """MONAI Label's batch inference, but for denoisers: their results are stored as images, and no image goes in twice.

    An image that fails does not stop the others; its result is its ``error``, in one sentence.

    Args:
        denoisers: by the name of the model.
        chained: names of the segmenters that see denoised images.
    """

    def __init__(self, denoisers: Mapping[str, DenoiseTask], chained: Collection[str]) -> None:
        self.denoisers = denoisers
        self.chained = chained

    def get_images(self, request: dict[str, Any], datastore: Datastore) -> list[str]:
        """The images that are to be worked on."""
        images = list(super().get_images(request, datastore))
        model = request["model"]
        if model not in self.denoisers and model not in self.chained:
            return images
        images = noisy_images(datastore, images)
        if model in self.chained or switched(request, "overwrite", False):
            return images
        there = set(datastore.list_images())
        return [image_id for image_id in images if denoised_id(image_id) not in there]

    def __call__(self, request: dict[str, Any], datastore: Datastore, infer: Callable[..., Any]) -> dict[str, Any]:
        """Infer all images; a denoiser's results are stored unless ``save_image`` is false."""
        if not torch.cuda.is_available():
            request["multi_gpu"] = False  # MONAI Label divides by the number of GPUs
        if request["model"] in self.denoisers:
            if not switched(request, "train_on_image", False):
                self.denoisers[request["model"]].network()  # missing weights are told once, not for every image
            request["save_image"] = switched(request, "save_image", True)
            if request["save_image"]:
                check_can_add_images(datastore)

        def infer_or_tell(one: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
            try:
                return infer(one, datastore)
            except Exception as error:  # noqa: BLE001 - the others are to be done all the same
                logger.warning("%s: %s", one.get("image"), sentence(error))
                return {"error": sentence(error)}

        return super().__call__(request, datastore, infer_or_tell)
