# SPDX-License-Identifier: Apache-2.0
"""Scores of a denoised image: against a reference, against repeats, and from the residual alone.

Needs neither torch nor MONAI.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
