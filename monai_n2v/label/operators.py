# SPDX-License-Identifier: Apache-2.0
"""MONAI Label imports torchvision, and PyPI's needs a torch for CUDA: here it is made importable beside any other."""

import importlib
import logging

import torch

logger = logging.getLogger(__name__)

# What torchvision gives fake kernels to on import. Its binary part would define them, and such a torch cannot load it.
_OPERATORS = ("nms", "qnms")


def make_torchvision_importable() -> None:
    """Declare the operators that torchvision cannot define beside this torch, if it is so; they have no kernels.

    Nothing of MONAI Label that this app uses calls them: of torchvision it takes two functions that draw pictures.

    Raises:
        ModuleNotFoundError: without torchvision.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for name in _OPERATORS:
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        importlib.import_module("torchvision")
        logger.info("torchvision is of another kind than torch (%s): its operators are left out.", torch.__version__)
