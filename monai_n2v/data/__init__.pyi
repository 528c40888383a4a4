# SPDX-License-Identifier: Apache-2.0
from .datalists import (
    collate_one as collate_one,
    find_pairs as find_pairs,
    find_scored_images as find_scored_images,
    make_dataset as make_dataset,
)
from .patch_loader import FixedPatchLoader as FixedPatchLoader, PatchLoader as PatchLoader
from .patches import PatchCut as PatchCut
from .procedural import ProceduralImages as ProceduralImages
