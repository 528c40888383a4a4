# SPDX-License-Identifier: Apache-2.0
"""Noise2Void for MONAI: denoise images and volumes with a network trained on the noisy images alone.

Importing the package loads neither torch nor MONAI; its names are looked up when they are first used.
"""

from __future__ import annotations

import importlib.util
import pkgutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from monai_n2v.averaging import SymmetricInferer
    from monai_n2v.data import PatchLoader
    from monai_n2v.denoising import denoise
    from monai_n2v.detail import DetailInferer
    from monai_n2v.inference import AlignedTileInferer
    from monai_n2v.losses import N2VLoss
    from monai_n2v.networks import N2VUNet
    from monai_n2v.resources import find_bundle, find_config
    from monai_n2v.transforms import RandN2VMask, RandN2VMaskd

__version__ = "0.1.0"

__all__ = [
    "AlignedTileInferer",
    "DetailInferer",
    "N2VLoss",
    "N2VUNet",
    "PatchLoader",
    "RandN2VMask",
    "RandN2VMaskd",
    "SymmetricInferer",
    "__version__",
    "denoise",
    "find_bundle",
    "find_config",
]

_HOMES = {
    "AlignedTileInferer": "inference",
    "DetailInferer": "detail",
    "N2VLoss": "losses",
    "N2VUNet": "networks",
    "PatchLoader": "data",
    "RandN2VMask": "transforms",
    "RandN2VMaskd": "transforms",
    "SymmetricInferer": "averaging",
    "denoise": "denoising",
    "find_bundle": "resources",
    "find_config": "resources",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"monai_n2v.{_HOMES[name]}"), name)
    if not name.startswith("_") and importlib.util.find_spec(f"monai_n2v.{name}") is not None:
        return importlib.import_module(f"monai_n2v.{name}")
    raise AttributeError(f"module 'monai_n2v' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *(module.name for module in pkgutil.iter_modules(__path__))})
