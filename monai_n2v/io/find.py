# SPDX-License-Identifier: Apache-2.0
"""Which images lie below a folder: all that can be read, but what MONAI Label has put there beside the noisy ones."""

import fnmatch
import json
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from monai_n2v.io import dicom_files, ome, tiff
from monai_n2v.io.images import SUFFIXES, split_name

logger = logging.getLogger(__name__)

_OF_OME_SETS = tuple(f".ome{suffix}" for suffix in tiff.SUFFIXES)
_RECORD = "datastore_v2.json"  # of MONAI Label from 0.3 on
# What the denoised copy of an image is called, without ending: MONAI Label can lose what it has noted of one.
COPY_SUFFIX = "_denoised"


def find_images(
    dataset_dir: str | Path, exclude: str | Path | None = None, pattern: str | Sequence[str] | None = None
) -> list[dict[str, str]]:
    """List all images below a folder, sorted, as a MONAI data list: files, and folders that hold DICOM files.

    In a folder of MONAI Label's studies, its denoised copies and labels are skipped, which the log says.

    Args:
        dataset_dir: the folder; searched recursively, hidden files and folders left out, links to folders not followed.
        exclude: a folder whose files are left out, such as that of the results.
        pattern: only images whose name or path below ``dataset_dir`` matches this glob, or one of several.

    Returns:
        ``[{"image": path}, ...]``.

    Raises:
        FileNotFoundError: for a missing or empty name, or a folder without images, or without one that matches.
        NotADirectoryError: for a file.
    """
    suffixes = ", ".join(SUFFIXES)
    if not str(dataset_dir):
        raise FileNotFoundError(
            f"dataset_dir must be a folder with images ({suffixes}), got ''. Pass --dataset_dir DIR."
        )
    top = Path(dataset_dir)
    if top.is_file():
        raise NotADirectoryError(f"dataset_dir must be a folder, got the file {top}. Pass the folder it lies in.")
    if not top.is_dir():
        raise FileNotFoundError(f"dataset_dir must be an existing folder, got {top}. Pass --dataset_dir DIR.")
    paths, n_copies, n_labels = _walk(top, None if exclude is None else Path(exclude).resolve())
    passed = " and ".join(f"{n} {what}" for n, what in ((n_copies, "denoised copies"), (n_labels, "labels")) if n)
    if not paths:
        beside = f"{passed} of MONAI Label alone" if passed else "none"
        raise FileNotFoundError(f"dataset_dir must hold images ({suffixes}), got {beside} below {top}. Check the path.")
    patterns = [pattern] if isinstance(pattern, str) else pattern or []
    found = [path for path in sorted(paths) if _matches(path, top, patterns)]
    if not found:
        raise FileNotFoundError(
            f"pattern must match an image below {top}, got {' '.join(patterns)}. Check the pattern."
        )
    if passed:
        logger.info("%s: %s of MONAI Label are skipped.", top, passed)
    return [{"image": str(path)} for path in found]


def _walk(top: Path, left_out: Path | None) -> tuple[list[Path], int, int]:
    """The images below a folder, and how many denoised copies and labels of MONAI Label are none."""
    paths: list[Path] = []
    labels: list[Path] = []
    n_copies = n_labels = 0
    for place, folders, names in os.walk(top):
        folder = Path(place)
        folders[:] = [n for n in folders if not n.startswith(".") and (folder / n).resolve() != left_out]
        if folder.resolve() == left_out:
            continue
        images = [folder / name for name in names if _is_image(folder / name)]
        if any(folder.is_relative_to(one) for one in labels):
            n_labels += len(images)
            continue
        studies = Studies(folder)
        labels += [] if studies.labels is None else [studies.labels]
        paths += [path for path in images if path.name not in studies.copies]
        n_copies += sum(path.name in studies.copies for path in images)
        if dicom_files.has_dicom(folder):
            paths.append(folder)
    return paths, n_copies, n_labels


def _matches(path: Path, top: Path, patterns: Sequence[str]) -> bool:
    names = (path.name, str(path.relative_to(top)))
    return not patterns or any(fnmatch.fnmatch(name, pattern) for pattern in patterns for name in names)


def _is_image(path: Path) -> bool:
    # Of a two-file image, the header stands for both; of an OME set, its first file for all.
    if split_name(path)[1].lower() in ("", ".img") or path.name.startswith(".") or not path.is_file():
        return False
    return not path.name.lower().endswith(_OF_OME_SETS) or ome.stands_for(path) == path


class Studies:
    """What MONAI Label has noted of a folder; of one that is no folder of its, nothing.

    Args:
        folder: that may be one of studies.

    Attributes:
        labels: the folder of labels in it, or None.
        copies: names of the denoised copies in it.
    """

    def __init__(self, folder: Path) -> None:
        self.labels: Path | None = None
        self.copies: frozenset[str] = frozenset()
        try:
            record = json.loads((folder / _RECORD).read_text())
            objects = {str(name): dict(one["image"]) for name, one in record["objects"].items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return
        self.labels = folder / str(record.get("labels_dir") or "labels")
        self.copies = frozenset(
            name + str(image.get("ext", "")) for name, image in objects.items() if _is_copy(name, image, objects)
        )


def _is_copy(name: str, image: dict[str, Any], names: Iterable[str]) -> bool:
    info = image.get("info")
    if isinstance(info, dict) and info.get("n2v_source"):
        return True
    return is_named_copy(name, names)


def is_named_copy(name: str, names: Iterable[str]) -> bool:
    """Tell whether an image of studies is called the denoised copy of another one there.

    Args:
        name: of the image, without ending.
        names: of all images there.
    """
    return name.endswith(COPY_SUFFIX) and name.removesuffix(COPY_SUFFIX) in names
