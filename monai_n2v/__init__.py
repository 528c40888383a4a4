# SPDX-License-Identifier: Apache-2.0
"""Noise2Void for MONAI: denoise images and volumes with a network trained on the noisy images alone.

Importing the package loads neither torch nor MONAI; its names are looked up when they are first used.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from monai_n2v.apps.denoise import denoise as denoise
    from monai_n2v.bundle import find_bundle as find_bundle, find_config as find_config
    from monai_n2v.data import PatchLoader as PatchLoader
    from monai_n2v.inferers import AlignedTileInferer as AlignedTileInferer, SymmetricInferer as SymmetricInferer
    from monai_n2v.losses import N2VLoss as N2VLoss
    from monai_n2v.networks import N2VUNet as N2VUNet, ReplicateUNet as ReplicateUNet
    from monai_n2v.transforms import RandN2VMask as RandN2VMask, RandN2VMaskd as RandN2VMaskd

__version__ = "0.1.0"

_ROOMS = ["apps", "bundle", "cli", "data", "handlers", "inferers", "io", "label", "losses", "metrics", "networks"]
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    [*_ROOMS, "noise", "report", "transforms"],
    {
        "apps.denoise": ["denoise"],
        "bundle": ["find_bundle", "find_config"],
        "data": ["PatchLoader"],
        "inferers": ["AlignedTileInferer", "SymmetricInferer"],
        "losses": ["N2VLoss"],
        "networks": ["N2VUNet", "ReplicateUNet"],
        "transforms": ["RandN2VMask", "RandN2VMaskd"],
    },
)
