# SPDX-License-Identifier: Apache-2.0
"""Which noisy image belongs to which target, for schemes that learn from pairs."""

from __future__ import annotations

from pathlib import Path

from monai_n2v.matching import match_images

__all__ = ["find_pairs"]


def find_pairs(
    dataset_dir: str | Path, target_dir: str | Path, exclude: str | Path | None = None
) -> list[dict[str, str]]:
    """List all pairs of two folders with the same relative paths; suffixes may differ.

    Args:
        dataset_dir: the folder of the noisy images, searched as `find_images` does.
        target_dir: another folder, of the targets: clean images, or second noisy ones for Noise2Noise. It may lie below
            ``dataset_dir``.
        exclude: a folder whose files are left out, such as that of the results.

    Returns:
        ``[{"image": path, "label": path}, ...]``, sorted.

    Raises:
        FileNotFoundError: for a missing folder, one without images, or an image or target without partner.
        NotADirectoryError: for a file.
        ValueError: where two images of a folder differ in their suffix alone, or both folders are one.
    """
    return match_images(dataset_dir, {"label": ("target_dir", target_dir)}, exclude, complete=True)
