# SPDX-License-Identifier: Apache-2.0
"""Lets a CUDA build of torchvision be imported beside a CPU build of torch, for tests; on PYTHONPATH, found by Python.

On import torchvision registers fake kernels for operators that its binary part would define, which such a torch cannot
load. Nothing here uses them, so their schemas alone are enough.
"""

import importlib.abc
import sys


class _DeclareOperators(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            if torch.version.cuda is None:
                for operator in ("nms", "qnms"):
                    schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                    torch.library.define(f"torchvision::{operator}", schema)


sys.meta_path.insert(0, _DeclareOperators())
