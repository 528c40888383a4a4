# SPDX-License-Identifier: Apache-2.0
"""Files in and out: one module per format, whole or not at all, with everything that a header holds.

Needs neither torch nor MONAI.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
