# SPDX-License-Identifier: Apache-2.0
from .atomic import staged as staged
from .find import find_images as find_images
from .images import SUFFIXES as SUFFIXES, read_volume as read_volume, save_volume as save_volume
from .memory import free_bytes as free_bytes
from .volume import Source as Source, Volume as Volume
