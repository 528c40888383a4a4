# SPDX-License-Identifier: Apache-2.0
"""The bundles as programs: where they are, how they run, what may be set, and trained ones."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
