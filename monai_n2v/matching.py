# SPDX-License-Identifier: Apache-2.0
"""Which images of several folders belong together: those of one path below their folders; suffixes may differ."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from monai_n2v.volumes import find_images, split_name

__all__ = ["match_images"]


def match_images(
    dataset_dir: str | Path,
    others: Mapping[str, tuple[str, str | Path]],
    exclude: str | Path | None = None,
    complete: bool = False,
) -> list[dict[str, str]]:
    """List the images of a folder, each with its partner in every other folder, as a MONAI data list.

    Args:
        dataset_dir: folder of noisy images, see `find_images`.
        others: further folders, ``{key: (argument, folder)}``: the partner's key in the data list, and what messages
            call the folder. Those below ``dataset_dir`` hold no noisy images, and the other way round.
        exclude: a folder whose images are left out.
        complete: whether every image of the other folders must be a partner, too.

    Returns:
        ``[{"image": path, key: path, ...}, ...]``, sorted.

    Raises:
        FileNotFoundError: for a missing folder, one without images, or an image without partner.
        NotADirectoryError: for a file.
        ValueError: for a folder that is ``dataset_dir`` itself, or images that differ in their suffix alone.
    """
    top = Path(dataset_dir)
    for argument, folder in others.values():
        if str(folder) and Path(folder).resolve() == top.resolve():
            raise ValueError(
                f"{argument} must be another folder than dataset_dir, got {folder}. Name that of the partners."
            )
    folders = [Path(folder) for _, folder in others.values() if str(folder)]
    images = _images_by_name(dataset_dir, "dataset_dir", exclude, folders)
    if others:
        for paths in images.values():
            if len(paths) > 1:
                raise ValueError(
                    f"dataset_dir must hold one image per name, got {paths[0]} and {paths[1]}. Rename one of them."
                )
    items = [{"image": str(path)} for path in sorted(path for paths in images.values() for path in paths)]
    for key, (argument, folder) in others.items():
        found = _images_by_name(folder, argument, exclude, [top])
        for item in items:
            item[key] = str(_partner(Path(item["image"]), top, Path(folder), found))
        for name in sorted(found.keys() - images.keys() if complete else ()):
            raise FileNotFoundError(
                f"{dataset_dir} must hold an image for every one of {argument}, got none for {found[name][0]}. "
                "Add it, or take the file away."
            )
    return items


def _images_by_name(
    folder: str | Path, argument: str, exclude: str | Path | None, others: list[Path]
) -> dict[Path, list[Path]]:
    """Images of a folder by path below it without suffix, without those of other folders inside it."""
    try:
        found = find_images(folder, exclude)
    except OSError as error:
        raise type(error)(str(error).replace("dataset_dir", argument)) from None
    top = Path(folder).resolve()
    within = [other.resolve() for other in others if other.resolve().is_relative_to(top)]
    by_name: dict[Path, list[Path]] = {}
    for item in found:
        path = Path(item["image"])
        if not any(path.resolve().is_relative_to(other) for other in within):
            by_name.setdefault(_name_below(Path(folder), path), []).append(path)
    if not by_name:
        raise FileNotFoundError(f"{argument} must hold images, got none of its own below {folder}. Check the path.")
    return by_name


def _name_below(folder: Path, path: Path) -> Path:
    """Path below a folder, without the suffix of an image; that of a DICOM series is a folder's and stays."""
    below = path.relative_to(folder)
    return below if path.is_dir() else below.with_name(split_name(path)[0])


def _partner(image: Path, top: Path, folder: Path, found: Mapping[Path, list[Path]]) -> Path:
    partners = found.get(_name_below(top, image), [])
    if not partners:
        raise FileNotFoundError(
            f"{folder} must hold a reference of every image, got none for {image}. "
            "Rename the files alike: the same path below both folders, up to the file type (.png, .nii.gz)."
        )
    if len(partners) > 1:
        names = " and ".join(path.name for path in partners)
        raise ValueError(f"{folder} must hold one reference of every image, got {names} for {image}. Remove one.")
    return partners[0]
