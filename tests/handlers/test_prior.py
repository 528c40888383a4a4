# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import logging

import pytest
import torch
from monai.networks.nets import BasicUNet

from monai_n2v.handlers import load_prior, start_from_prior, trained_or_prior, write_prior

FEATURES = (2, 2, 4, 4, 4, 2)


def network(features=FEATURES) -> BasicUNet:
    return BasicUNet(2, 1, 1, features=features, norm=None)


@pytest.fixture
def bundle(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "metadata.json").write_text(json.dumps({"name": "x"}))
    return tmp_path


def test_prior_is_written_named_and_started_from(bundle):
    torch.manual_seed(1)
    trained = network()
    path = bundle / "models" / "prior.pt"
    write_prior(trained, path, {"epochs": 3, "epoch_length": 2, "patch_size": [48, 48], "seed": 0})
    named = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert named["name"] == "x"
    assert named["prior"]["command"].endswith("--epochs 3 --epoch_length 2 --patch_size [48,48] --seed 0")
    assert named["prior"]["steps"] == 6
    assert "started_from" not in named["prior"]
    state = load_prior(path)
    assert all(value.dtype == torch.float32 for value in state.values())
    write_prior(trained, path, {"prior": True})
    assert json.loads((bundle / "configs" / "metadata.json").read_text())["prior"]["started_from"] == named["prior"]
    started = start_from_prior(network(), path)
    for a, b in zip(started.parameters(), trained.parameters()):
        assert torch.equal(a, b.half().float())
    again = network()
    before = [value.clone() for value in again.parameters()]
    assert start_from_prior(again, path, enabled=False) is again
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), before))


def test_another_network_keeps_its_weights_and_the_log_says_so(bundle, caplog):
    path = bundle / "models" / "prior.pt"
    write_prior(network(), path, {})
    other = network((2, 4, 4, 4, 4, 2))
    before = [value.clone() for value in other.parameters()]
    with caplog.at_level(logging.WARNING):
        start_from_prior(other, path)
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), before))
    assert "random weights" in caplog.text


def test_missing_and_damaged_priors_are_refused(bundle):
    path = bundle / "models" / "prior.pt"
    with pytest.raises(FileNotFoundError, match="prior must be a file of the bundle, got none"):
        start_from_prior(network(), path)
    write_prior(network(), path, {})
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="prior must be the file that the bundle's metadata names"):
        load_prior(path)
    with pytest.raises(ValueError, match="prior must be the file that the bundle's metadata names"):
        trained_or_prior(bundle / "models" / "model.pt", path)


def test_a_trained_network_comes_before_the_prior(bundle, caplog):
    prior, trained = bundle / "models" / "prior.pt", bundle / "models" / "model.pt"
    assert trained_or_prior(trained, prior) == str(trained), "without a prior the missing file is named"
    write_prior(network(), prior, {})
    with caplog.at_level(logging.INFO, logger="monai_n2v"):
        assert trained_or_prior(trained, prior) == str(prior)
    assert "the prior alone denoises" in caplog.text
    torch.save(network().state_dict(), trained)
    assert trained_or_prior(trained, prior) == str(trained)
