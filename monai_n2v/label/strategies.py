# SPDX-License-Identifier: Apache-2.0
"""Which image is handed out next for labeling."""

from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy

from monai_n2v.label.datastore import denoised_id, is_denoised


class DenoisedFirst(Strategy):
    """Hand out denoised images before noisy ones, and of either first those that have waited longest.

    A noisy image whose denoised copy is there is not handed out.
    """

    def __init__(self) -> None:
        super().__init__("Denoised images first")
        # MONAI Label notes whole seconds: what was handed out within one of them waits by this count.
        self._handed_out: dict[str, int] = {}

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """Choose an image without a final label."""
        images = datastore.get_unlabeled_images(request.get("label_tag"), request.get("labels"))
        there = set(datastore.list_images())
        waiting = [image_id for image_id in images if denoised_id(image_id) not in there]
        if not waiting:
            return None

        def order(image_id: str) -> tuple[bool, int, int, str]:
            noted = datastore.get_image_info(image_id).get("strategy", {}).get(request["strategy"], {})
            count = self._handed_out.get(image_id, 0)
            return not is_denoised(datastore, image_id), int(noted.get("ts", 0)), count, image_id

        chosen = min(waiting, key=order)
        self._handed_out[chosen] = max(self._handed_out.values(), default=0) + 1
        return {"id": chosen}
