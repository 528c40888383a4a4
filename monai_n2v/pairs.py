# SPDX-License-Identifier: Apache-2.0
"""Which noisy image belongs to which target, for schemes that learn from pairs."""

from __future__ import annotations

from pathlib import Path

from monai_n2v.volumes import find_images, split_name

__all__ = ["find_pairs"]


def find_pairs(
    dataset_dir: str | Path, target_dir: str | Path, exclude: str | Path | None = None
) -> list[dict[str, str]]:
    """List all pairs of two folders with the same relative paths; suffixes may differ.

    Args:
        dataset_dir: the folder of the noisy images, searched as `find_images` does.
        target_dir: the folder of the targets: clean images, or second noisy ones for Noise2Noise.
        exclude: a folder whose files are left out, such as that of the results.

    Returns:
        ``[{"image": path, "label": path}, ...]``, sorted.

    Raises:
        FileNotFoundError: for a missing folder, one without images, or an image or target without partner.
        NotADirectoryError: for a file.
        ValueError: where two images of a folder differ in their suffix alone.
    """
    if not str(target_dir):
        raise FileNotFoundError("target_dir must be a folder with images, got ''. Pass --target_dir DIR.")
    images, targets = _by_name(dataset_dir, exclude, "dataset_dir"), _by_name(target_dir, exclude, "target_dir")
    for name in sorted(images.keys() ^ targets.keys()):
        alone, other = (images[name], target_dir) if name in images else (targets[name], dataset_dir)
        raise FileNotFoundError(
            f"target_dir must pair with dataset_dir by relative paths, got {alone} without a partner below {other}. "
            "Add it, or take the file away."
        )
    return [{"image": images[name], "label": targets[name]} for name in sorted(images)]


def _by_name(folder: str | Path, exclude: str | Path | None, argument: str) -> dict[str, str]:
    """Images by relative path without suffix."""
    try:
        found = find_images(folder, exclude)
    except OSError as error:
        raise type(error)(str(error).replace("dataset_dir", argument)) from None
    by_name: dict[str, str] = {}
    for item in found:
        path = Path(item["image"])
        stem = path.name if path.is_dir() else split_name(path)[0]
        name = (path.relative_to(folder).parent / stem).as_posix()
        if name in by_name:
            raise ValueError(
                f"{argument} must hold one image per name, got {by_name[name]} and {path}. Rename one of them."
            )
        by_name[name] = str(path)
    return by_name
