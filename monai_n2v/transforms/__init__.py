# SPDX-License-Identifier: Apache-2.0
"""Transforms for MONAI: reading and writing, axes, intensities, padding, and the pairings of every training scheme."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
