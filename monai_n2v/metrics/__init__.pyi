# SPDX-License-Identifier: Apache-2.0
from .reference import (
    SCORES as SCORES,
    psnr as psnr,
    score_blind as score_blind,
    score_clean as score_clean,
    score_repeats as score_repeats,
    score_residual as score_residual,
    ssim as ssim,
)
from .residual import Quality as Quality, find_faults as find_faults, measure as measure
