# SPDX-License-Identifier: Apache-2.0
"""Which images belong together: references that have the path of a noisy image below a folder of their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from monai_n2v.matching import match_images

__all__ = ["find_scored_images"]


def find_scored_images(
    dataset_dir: str | Path,
    clean_dir: str | Path | None = None,
    repeat_dirs: str | Sequence[str] | None = None,
    exclude: str | Path | None = None,
) -> list[dict[str, str]]:
    """List noisy images with their references, as a MONAI data list.

    A reference has the path of its image below the other folder; its suffix may be another. References of no image are
    left alone.

    Args:
        dataset_dir: folder of noisy images, see `find_images`.
        clean_dir: folder of clean ones, or None.
        repeat_dirs: folders of further exposures, noisy and aligned, each with one of every image.
        exclude: a folder whose images are left out. Folders of references below ``dataset_dir`` are too.

    Returns:
        ``[{"image": path, "clean": path, "repeat_0": path, ...}, ...]``, keys without a folder left out.

    Raises:
        FileNotFoundError: for an image without reference, naming it.
        ValueError: for an image with several, images that differ in their suffix alone, or a folder of references that
            is ``dataset_dir`` itself.
    """
    repeat_dirs = [repeat_dirs] if isinstance(repeat_dirs, (str, Path)) else list(repeat_dirs or [])
    others: dict[str, tuple[str, str | Path]] = {} if clean_dir is None else {"clean": ("clean_dir", clean_dir)}
    others |= {f"repeat_{k}": ("repeat_dirs", folder) for k, folder in enumerate(repeat_dirs)}
    return match_images(dataset_dir, others, exclude)
