# SPDX-License-Identifier: Apache-2.0
"""N2VWorkflow: overrides that nothing reads are refused, and a training leaves its config."""

from __future__ import annotations

import json

import laws
import numpy as np
import pytest
import torch
from conftest import phantom
from monai.bundle import ConfigParser, run_workflow
from tiny import config_files, make_images, short

import monai_n2v
from monai_n2v.bundle.resources import find_bundle, find_config
from monai_n2v.bundle.workflow import N2VWorkflow, check_overrides, unwrapped

BUNDLE = find_bundle("n2v_denoise_3d")


@pytest.fixture(scope="module")
def config():
    return ConfigParser.load_config_files(config_files(BUNDLE, "train", "evaluate"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"epoch": 5}, "epoch must be a key of the config, got an unknown one. Did you mean epochs?"),
        ({"train#trainer#max_epoch": 5}, "Did you mean train#trainer#max_epochs?"),
        ({"train::trainer::max_epoch": 5}, "Did you mean train::trainer::max_epochs?"),
        ({"trian#trainer#max_epochs": 5}, "Did you mean train?"),
        ({"network_def#dropuot": 0.1}, "Did you mean network_def#dropout?"),
        ({"optimizer#weight_decai": 0.1}, "Did you mean optimizer#weight_decay?"),
        ({"train#handlers#99": {}}, "train#handlers is a list: use an index from 0 to"),
        ({"train#handlers#1#nothing_like_it": 1}, "train#handlers#1 has"),
        ({"lr#value": 1}, "lr has no keys of its own: override it as a whole."),
        ({"validate#inferer#n_mask": 1}, "Did you mean validate#inferer#n_masks?"),
        ({"train#notes": 1}, "train has dataloader, dataset"),
        ({"xyzzy": 1}, "The config has amp"),
        ({"lr": 0.1, "seeds": 1}, "Did you mean seed?"),
    ],
)
def test_key_that_nothing_reads_refused(overrides, message, config):
    with pytest.raises(ValueError, match="must be a key of the config, got an unknown one") as caught:
        check_overrides(config, overrides)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "overrides",
    [
        {"epochs": 5, "train#trainer#max_epochs": 3, "train::handlers::1::_disabled_": True},
        {"optimizer#weight_decay": 0.1, "network_def#dropout": 0.1, "summary_writer#comment": "x"},
        {"network_def": {"_target_": "monai_n2v.networks.N2VUNet"}, "network_def#depth": 3},
        {"base": 0.1, "lr": "$@base * 2"},
        {"train#postprocessing": None, "train#trainer#postprocessing": "@train#postprocessing"},
        {"_meta_#version": "9"},
        {"bundle_root": "x", "dataset_dir": "y", "validate#dataset#data": []},
    ],
)
def test_key_that_something_reads_accepted(overrides, config):
    before = json.dumps([config, overrides])
    check_overrides(config, overrides)
    assert json.dumps([config, overrides]) == before, "looked at, not changed"


def test_bundles_and_overlays_override_themselves_only_where_it_counts(root):
    """Every key of an overlay is one that its config has, or that the overlay refers to."""
    for dims in (2, 3):
        folder = root / "bundles" / f"n2v_denoise_{dims}d" / "configs"
        overlay = json.loads((root / "configs" / "from_scratch.json").read_text())
        both = ConfigParser.load_config_files([str(folder / "train.json"), str(folder / "inference.json")])
        check_overrides(both, {key: value for key, value in overlay.items() if key != "_desc_"})


@pytest.mark.parametrize("kind", ["train", "inference"])
def test_misspelled_override_stops_before_anything_is_read(kind, tmp_path):
    with pytest.raises(ValueError, match="Did you mean dataset_dir"):
        run_workflow(
            "monai_n2v.bundle.workflow.N2VWorkflow",
            config_file=config_files(BUNDLE, kind),
            workflow_type=kind,
            datset_dir="/nonexistent",
            output_dir=str(tmp_path / "out"),
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("inner", [ValueError, KeyError, RuntimeError])
@pytest.mark.parametrize("has_cause", [False, True])
def test_error_is_raised_without_those_that_wrap_it(inner, has_cause):
    fault = inner("the rule")
    fault.__cause__ = OSError("why") if has_cause and inner is not RuntimeError else None
    transform, component = (
        RuntimeError("applying transform\nof MONAI"),
        RuntimeError("Failed to instantiate\nComponent"),
    )
    transform.__cause__, component.__cause__ = fault, transform
    with pytest.raises(inner) as caught, unwrapped():
        raise component
    assert "the rule" in str(caught.value)
    assert caught.value.__context__ is None or caught.value.__suppress_context__


@pytest.mark.parametrize("scheme", ["auto", "prior"])
def test_fault_of_a_transform_ends_in_its_own_sentence(scheme):
    """Also where an image is looked at before the training."""
    noisy = phantom((32, 30))[1]
    noisy[:12] = -1000
    noise_map = np.zeros((32, 30))
    noise_map[:12] = 1
    with pytest.raises(ValueError, match="noise_map must have values above 0 outside of the image's padding"):
        monai_n2v.denoise(noisy, scheme=scheme, noise_map=noise_map, device="cpu")


def test_arguments_of_monai_are_not_overrides():
    flow = N2VWorkflow(
        config_files(BUNDLE, "train"), logging_file=False, init_id="imports", final_id="initialize", lr=0.1
    )
    assert (flow.init_id, flow.run_id, flow.final_id) == ("imports", "run", "initialize")
    assert flow.parser["lr"] == 0.1
    assert "init_id" not in flow.parser


@pytest.mark.parametrize("own", [False, True], ids=["run", "N2VWorkflow"])
def test_training_leaves_the_config_that_repeats_it(own, tmp_path):
    images = make_images(tmp_path / "images")
    options = {**short(3), "bundle_root": str(BUNDLE), "dataset_dir": str(images), "lr": 0.01}
    first, again = tmp_path / "first", tmp_path / "again"
    workflow = "monai_n2v.bundle.workflow.N2VWorkflow" if own else "ConfigWorkflow"
    run_workflow(workflow, config_file=config_files(BUNDLE, "train"), output_dir=str(first), **options)
    (path,) = first.glob("runs/*/config.json")
    assert list(path.parent.glob("events*")), "one folder per run"
    config = json.loads(path.read_text())
    assert config["lr"] == 0.01
    assert config["optimizer"]["params"] == "$@network.parameters()", "expressions stay what they are"
    assert config["validate"]["preprocessing"] == config["train"]["preprocessing"], "texts copied by % are filled in"
    run_workflow(workflow, config_file=str(path), output_dir=str(again))
    states = (torch.load(folder / "models" / "model.pt", weights_only=True) for folder in (first, again))
    laws.states_are_equal(*states)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("save_config", [False, True])
def test_config_is_kept_by_the_first_process_of_a_training_only(rank, save_config, tmp_path):
    places = {"bundle_root": str(BUNDLE), "dataset_dir": str(make_images(tmp_path / "images"))}
    anneal = [*config_files(BUNDLE, "train"), str(find_config("anneal.json"))]
    configs = {"train": config_files(BUNDLE, "train"), "anneal": anneal}
    for name, files in {**configs, "evaluate": config_files(BUNDLE, "train", "evaluate")}.items():
        places |= {"output_dir": str(tmp_path), "log_dir": str(tmp_path / name)}
        flow = N2VWorkflow(files, logging_file=False, rank=rank, save_config=save_config, **{**short(3), **places})
        flow.initialize()
        flow.run()
    kept = {path.parent.name for path in tmp_path.rglob("config.json")}
    assert kept == ({"train", "anneal"} if rank == 0 and save_config else set())
