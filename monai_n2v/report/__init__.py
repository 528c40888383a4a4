# SPDX-License-Identifier: Apache-2.0
"""The page, the picture and the record that a result is judged by."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
