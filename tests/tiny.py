# SPDX-License-Identifier: Apache-2.0
"""Bundles trained for a moment, for tests that look at what MONAI's commands make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from conftest import phantom
from monai.bundle import ConfigWorkflow

from monai_n2v.bundle.resources import bundle_name, copy_bundle, find_bundle
from monai_n2v.bundle.workflow import N2VWorkflow

# A small network of each kind; inference and evaluation need the same keys as training.
NETWORKS: dict[str, dict[str, Any]] = {
    "BasicUNet": {"features": [4, 4, 8, 8, 8, 4]},
    "N2VUNet": {"features": 4, "divisor": 4},
}
CPU = {"device": "$torch.device('cpu')"}


def short(spatial_dims: int) -> dict[str, Any]:
    """Keys of a training of moments, with the small BasicUNet."""
    sides = [32, 32] if spatial_dims == 2 else [16, 16, 16]
    length = {"epochs": 1, "epoch_length": 2, "val_length": 1, "batch_size": 2}
    return {**NETWORKS["BasicUNet"], **CPU, **length, "patch_size": sides}


def network_keys(name: str, spatial_dims: int) -> dict[str, Any]:
    """Keys that make a bundle use one of the networks."""
    if name == "BasicUNet":
        return NETWORKS[name]
    target = {"_target_": "monai_n2v.networks.N2VUNet", "spatial_dims": spatial_dims, "features": "@features"}
    return {**NETWORKS[name], "network_def": target}


def make_images(folder: Path) -> Path:
    """A folder with one noisy volume in a folder of its own."""
    (folder / "sub").mkdir(parents=True)
    image = nibabel.Nifti1Image(phantom((20, 24, 18))[1], np.diag([1, 1, 2, 1]))
    nibabel.save(image, folder / "sub" / "volume.nii.gz")
    return folder


def config_files(bundle: Path, *names: str) -> list[str]:
    return [str(bundle / "configs" / f"{name}.json") for name in names]


def train_copy(spatial_dims: int, folder: Path, images: Path, **overrides: Any) -> Path:
    """Copy a bundle and train it in place; returns its folder."""
    bundle = copy_bundle(bundle_name(spatial_dims), folder / bundle_name(spatial_dims))
    places = {"bundle_root": str(bundle), "dataset_dir": str(images)}
    options = {**short(spatial_dims), **places, **overrides}
    flow = N2VWorkflow(config_files(bundle, "train"), logging_file=False, **options)
    flow.initialize()
    flow.run()
    flow.finalize()
    return bundle


SMALL = {
    2: {"features": [4, 4, 8, 8, 8, 4], "patch_size": [32, 32], "batch_size": 2, "epoch_length": 3, "val_length": 1},
    3: {
        "features": [2, 2, 4, 4, 4, 2],
        "patch_size": [16, 16, 16],
        "batch_size": 2,
        "epoch_length": 3,
        "val_length": 1,
    },
}


def workflow(kind: str, spatial_dims: int, **overrides) -> ConfigWorkflow:
    configs = find_bundle(f"n2v_denoise_{spatial_dims}d") / "configs"
    small = SMALL[spatial_dims] if kind == "train" else {"features": SMALL[spatial_dims]["features"]}
    return ConfigWorkflow(
        config_file=str(configs / f"{kind}.json"),
        workflow_type=kind,
        logging_file=False,
        bundle_root=str(configs.parent),
        **{**small, "device": "$torch.device('cpu')", **overrides},
    )


def run(flow: ConfigWorkflow) -> ConfigWorkflow:
    flow.initialize()
    flow.run()
    flow.finalize()
    return flow
