# SPDX-License-Identifier: Apache-2.0
"""The images of a MONAI Label datastore: which are noisy, which are denoised copies, and how a copy gets in."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.datastore import Datastore

__all__ = ["SUFFIX", "add_denoised", "can_hold_images", "denoised_id", "is_denoised", "noisy_images"]

SUFFIX = "_denoised"


def denoised_id(image_id: str) -> str:
    """What the denoised copy of an image is called."""
    return image_id + SUFFIX


def is_denoised(datastore: Datastore, image_id: str) -> bool:
    """Tell whether an image is the denoised copy of another.

    Args:
        datastore: of the app.
        image_id: of one of its images.

    Returns:
        True for images that carry their source in their info, and for those called after another image: a datastore
        that looks through its folder while a copy is being added loses the copy's info.
    """
    if datastore.get_image_info(image_id).get("n2v_source"):
        return True
    return image_id.endswith(SUFFIX) and image_id.removesuffix(SUFFIX) in datastore.list_images()


def noisy_images(datastore: Datastore, image_ids: Iterable[str] | None = None) -> list[str]:
    """The images that are no denoised copies, sorted.

    Args:
        datastore: of the app.
        image_ids: to choose from; None for all.
    """
    chosen = datastore.list_images() if image_ids is None else image_ids
    return sorted(image_id for image_id in chosen if not is_denoised(datastore, image_id))


def can_hold_images(datastore: Datastore) -> bool:
    """Tell whether images can be added: those of a DICOMweb store would lie in its cache, and be listed nowhere."""
    return type(datastore) is LocalDatastore


def add_denoised(datastore: Datastore, image_id: str, file: Path, model: str) -> str:
    """Add a denoised copy of an image, in the place of an older one.

    Args:
        datastore: for which `can_hold_images`.
        image_id: the noisy image.
        file: of the denoised one; stays.
        model: that denoised it.

    Returns:
        the copy's id, ``<image_id>_denoised``; its info names ``n2v_source`` and ``n2v_model``.
    """
    added = denoised_id(image_id)
    if added in datastore.list_images():
        datastore.remove_image(added)
    with tempfile.TemporaryDirectory() as folder:  # the datastore takes the suffix from the name
        named = Path(folder) / (
            added + "".join(file.suffixes[-2:] if file.name.endswith(".gz") else file.suffixes[-1:])
        )
        shutil.copyfile(file, named)
        info = {"n2v_source": image_id, "n2v_model": model}
        found: str = datastore.add_image(added, str(named), info)
    return found
