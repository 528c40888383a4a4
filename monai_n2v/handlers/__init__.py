# SPDX-License-Identifier: Apache-2.0
"""What MONAI's trainer and evaluator are given: batch packing, seeds, guards, checkpoints, averages, scores."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
