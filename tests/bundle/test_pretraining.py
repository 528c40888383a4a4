# SPDX-License-Identifier: Apache-2.0
"""Pretraining as a run of the bundle: it writes the prior, goes on where it was stopped, and adds to a prior."""

from __future__ import annotations

import json
from pathlib import Path

import laws
import numpy as np
import pytest
import torch
from conftest import phantom
from ignite.engine import Events
from monai.fl.client import MonaiAlgo
from tiny import SMALL, config_files

from monai_n2v.bundle import find_bundle, find_config
from monai_n2v.bundle.resources import bundle_name, copy_bundle
from monai_n2v.bundle.workflow import N2VWorkflow
from monai_n2v.handlers import load_prior


def pretraining(bundle: Path, spatial_dims: int, **overrides) -> N2VWorkflow:
    overlays = [str(find_config(name)) for name in ("anneal.json", "pretrain.json")]
    size = {"features": SMALL[spatial_dims]["features"], "patch_size": SMALL[spatial_dims]["patch_size"]}
    size |= {"scene_size": [24] * spatial_dims, "memory_gib": 4e-4, "batch_size": 2, "epochs": 2, "epoch_length": 2}
    flow = N2VWorkflow(
        [*config_files(bundle, "train"), *overlays],
        logging_file=False,
        **{**size, "bundle_root": str(bundle), "device": "$torch.device('cpu')", "progress": False, **overrides},
    )
    flow.initialize()
    return flow


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_pretraining_writes_a_prior_and_resumes_bit_for_bit(spatial_dims, tmp_path):
    priors = []
    for name in ("at once", "in pieces"):
        bundle = copy_bundle(bundle_name(spatial_dims), tmp_path / name)
        if name == "in pieces":
            stopped = pretraining(bundle, spatial_dims)
            stopped.get("train#trainer").add_event_handler(
                Events.EPOCH_COMPLETED(once=1), lambda engine: engine.terminate()
            )
            stopped.run()
        flow = pretraining(bundle, spatial_dims)
        flow.run()
        flow.finalize()
        priors.append(load_prior(bundle / "models" / "prior.pt"))
    assert all(torch.equal(value, priors[1][key]) for key, value in priors[0].items())
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())["prior"]
    assert "--epochs 2 --epoch_length 2" in metadata["command"]
    assert "started_from" not in metadata
    further = pretraining(bundle, spatial_dims, prior=True, output_dir=str(tmp_path / "further"), epochs=1)
    network = {key: value.clone() for key, value in further.get("network").state_dict().items()}
    assert all(torch.equal(network[key], value) for key, value in priors[1].items())
    further.run()
    further.finalize()
    found = json.loads((bundle / "configs" / "metadata.json").read_text())["prior"]
    assert found["started_from"] == metadata
    assert found["sha256"] != metadata["sha256"]
    assert (metadata["steps"], found["steps"]) == (4, 6)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("recipe", ["train", "recorrupted", "renoised", "federated"])
def test_every_recipe_starts_from_the_prior(recipe, spatial_dims, tmp_path):
    bundle = find_bundle(bundle_name(spatial_dims))
    np.save(tmp_path / "image.npy", phantom((32, 32, 32)[:spatial_dims])[1])
    places = {"dataset_dir": str(tmp_path), "output_dir": str(tmp_path / "out"), "device": "$torch.device('cpu')"}
    if recipe == "federated":
        algo = MonaiAlgo(str(bundle), train_kwargs=places, eval_kwargs=places, send_weight_diff=False)
        algo.initialize()
        found = dict(algo.get_weights().weights)
        algo.finalize()
    else:
        overlays = [] if recipe == "train" else [str(find_config(f"{recipe}.json"))]
        files = [*config_files(bundle, "train"), *overlays]
        flow = N2VWorkflow(files, logging_file=False, bundle_root=str(bundle), **places)
        flow.initialize()
        found = flow.get("network").state_dict()
    laws.states_are_equal(found, load_prior(bundle / "models" / "prior.pt"))
