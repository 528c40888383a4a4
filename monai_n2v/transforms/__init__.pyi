# SPDX-License-Identifier: Apache-2.0
from .axes import RestoreAxesd as RestoreAxesd, ShortestAxisLastd as ShortestAxisLastd
from .blind_spots import (
    BlindSpots as BlindSpots,
    apply_blind_spots as apply_blind_spots,
    draw_blind_spots as draw_blind_spots,
)
from .components import PrincipalComponentsd as PrincipalComponentsd, RestoreVolumesd as RestoreVolumesd
from .drawn_noise import (
    RandRecorruptD as RandRecorruptD,
    RandRecorruptd as RandRecorruptd,
    RandRecorruptDict as RandRecorruptDict,
    RandRenoiseImageD as RandRenoiseImageD,
    RandRenoiseImaged as RandRenoiseImaged,
    RandRenoiseImageDict as RandRenoiseImageDict,
    draw_noise as draw_noise,
)
from .files import LoadNoisyd as LoadNoisyd, SaveDenoisedd as SaveDenoisedd
from .footprints import line_footprint as line_footprint
from .intensity import (
    RestoreIntensity as RestoreIntensity,
    RestoreIntensityD as RestoreIntensityD,
    RestoreIntensityd as RestoreIntensityd,
    RestoreIntensityDict as RestoreIntensityDict,
    StandardizeIntensity as StandardizeIntensity,
    StandardizeIntensityD as StandardizeIntensityD,
    StandardizeIntensityd as StandardizeIntensityd,
    StandardizeIntensityDict as StandardizeIntensityDict,
)
from .magnitude import RemoveMagnitudeBiasd as RemoveMagnitudeBiasd
from .noise_map import DivideByNoiseMapd as DivideByNoiseMapd, MultiplyByNoiseMapd as MultiplyByNoiseMapd
from .padding import (
    RestorePaddingd as RestorePaddingd,
    find_padding as find_padding,
    restore_padding as restore_padding,
)
from .pairing import (
    RandN2VMask as RandN2VMask,
    RandN2VMaskD as RandN2VMaskD,
    RandN2VMaskd as RandN2VMaskd,
    RandN2VMaskDict as RandN2VMaskDict,
    RandSwapPairD as RandSwapPairD,
    RandSwapPaird as RandSwapPaird,
    RandSwapPairDict as RandSwapPairDict,
)
from .procedural_noise import RandProceduralNoised as RandProceduralNoised
from .symmetries import list_symmetries as list_symmetries
from .wiener import WienerFilterd as WienerFilterd, wiener_filter as wiener_filter
