# SPDX-License-Identifier: Apache-2.0
"""MONAI without what denoising does not use: loading it takes most of the time before the work begins."""

import json
import re
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_n2v.bundle.resources import bundle_name, find_bundle

# What MONAI loads where it is installed, with what it is for.
_OPTIONAL = (
    *("mlflow", "pandas", "matplotlib", "sklearn", "tensorboard", "torch.utils.tensorboard"),  # records of experiments
    *("tifffile", "itk", "jsonschema"),  # files, which this package reads and writes itself
    *("skimage", "scipy.signal"),  # transforms
)
# Ignite loads it for its class alone, and with it half of what torch has for many processes.
_SHARDED = "torch.distributed.optim"
_TARGET = re.compile(r'"_target_": *"([^"]*)"')


def load_lean_monai(model: Path | None, settings: Mapping[str, Any]) -> None:
    """Import MONAI as if some of the packages that it uses where it can were not installed.

    They can be imported afterwards, but MONAI does without them in this process. So this is for a program, and only
    where everything that it is to make is known. Otherwise, and where MONAI is there already, nothing happens.

    Args:
        model: that is to denoise, if any.
        settings: further values of its configs.
    """
    computed = any(mark in json.dumps(dict(settings)) for mark in ("_target_", "$"))
    if "monai" in sys.modules or computed or not _targets_of(model) <= _own_targets():
        return
    hidden: dict[str, Any] = {name: None for name in _OPTIONAL if name not in sys.modules}
    if _SHARDED not in sys.modules:
        hidden[_SHARDED] = types.ModuleType(_SHARDED)
        hidden[_SHARDED].ZeroRedundancyOptimizer = type("ZeroRedundancyOptimizer", (), {})  # of which nothing is one
    sys.modules.update(hidden)
    try:
        import monai.bundle
        import monai.engines
        import monai.handlers  # noqa: F401
    finally:
        for name, stand_in in hidden.items():
            if sys.modules.get(name) is stand_in:
                del sys.modules[name]


def _own_targets() -> set[str]:
    """What this package's own bundles make."""
    paths = [find_bundle(bundle_name(dims)) / "configs" / "inference.json" for dims in (2, 3)]
    return {target for path in paths for target in _TARGET.findall(path.read_text())}


def _targets_of(model: Path | None) -> set[str]:
    """What a bundle makes that a model may lie in; nothing where there is none: then the package's own serves it."""
    folders = [] if model is None else [model, model.parent, model.parent.parent]
    try:
        path = next(path for folder in folders if (path := folder / "configs" / "inference.json").is_file())
        return set(_TARGET.findall(json.dumps(json.loads(path.read_text()))))
    except (StopIteration, OSError, ValueError):  # a damaged one is refused where it is used
        return set()
