# SPDX-License-Identifier: Apache-2.0
"""The studies of a MONAI Label server, for bundles that its own app trains."""

from __future__ import annotations

import os
from pathlib import Path

from monai_n2v.volumes import find_images, split_name

__all__ = ["images_of_label_studies"]


def images_of_label_studies() -> list[dict[str, str]]:
    """List the noisy images of the studies that a MONAI Label server in this environment serves from a folder.

    Returns:
        as `find_images` does, labels and denoised copies left out; nothing where there is no such server.
    """
    studies = Path(os.environ.get("MONAI_LABEL_STUDIES", ""))
    if not os.environ.get("MONAI_LABEL_STUDIES") or not studies.is_dir():
        return []
    found = find_images(studies, exclude=studies / "labels")
    return [item for item in found if not split_name(item["image"])[0].endswith("_denoised")]
