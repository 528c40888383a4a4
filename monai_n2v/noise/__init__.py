# SPDX-License-Identifier: Apache-2.0
"""What the noise of an image is like, and whether Noise2Void suits it. Needs neither torch nor MONAI."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
