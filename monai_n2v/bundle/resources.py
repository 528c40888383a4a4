# SPDX-License-Identifier: Apache-2.0
"""The bundles and config overlays this package carries: where they are, and copies of them."""

import difflib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from monai_n2v.io.atomic import staged

PRIOR = "models/prior.pt"
# What a bundle consists of; models, runs, checkpoints and results in a checkout belong to somebody's training.
_PARTS = ("LICENSE", "configs", "docs", PRIOR)


def _roots() -> tuple[Path, Path]:
    room = Path(__file__).resolve().parent
    # In the wheel the folders lie in this room, in a checkout beside the package.
    return room / "share", room.parents[1]


def _resource(kind: str, name: str) -> Path:
    for root in _roots():
        if (root / kind / name).exists():
            return root / kind / name
    raise FileNotFoundError(f"{kind} must hold {name}, got none in {_roots()[1]}. Reinstall monai-n2v.")


def find_bundle(name: str) -> Path:
    """Find a bundle of this package, from the wheel and from a checkout alike.

    Args:
        name: ``"n2v_denoise_2d"`` or ``"n2v_denoise_3d"``.

    Returns:
        its folder.

    Raises:
        FileNotFoundError: for another name.
    """
    return _resource("bundles", name)


def find_config(name: str) -> Path:
    """Find a config overlay of this package, from the wheel and from a checkout alike.

    Args:
        name: file name in ``configs/``, for example ``"anneal.json"``.

    Returns:
        its path.

    Raises:
        FileNotFoundError: for another name.
    """
    return _resource("configs", name)


def bundle_name(spatial_dims: int) -> str:
    """Name of the bundle for images (2) or volumes (3)."""
    return f"n2v_denoise_{spatial_dims}d"


def list_bundles() -> dict[str, str]:
    """Name every bundle of this package.

    Returns:
        its task by its name.
    """
    found: dict[str, str] = {}
    for root in _roots():
        for path in sorted(root.glob("bundles/*/configs/metadata.json")):
            found.setdefault(path.parent.parent.name, str(json.loads(path.read_text())["task"]))
    return found


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Find the name that a misspelled one may mean.

    Args:
        name: misspelled.
        known: the right ones.
        cutoff: similarity that is asked for, from 0 to 1.

    Returns:
        the most similar of ``known``, or None where none is similar.
    """
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)), None)


def copy_bundle(name: str, folder: Path) -> Path:
    """Copy a bundle of this package, to change, train or ship it: configs, docs, license and prior, nothing else.

    Args:
        name: of the bundle.
        folder: where it is to be; must not exist yet, or be empty.

    Returns:
        ``folder``.

    Raises:
        FileNotFoundError: for an unknown name, naming the nearest.
        FileExistsError: where something is in the folder.
    """
    known = list_bundles()
    if name not in known:
        meant = nearest(name, known, cutoff=0)
        raise FileNotFoundError(f"NAME must be a bundle of this package, got {name}. Did you mean {meant}?")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"DIR must not exist yet or be an empty folder, got {folder}. Name another one.")
    bundle = find_bundle(name)
    with staged(folder) as stage:
        stage.mkdir()
        for part in _PARTS:
            if (bundle / part).is_dir():
                shutil.copytree(bundle / part, stage / part, ignore=shutil.ignore_patterns("__pycache__", ".*"))
            elif (bundle / part).is_file():
                (stage / part).parent.mkdir(exist_ok=True)
                shutil.copyfile(bundle / part, stage / part)
    return folder
