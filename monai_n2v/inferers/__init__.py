# SPDX-License-Identifier: Apache-2.0
"""Prediction of images of any size: tiles, averaging, blind spots, precision."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
