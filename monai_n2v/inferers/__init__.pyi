# SPDX-License-Identifier: Apache-2.0
from .blind_spot import BlindSpotInferer as BlindSpotInferer, SeparateBlindd as SeparateBlindd
from .noise_by_network import (
    DenoisedLabeld as DenoisedLabeld,
    measure_by_network as measure_by_network,
    predict_with as predict_with,
    sure as sure,
)
from .precision import has_fast_bfloat16 as has_fast_bfloat16
from .symmetric import SymmetricInferer as SymmetricInferer
from .tiled import AlignedTileInferer as AlignedTileInferer, PaddedInferer as PaddedInferer
