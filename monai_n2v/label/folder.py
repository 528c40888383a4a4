# SPDX-License-Identifier: Apache-2.0
"""The folder of a MONAI Label app: our bundles and a ``main.py`` of one import."""

from __future__ import annotations

from pathlib import Path

from monai_n2v.resources import copy_bundle, list_bundles
from monai_n2v.staging import staged

__all__ = ["make_app"]

_MAIN = '''"""MONAI Label app for Noise2Void, made by ``python -m monai_n2v.label init``.

Put further bundles into ``model/``: segmentation bundles are served as they are and after denoising.
"""

from monai_n2v.label.app import DenoisingApp  # noqa: F401 - MONAI Label looks for it here
'''


def make_app(folder: Path) -> Path:
    """Make the folder of an app; MONAI Label need not be installed.

    Args:
        folder: must not exist yet, or be empty.

    Returns:
        ``folder``, with ``main.py`` and the bundles in ``model/``.

    Raises:
        FileExistsError: where something is in the folder.
        PermissionError: where it cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"DIR must not exist yet or be an empty folder, got {folder}. Name another one.")
    with staged(folder) as stage:
        stage.mkdir()
        (stage / "model").mkdir()
        for name in list_bundles():
            copy_bundle(name, stage / "model" / name)
        (stage / "main.py").write_text(_MAIN)
    return folder
