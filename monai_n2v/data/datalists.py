# SPDX-License-Identifier: Apache-2.0
"""Lists of images to train on or to score, with their partners in other folders, and datasets of them."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import Dataset, MetaTensor, PersistentDataset
from monai.data.utils import pickle_hashing
from torch.utils.data import default_collate

from monai_n2v.io.find import find_images
from monai_n2v.io.images import split_name, voxel_files_of

# What makes arrays of metadata when they are unpickled: numbers, and no code.
_ARRAYS: list[Any] = [
    np.ndarray,
    np.dtype,
    np.empty(0).__reduce__()[0],
    *(type(np.dtype(kind)) for kind in "?bBiIlLqQefd"),
]


def find_pairs(
    dataset_dir: str | Path,
    target_dir: str | Path,
    exclude: str | Path | None = None,
    pattern: str | Sequence[str] | None = None,
) -> list[dict[str, str]]:
    """List all pairs of two folders with the same relative paths, as a MONAI data list; suffixes may differ.

    Args:
        dataset_dir: the folder of the noisy images, searched as `find_images` does.
        target_dir: another folder, of the targets: clean images, or second noisy ones for Noise2Noise. It may lie below
            ``dataset_dir``.
        exclude: a folder whose files are left out, such as that of the results.
        pattern: only images of ``dataset_dir`` that match it, see `find_images`; targets of others are left alone.

    Returns:
        ``[{"image": path, "label": path}, ...]``, sorted.

    Raises:
        FileNotFoundError: for a missing folder, one without images, or an image or target without partner.
        NotADirectoryError: for a file.
        ValueError: where two images of a folder differ in their suffix alone, or both folders are one.
    """
    return _match_images(dataset_dir, {"label": ("target_dir", target_dir)}, exclude, pattern, complete=not pattern)


def find_scored_images(
    dataset_dir: str | Path,
    clean_dir: str | Path | None = None,
    repeat_dirs: str | Sequence[str] | None = None,
    exclude: str | Path | None = None,
    pattern: str | Sequence[str] | None = None,
) -> list[dict[str, str]]:
    """List noisy images with their references, as a MONAI data list.

    A reference has the path of its image below the other folder; its suffix may be another. References of no image are
    left alone.

    Args:
        dataset_dir: folder of noisy images, see `find_images`.
        clean_dir: folder of clean ones, or None.
        repeat_dirs: folders of further exposures, noisy and aligned, each with one of every image.
        exclude: a folder whose images are left out. Folders of references below ``dataset_dir`` are too.
        pattern: only images of ``dataset_dir`` that match it, see `find_images`.

    Returns:
        ``[{"image": path, "clean": path, "repeat_0": path, ...}, ...]``, keys without a folder left out.

    Raises:
        FileNotFoundError: for an image without reference, naming it.
        ValueError: for an image with several, images that differ in their suffix alone, or a folder of references that
            is ``dataset_dir`` itself.
    """
    repeat_dirs = [repeat_dirs] if isinstance(repeat_dirs, (str, Path)) else repeat_dirs or []
    others: dict[str, tuple[str, str | Path]] = {} if clean_dir is None else {"clean": ("clean_dir", clean_dir)}
    others |= {f"repeat_{k}": ("repeat_dirs", folder) for k, folder in enumerate(repeat_dirs)}
    return (
        _match_images(dataset_dir, others, exclude, pattern) if others else find_images(dataset_dir, exclude, pattern)
    )


def _match_images(
    dataset_dir: str | Path,
    others: Mapping[str, tuple[str, str | Path]],
    exclude: str | Path | None,
    pattern: str | Sequence[str] | None,
    complete: bool = False,
) -> list[dict[str, str]]:
    """List the images of a folder, each with its partner in every other folder.

    Args:
        dataset_dir: folder of noisy images.
        others: further folders, ``{key: (argument, folder)}``: the partner's key in the data list, and what messages
            call the folder. Images of a folder that lies inside another are not the other's.
        exclude: a folder whose images are left out.
        pattern: of the images of ``dataset_dir``.
        complete: whether every image of the other folders must be a partner, too.
    """
    top = Path(dataset_dir)
    for argument, folder in others.values():
        if Path(folder).resolve() == top.resolve():
            raise ValueError(
                f"{argument} must be another folder than dataset_dir, got {folder}. Name that of the partners."
            )
    inside = [Path(folder) for _, folder in others.values()]
    images = _images_by_name(dataset_dir, "dataset_dir", exclude, inside, pattern)
    for paths in images.values():
        if len(paths) > 1:
            raise ValueError(
                f"dataset_dir must hold one image per name, got {paths[0]} and {paths[1]}. Rename one of them."
            )
    items = [{"image": str(paths[0])} for paths in images.values()]
    for key, (argument, folder) in others.items():
        found = _images_by_name(folder, argument, exclude, [top])
        for name, item in zip(images, items):
            partners = found.pop(name, [])
            if not partners:
                raise FileNotFoundError(
                    f"{folder} must hold a reference of every image, got none for {item['image']}. Rename the files "
                    "alike: the same path below both folders, up to the file type (.png, .nii.gz)."
                )
            if len(partners) > 1:
                raise ValueError(
                    f"{folder} must hold one reference of every image, got "
                    f"{' and '.join(path.name for path in partners)} for {item['image']}. Remove one."
                )
            item[key] = str(partners[0])
        if complete and found:
            raise FileNotFoundError(
                f"{dataset_dir} must hold an image for every one of {argument}, got none for "
                f"{next(iter(found.values()))[0]}. Add it, or take the file away."
            )
    return items


def _images_by_name(
    folder: str | Path,
    argument: str,
    exclude: str | Path | None,
    others: Sequence[Path],
    pattern: str | Sequence[str] | None = None,
) -> dict[Path, list[Path]]:
    """Images of a folder by path below it without suffix, sorted, without those of other folders inside it."""
    try:
        found = [Path(item["image"]) for item in find_images(folder, exclude, pattern)]
    except OSError as error:
        raise type(error)(str(error).replace("dataset_dir", argument)) from None
    top = Path(folder)
    inside = [other.resolve() for other in others if other.resolve().is_relative_to(top.resolve())]
    by_name: dict[Path, list[Path]] = {}
    for path in found:
        if not any(path.resolve().is_relative_to(other) for other in inside):
            below = path.relative_to(top)
            # A DICOM series is a folder, whose name may have a dot.
            name = below if path.is_dir() else below.with_name(split_name(path)[0])
            by_name.setdefault(name, []).append(path)
    if not by_name:
        raise FileNotFoundError(f"{argument} must hold images, got none of its own below {folder}. Check the path.")
    return by_name


def make_dataset(
    data: Sequence[Any], transform: Callable[[Any], Any] | None = None, cache_dir: str | Path | None = None
) -> Dataset:
    """Make a MONAI dataset, one that keeps what it has read and preprocessed on disk where a folder is named.

    Args:
        data: a data list. Where it is empty, inside a MONAI Label server, the images of its studies: MONAI Label's own
            app for bundles hands over those that somebody has labeled, and to denoise nobody labels any.
        transform: of an item, deterministic.
        cache_dir: folder of the copies, which later runs with the same files and transform use too. A copy belongs to
            the files that an item names, at their place, time and size: one that has changed is read again, and its
            former copy stays until the folder is emptied. None for no copies.

    Returns:
        a ``Dataset`` or ``PersistentDataset``.
    """
    data = data or _images_of_label_studies()
    if cache_dir is None:
        return Dataset(data, transform)
    # Copies have their metadata, which plain tensors would lose. Nothing of them is run: one that holds more than
    # tensors and arrays is made anew.
    torch.serialization.add_safe_globals(_ARRAYS)
    return PersistentDataset(data, transform, cache_dir, _item_hash, hash_transform=pickle_hashing, track_meta=True)


def _images_of_label_studies() -> list[dict[str, str]]:
    """List the noisy images of the folder that a MONAI Label server in this environment serves; none without one."""
    studies = os.environ.get("MONAI_LABEL_STUDIES", "")
    if not studies or not Path(studies).is_dir():
        return []
    return find_images(studies)


def _item_hash(item: Any) -> bytes:
    """Hash an item with the state of the files it names."""
    return pickle_hashing(_with_files(item))


def _with_files(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _with_files(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_files(one) for one in value]
    return _file_state(value) if isinstance(value, (str, Path)) else value


def _file_state(name: str | Path) -> str:
    """Where a file is, when it was written and how large it is; of a folder, its files. Other texts as they are."""
    try:
        path = Path(name).resolve(strict=True)
        # Voxels may lie beside a header; a series lies right in its folder.
        files = path.iterdir() if path.is_dir() else [path, *voxel_files_of(path)]
        states = [(one, one.stat()) for one in sorted(files) if one.is_file()]
    except (OSError, ValueError):
        return str(name)
    return "\n".join([str(path), *(f"{one} {state.st_mtime_ns} {state.st_size}" for one, state in states)])


def collate_one(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Make a batch of one image, as MONAI's ``list_data_collate`` does, but as views: that one copies every voxel.

    Args:
        items: one dictionary.

    Returns:
        its tensors with an axis in front, everything else in a list of one.
    """
    if len(items) != 1:
        raise ValueError(f"batch_size must be 1, got {len(items)}. Images of a folder may differ in size.")
    (item,) = items
    batch: dict[str, Any] = {}
    for key, value in item.items():
        if isinstance(value, MetaTensor):
            batch[key] = MetaTensor(
                value.as_tensor()[None],
                meta=default_collate([dict(value.meta)]),
                applied_operations=[value.applied_operations],
            )
            batch[key].is_batch = True
        else:
            batch[key] = value[None] if isinstance(value, torch.Tensor) else [value]
    return batch
