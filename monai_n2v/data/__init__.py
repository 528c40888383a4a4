# SPDX-License-Identifier: Apache-2.0
"""Images to train on: data lists, datasets, and batches of patches."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
