# SPDX-License-Identifier: Apache-2.0
"""``--set KEY=VALUE``: settings of a training that have no option of their own."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from monai_n2v.bundle.resources import bundle_name, find_bundle, find_config, nearest

# What options of the command line are for.
_OPTIONS = {
    **dict.fromkeys(("bundle_root", "output_dir", "ckpt_path"), "--output"),
    **dict.fromkeys(("spatial_dims", "network_def#spatial_dims"), "--spatial-dims"),
    **dict.fromkeys(("resume", "checkpoints"), "--resume of monai-n2v train"),
    **{
        name: f"--{name.replace('_', '-')}" for name in ("device", "seed", "epochs", "max_time", "footprint", "volumes")
    },
    "dataset_dir": "--input",
    "pattern": "--pattern",
    "noise_map": "--noise-map",
    "prior": "--from-scratch",
    "wiener": "--wiener of monai-n2v denoise",
    "progress": "--quiet",
}
# What configs/anneal.json replaces or the command line does itself: it would be ignored.
_UNUSED = (
    *("val_dataset_dir", "val_length", "val_interval", "validate", "best_ckpt_path", "best_saver", "lr_scheduler"),
    *("summary_writer", "log_dir", "save_config", "rank"),
    *("train#handlers", "train#preprocessing", "train#dataset", "imports", "initialize", "run", "finalize"),
    *("dataset", "dataloader", "preprocessing", "postprocessing", "handlers", "evaluator"),
)


# How values begin that a config computes.
_COMPUTED = ("$", "@", "%")
# As `monai.bundle run` wants them.
_PYTHON = {"True": "true", "False": "false", "None": "null"}


def parse_setting(text: str) -> tuple[str, Any]:
    """Split ``KEY=VALUE``; the value is JSON, or else a text.

    Args:
        text: such as ``lr=0.001``, ``fill=uniform`` or ``network_def#kernel_size=5``.

    Returns:
        the key, with ``#`` between its levels, and the value.

    Raises:
        ValueError: where there is no key.
    """
    key, equals, value = text.partition("=")
    value = _PYTHON.get(value, value)
    key = key.strip().replace("::", "#")
    if not equals or not key:
        raise ValueError(f"--set must be followed by KEY=VALUE, got {text}. Write for example --set lr=0.001.")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


def format_setting(key: str, value: Any) -> str:
    """Write ``KEY=VALUE`` so that `parse_setting` reads the same."""
    return f"{key}={value if isinstance(value, str) and parse_setting(f'k={value}')[1] == value else json.dumps(value)}"


def check_settings(settings: Mapping[str, Any], parts: bool = False) -> None:
    """Refuse settings that a training from the command line would ignore.

    Args:
        settings: values by key of the bundles' ``train.json`` or ``inference.json``.
        parts: whether to look at all parts of keys such as ``optimizer#betas``, for which MONAI is loaded, rather
            than at their first.

    Raises:
        ValueError: for a key that has an option of its own, that is without effect here, or that no config has (the
            latter names the nearest), and for a value that the key cannot have.
    """
    if not settings:
        return
    config = _merged_config()
    known = set(config) - {*_UNUSED, *_OPTIONS, "_desc_"}
    for key in settings:
        root = key.partition("#")[0]
        option = _OPTIONS.get(key) or _OPTIONS.get(root)
        if option is not None:
            raise ValueError(f"--set must name a key without an option of its own, got {key}. Use {option}.")
        if any(f"{key}#".startswith(f"{unused}#") for unused in _UNUSED):
            raise ValueError(
                f"--set must name a key that monai-n2v trains with, got {key}. It trains without validation and logs: "
                "use monai.bundle run, as docs/how-to/bundles.md tells."
            )
        if root not in known:
            meant = nearest(root, known)
            step = f"Did you mean {meant}?" if meant else f"Use one of {', '.join(sorted(known))}."
            raise ValueError(f"--set must name a key of the bundle's configs, got {key}. {step}")
        _check_value(key, settings[key], config.get(key))
    _check_magnitude(settings)
    if parts:
        from monai_n2v.bundle.workflow import check_overrides

        check_overrides(config, settings)


def _is_above_0(value: Any) -> bool:
    return type(value) in (int, float) and value > 0


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(map(_is_count, value))


# What a value must be, by the type of the default; a list in place of a number has one per level or axis.
_KINDS: tuple[tuple[Any, Any, str], ...] = (
    (bool, bool, "true or false"),
    (list, list, "a list"),
    ((int, float), (int, float, list), "a number"),
    (dict, dict, "an object"),
)
# What MONAI or torch would refuse in words of their own, or not at all, and not before the work begins.
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "lr": (_is_above_0, "above 0"),
    "grad_clip": (lambda value: value is None or _is_above_0(value), "above 0 or null"),
    "features": (lambda value: _is_count(value) or _are_counts(value), "whole numbers of at least 1"),
    "patch_size": (_are_counts, "whole numbers of at least 1"),
    "divisor": (_is_count, "a whole number of at least 1"),
    "dtype": (lambda value: value in ("float32", "input"), "float32 or input"),
    "halo": (lambda value: type(value) is int and value >= 0, "a whole number of at least 0"),
}


def _check_value(key: str, value: Any, default: Any) -> None:
    """Refuse a value of another kind than the default, or against the key's rule."""
    if isinstance(value, str) and value.startswith(_COMPUTED):
        return  # what Python computes may be anything
    types, kind = next((row[1:] for row in _KINDS if isinstance(default, row[0])), (object, ""))
    of_kind = isinstance(value, types)
    fits, rule = _RULES.get(key, (lambda _: of_kind, ""))
    if not fits(value):
        raise ValueError(
            f"--set {key} must be {rule if of_kind else kind}, got {json.dumps(value)}. "
            f"Write for example --set {format_setting(key, default)}."
        )


def _check_magnitude(settings: Mapping[str, Any]) -> None:
    """Refuse what `RemoveMagnitudeBiasd` would refuse after the training."""
    given = {key: settings[key] for key in ("magnitude", "coils") if key in settings}
    if given and not any(isinstance(value, str) and value.startswith(_COMPUTED) for value in given.values()):
        from monai_n2v.noise.magnitude import check_magnitude

        try:
            check_magnitude(**{"magnitude": "auto", "coils": None, **given})
        except ValueError as error:
            raise ValueError(f"--set {error}") from None


def _merged_config() -> dict[str, Any]:
    """What a training from the command line is made of; the bundles for images and volumes differ in numbers only."""
    configs = find_bundle(bundle_name(3)) / "configs"
    overlays = [find_config(name) for name in ("recorrupted.json", "anneal.json")]
    merged: dict[str, Any] = {}
    for path in (configs / "inference.json", configs / "train.json", *overlays):
        config = json.loads(path.read_text())
        merged |= {key: value for key, value in config.items() if not key.startswith("+")}  # what adds is no key
    return merged
