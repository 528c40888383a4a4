# SPDX-License-Identifier: Apache-2.0
from .check import AxisCheck as AxisCheck, NoiseCheck as NoiseCheck, check_noise as check_noise
from .magnitude import MagnitudeNoise as MagnitudeNoise, find_magnitude_noise as find_magnitude_noise
from .measure import Noise as Noise, measure_noise as measure_noise
from .noise_map import NoiseMap as NoiseMap
