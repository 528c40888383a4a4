# SPDX-License-Identifier: Apache-2.0
"""The bundles for images and for volumes are one program: what differs between them is named here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from monai_n2v.bundle.resources import bundle_name, find_bundle

CONFIGS = {dims: find_bundle(bundle_name(dims)) / "configs" for dims in (2, 3)}
# Sizes, and the memory format that goes with the number of axes.
DIFFERING = {
    "train.json": {"spatial_dims", "features", "patch_size", "batch_size", "network"},
    "multi_gpu_train.json": {"network"},
    "inference.json": {"spatial_dims", "features", "halo", "network"},
    "multi_gpu_inference.json": set(),
    "evaluate.json": {"halo", "n_masks"},
    "metadata.json": {
        *("name", "task", "description"),
        *(
            f"network_data_format#{e}#{key}"
            for e in ("inputs#image", "outputs#pred")
            for key in ("spatial_shape", "modality")
        ),
    },
    "onnx_export.json": {f"converter_kwargs#dynamic_axes#{end}" for end in ("image", "pred")},
}


def flat(node: Any, place: str = "") -> dict[str, Any]:
    """Values by key, ``#`` between the levels; lists of numbers and texts are values."""
    if isinstance(node, dict):
        children = list(node.items())
    elif isinstance(node, list) and any(isinstance(child, (dict, list)) for child in node):
        children = [(str(k), child) for k, child in enumerate(node)]
    else:
        return {place: node}
    found: dict[str, Any] = {} if children else {place: node}
    for key, child in children:
        found |= flat(child, f"{place}#{key}".strip("#"))
    return found


def test_every_config_is_compared():
    for folder in CONFIGS.values():
        assert {path.name for path in folder.glob("*.json")} == DIFFERING.keys()


@pytest.mark.parametrize("name", DIFFERING)
def test_bundles_differ_in_named_keys_alone(name):
    contents = [json.loads(Path(folder / name).read_text()) for folder in CONFIGS.values()]
    if name == "metadata.json":
        for content in contents:
            del content["prior"], content["eval_metrics"]  # each has a history, and images, of its own
    images, volumes = map(flat, contents)
    assert list(images) == list(volumes), "the same keys in the same order"
    assert {key for key in images if images[key] != volumes[key]} == DIFFERING[name]


def test_other_files_of_the_configs_are_the_same():
    names = {path.name for path in CONFIGS[2].iterdir()} - DIFFERING.keys()
    assert names == {"logging.conf"}
    for name in names:
        assert (CONFIGS[2] / name).read_bytes() == (CONFIGS[3] / name).read_bytes()
