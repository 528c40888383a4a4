# SPDX-License-Identifier: Apache-2.0
"""The images of a MONAI Label datastore: which are noisy, which are denoised copies, and how a copy gets in."""

import functools
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.datastore import Datastore

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
        that looks through its folder while a copy is being added loses the copy's info. On a DICOMweb server, for a
        series that ``stow`` has written.
    """
    if isinstance(datastore, DICOMWebDatastore):
        return _is_stowed(datastore._client, image_id)
    if datastore.get_image_info(image_id).get("n2v_source"):
        return True
    return image_id.endswith(SUFFIX) and image_id.removesuffix(SUFFIX) in datastore.list_images()


@functools.lru_cache(maxsize=4096)  # a series does not change
def _is_stowed(client: Any, series: str) -> bool:
    wanted, fields = {"SeriesInstanceUID": series}, ["DerivationDescription"]
    found = client.search_for_instances(search_filters=wanted, fields=fields, limit=1)
    return any("monai_n2v" in text for item in found for text in item.get("00082111", {}).get("Value", []) if text)


def has_image(datastore: Datastore, image_id: str) -> bool:
    """Tell whether an image is in the studies.

    Args:
        datastore: of the app.
        image_id: as a client names it.

    Returns:
        True for images that are listed. A DICOMweb server is asked about others: MONAI Label keeps its list for hours,
        and lists CT alone unless told otherwise.
    """
    if image_id in datastore.list_images():
        return True
    if not isinstance(datastore, DICOMWebDatastore):
        return False
    found = datastore._client.search_for_series(search_filters={"SeriesInstanceUID": image_id})
    return any(item.get("0020000E", {}).get("Value") == [image_id] for item in found)


def image_id_of(datastore: Datastore, image: str) -> str:
    """The id of an image that a client names by its id, or by the path of its file in the studies."""
    path = Path(image)
    if not path.exists() or not isinstance(datastore, LocalDatastore):
        return image
    name = str(datastore._to_id(path.name)[0])
    known = name in datastore.list_images() and Path(datastore.get_image_uri(name)).resolve() == path.resolve()
    return name if known else image


def noisy_images(datastore: Datastore, image_ids: Iterable[str] | None = None) -> list[str]:
    """The images that are no denoised copies, sorted.

    Args:
        datastore: of the app.
        image_ids: to choose from; None for all.
    """
    chosen = datastore.list_images() if image_ids is None else image_ids
    return sorted(image_id for image_id in chosen if not is_denoised(datastore, image_id))


def check_can_add_images(datastore: Datastore) -> None:
    """Refuse a datastore to which no image can be added: it would lie in a DICOMweb store's cache, listed nowhere.

    Raises:
        ValueError: for any but a folder.
    """
    if type(datastore) is not LocalDatastore:
        raise ValueError(
            "save_image must be false for studies of a DICOMweb server, got true. "
            "Write a derived series back: python -m monai_n2v.label stow."
        )


def add_denoised(datastore: Datastore, image_id: str, file: Path, model: str) -> str:
    """Add a denoised copy of an image, in the place of an older one.

    Args:
        datastore: that `check_can_add_images` lets pass.
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
        suffixes = file.suffixes[-2:] if file.name.endswith(".gz") else file.suffixes[-1:]
        named = Path(folder) / "".join([added, *suffixes])
        shutil.copyfile(file, named)
        return datastore.add_image(added, str(named), {"n2v_source": image_id, "n2v_model": model})
