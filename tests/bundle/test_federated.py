# SPDX-License-Identifier: Apache-2.0
"""Federated training through MONAI's client, on images of different clients."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import laws
import numpy as np
import pytest
import torch
from conftest import phantom
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems, ModelType, WeightType
from monai.fl.utils.exchange_object import ExchangeObject
from tiny import SMALL, run, workflow

from monai_n2v.bundle import find_bundle
from monai_n2v.handlers.checkpoints import load_weights

SHAPES = {2: (40, 52), 3: (24, 28, 20)}


def client(folder: Path, spatial_dims: int, seed: int, **options) -> MonaiAlgo:
    """A client with two images of its own."""
    (folder / "images").mkdir(parents=True)
    for k in range(2):
        np.save(folder / "images" / f"image{k}.npy", phantom(SHAPES[spatial_dims], seed=10 * seed + k)[1] * (seed + 1))
    settings = {
        "dataset_dir": str(folder / "images"),
        "output_dir": str(folder),
        "device": "$torch.device('cpu')",
        "ema": 0,
        "lr": 0.0004,  # two rounds of a few steps are too short for a higher one
    }
    algo = MonaiAlgo(
        str(find_bundle(f"n2v_denoise_{spatial_dims}d")),
        train_kwargs={**SMALL[spatial_dims], **settings},
        eval_kwargs={**SMALL[spatial_dims], **settings, "n_masks": 2},
        best_model_filepath=str(folder / "models" / "model_best.pt"),
        final_model_filepath=str(folder / "models" / "model.pt"),
        **options,
    )
    algo.initialize({ExtraItems.CLIENT_NAME: folder.name})
    return algo


def averaged(parts: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: sum(part[name] for part in parts) / len(parts) for name in parts[0]}


@pytest.fixture(params=[2, 3])
def clients(request, tmp_path):
    both = [client(tmp_path / name, request.param, seed, send_weight_diff=False) for seed, name in enumerate("ab")]
    yield both
    for algo in both:
        algo.finalize()


def test_two_rounds_of_federated_averaging(clients, tmp_path):
    weights = {name: value.clone() for name, value in clients[0].get_weights().weights.items()}
    losses = []
    for _ in range(2):
        parts = []
        for algo in clients:
            # Frameworks send arrays.
            algo.train(ExchangeObject(weights={name: value.numpy() for name, value in weights.items()}))
            sent = algo.get_weights()
            assert sent.weight_type == WeightType.WEIGHTS
            parts.append({name: value.clone() for name, value in sent.weights.items()})
        with pytest.raises(AssertionError):
            laws.states_are_equal(*parts)
        weights = averaged(parts)
        reports = [algo.evaluate(ExchangeObject(weights=dict(weights))).metrics for algo in clients]
        losses.append([report["val_loss"] for report in reports])
        for algo in clients:
            own = algo.evaluator.network.state_dict()
            for name, value in weights.items():
                torch.testing.assert_close(own[name], value.to(own[name].dtype))
    assert np.isfinite(losses).all()
    assert np.mean(losses[1]) < np.mean(losses[0])
    for algo, folder in zip(clients, "ab"):
        assert algo.trainer.state.epoch == 2
        assert all(set(item) == {"image"} for item in algo.train_workflow.train_dataset_data), "nobody has a label"
        images = {str(tmp_path / folder / "images" / f"image{k}.npy") for k in range(2)}
        assert {item["image"] for item in algo.train_workflow.train_dataset_data} == images


def test_client_hands_out_its_last_and_its_best_network(clients, tmp_path):
    algo = clients[0]
    start = {name: value.clone() for name, value in algo.get_weights().weights.items()}
    algo.train(ExchangeObject(weights=start))
    trained = {name: value.clone() for name, value in algo.get_weights().weights.items()}
    for kind, name in ((ModelType.FINAL_MODEL, "model.pt"), (ModelType.BEST_MODEL, "model_best.pt")):
        given = algo.get_weights({ExtraItems.MODEL_TYPE: kind})
        laws.states_are_equal(given.weights, torch.load(tmp_path / "a" / "models" / name, weights_only=True))
    laws.states_are_equal(algo.get_weights({ExtraItems.MODEL_TYPE: ModelType.FINAL_MODEL}).weights, trained)


def test_client_sends_differences_by_default(tmp_path):
    algo = client(tmp_path / "c", 2, 0)
    start = {name: value.detach().clone() for name, value in algo.trainer.network.state_dict().items()}
    algo.train(ExchangeObject(weights={name: value.clone() for name, value in start.items()}))
    sent = algo.get_weights()
    assert sent.weight_type == WeightType.WEIGHT_DIFF
    for name, value in algo.trainer.network.state_dict().items():
        torch.testing.assert_close(start[name] + sent.weights[name], value)
    algo.finalize()


@pytest.mark.slow
def test_simulated_federation_leaves_a_network_for_the_bundle(root, tmp_path):
    pytest.importorskip("monai_nvflare", reason="needs nvflare and monai-nvflare")
    sites = []
    for seed in range(2):
        sites.append(tmp_path / f"images{seed}")
        sites[-1].mkdir()
        np.save(sites[-1] / "image.npy", phantom((64, 72), seed=seed)[1])
    script = root / "examples" / "federated" / "simulate.py"
    options = ["--bundle", "n2v_denoise_2d", "--rounds", "2", "--epoch-length", "3"]
    subprocess.run([sys.executable, script, tmp_path / "out", *sites, *options], check=True, timeout=300)
    (tmp_path / "noisy").mkdir()
    np.save(tmp_path / "noisy" / "image.npy", phantom((64, 72), seed=2)[1])
    model, folders = (
        tmp_path / "out" / "model.pt",
        {"dataset_dir": str(tmp_path / "noisy"), "output_dir": str(tmp_path)},
    )
    features = [32, 32, 64, 128, 256, 32]
    run(workflow("inference", 2, ckpt_path=str(model), features=features, **folders))
    assert np.isfinite(np.load(tmp_path / "denoised" / "image_denoised.npy")).all()
    sent = [load_weights(tmp_path / "out" / "sites" / f"site-{k}" / "models" / "model.pt") for k in (1, 2)]
    for name, value in load_weights(model).items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(value, (sent[0][name] + sent[1][name]) / 2)
