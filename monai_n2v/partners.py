# SPDX-License-Identifier: Apache-2.0
"""Which images belong together: references that have the path of a noisy image below a folder of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from monai_n2v.volumes import find_images, split_name

__all__ = ["find_scored_images"]


def find_scored_images(
    dataset_dir: str | Path,
    clean_dir: str | Path | None = None,
    repeat_dirs: str | Sequence[str] | None = None,
    exclude: str | Path | None = None,
) -> list[dict[str, str]]:
    """List noisy images with their references, as a MONAI data list.

    A reference has the path of its image below the other folder; its suffix may be another.

    Args:
        dataset_dir: folder of noisy images, see `find_images`.
        clean_dir: folder of clean ones, or None.
        repeat_dirs: folders of further exposures, noisy and aligned, each with one of every image.
        exclude: a folder below ``dataset_dir`` whose images are left out. Folders of references are too.

    Returns:
        ``[{"image": path, "clean": path, "repeat_0": path, ...}, ...]``, keys without a folder left out.

    Raises:
        FileNotFoundError: for an image without reference, naming it.
        ValueError: for an image with several, or a folder of references that is ``dataset_dir`` itself.
    """
    repeat_dirs = [repeat_dirs] if isinstance(repeat_dirs, (str, Path)) else list(repeat_dirs or [])
    others = {} if clean_dir is None else {"clean": Path(clean_dir)}
    others |= {f"repeat_{k}": Path(folder) for k, folder in enumerate(repeat_dirs)}
    top = Path(dataset_dir)
    for key, folder in others.items():
        if folder.resolve() == top.resolve():
            name = "clean_dir" if key == "clean" else "repeat_dirs"
            raise ValueError(f"{name} must be another folder than dataset_dir, got {folder}. Name that of references.")
    items = find_images(dataset_dir, exclude)
    within = [folder.resolve() for folder in others.values() if folder.resolve().is_relative_to(top.resolve())]
    items = [item for item in items if not any(Path(item["image"]).resolve().is_relative_to(f) for f in within)]
    for key, folder in others.items():
        by_stem: dict[Path, list[Path]] = {}
        for found in find_images(folder):
            path = Path(found["image"])
            by_stem.setdefault(_stem_below(folder, path), []).append(path)
        for item in items:
            item[key] = str(_partner(Path(item["image"]), top, folder, by_stem))
    return items


def _stem_below(folder: Path, path: Path) -> Path:
    """Path below a folder, without the suffix of an image; that of a DICOM series is a folder's and stays."""
    below = path.relative_to(folder)
    return below if path.is_dir() else below.with_name(split_name(path)[0])


def _partner(image: Path, top: Path, folder: Path, by_stem: Mapping[Path, list[Path]]) -> Path:
    partners = by_stem.get(_stem_below(top, image), [])
    if len(partners) > 1:
        partners = [path for path in partners if path.name == image.name] or partners
    if not partners:
        raise FileNotFoundError(
            f"{folder} must hold a reference of every image, got none for {image}. "
            "Give it the image's own path below its folder; the suffix may be another."
        )
    if len(partners) > 1:
        names = " and ".join(path.name for path in partners)
        raise ValueError(f"{folder} must hold one reference of every image, got {names} for {image}. Remove one.")
    return partners[0]
