# SPDX-License-Identifier: Apache-2.0
"""The images of a MONAI Label datastore: which are noisy, which are denoised copies, and how a copy gets in."""

import functools
import logging
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from monailabel.config import settings
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.datastore import Datastore

from monai_n2v.io.find import COPY_SUFFIX, find_images, is_named_copy
from monai_n2v.io.images import SUFFIXES, read_volume
from monai_n2v.transforms.axes import MIN_DEPTH

logger = logging.getLogger(__name__)

_N_LOOKED_AT = 10  # images, to tell volumes from others


def open_folder(studies: str) -> LocalDatastore:
    """Open a folder of studies, with images of every kind that can be read; MONAI Label alone knows fewer.

    Args:
        studies: the folder.

    Returns:
        the datastore, which follows the folder where MONAI Label's settings say so.
    """
    known = settings.MONAI_LABEL_DATASTORE_FILE_EXT
    # Of a two-file image the header stands for both.
    ours = [f"*{suffix}" for suffix in SUFFIXES if suffix != ".img"]
    return LocalDatastore(
        studies,
        extensions=list(dict.fromkeys([*known, *ours])),
        auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
        read_only=settings.MONAI_LABEL_DATASTORE_READ_ONLY,
    )


def check_all_served(datastore: Datastore) -> None:
    """Say which images of a folder MONAI Label does not see: it looks at the folder itself, and at one file per name.

    Args:
        datastore: of the app.

    Raises:
        ValueError: where it sees none, but there are some below.
    """
    if type(datastore) is not LocalDatastore:
        return
    top = Path(datastore._datastore_path).resolve()
    try:
        found = [Path(item["image"]) for item in find_images(top)]
    except FileNotFoundError:  # nothing yet
        return
    served = {Path(datastore.get_image_uri(image_id)) for image_id in datastore.list_images()}
    below = [path for path in found if path.parent != top or path.is_dir()]
    if below and len(below) == len(found) and not served:
        raise ValueError(
            f"studies must hold images themselves, got {len(below)} in folders below {top}, {below[0]} first. "
            "Start with the folder they lie in, or put links to them into one; for DICOM, use a DICOMweb server."
        )
    if below:
        logger.warning(
            "%d images in folders below the studies are not served, %s first: MONAI Label looks at the folder itself.",
            len(below), below[0],
        )  # fmt: skip
    for path in found:
        if path not in below and path.resolve() not in served:
            logger.warning("%s is not served: another image of the studies has its name. Rename it.", path)


def denoised_id(image_id: str) -> str:
    """What the denoised copy of an image is called."""
    return image_id + COPY_SUFFIX


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
    return is_named_copy(image_id, datastore.list_images())


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


def n_noisy(datastore: Datastore) -> int:
    """How many images can be trained on; of a DICOMweb server all that it lists, since each would have to be asked for.

    Args:
        datastore: of the app.
    """
    if isinstance(datastore, DICOMWebDatastore):
        return len(datastore.list_images())
    return len(noisy_images(datastore))


def needs_2d_network(datastore: Datastore, image_ids: Iterable[str]) -> bool:
    """Tell whether images are for the 2D network: none of the first few is a volume of enough slices.

    Args:
        datastore: of the app.
        image_ids: to look at.

    Returns:
        False without an image that can be read.
    """
    found = False
    for image_id in list(image_ids)[:_N_LOOKED_AT]:
        try:
            shape = read_volume(datastore.get_image_uri(image_id)).data.shape[1:]
        except (ValueError, OSError):
            continue
        if len(shape) == 3 and min(shape) >= MIN_DEPTH:
            return False
        found = True
    return found


def keep_beside(datastore: Datastore, image_id: str, file: Path, tag: str) -> str:
    """Keep what was made beside a denoised image, as a label of its own tag: never an image, so never trained on.

    Args:
        datastore: of the app.
        image_id: the noisy image.
        file: to keep; stays.
        tag: of the label.

    Returns:
        where clients get it, below the server's address.
    """
    tag = f"n2v_{tag}"
    # One file per tag: an older one may have another ending.
    if tag in datastore.get_labels_by_image_id(image_id):
        datastore.remove_label(image_id, tag)
    datastore.save_label(image_id, str(file), tag, {"n2v_source": image_id})
    return f"{settings.MONAI_LABEL_API_STR}/datastore/label?label={quote(image_id)}&tag={tag}"


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
