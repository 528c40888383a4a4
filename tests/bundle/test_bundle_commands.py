# SPDX-License-Identifier: Apache-2.0
"""MONAI's bundle commands on both bundles, in process."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ckpt_export, create_workflow, load, run, run_workflow, verify_metadata, verify_net_in_out
from monai.networks.nets import BasicUNet
from tiny import CPU, NETWORKS, config_files, make_images, short, train_copy

from monai_n2v.bundle.resources import bundle_name, find_bundle
from monai_n2v.cli.main import main

SCHEMA = Path(__file__).parent / "meta_schema.json"
SMALL = {**NETWORKS["BasicUNet"], **CPU}

pytestmark = pytest.mark.parametrize("spatial_dims", [2, 3])


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("data") / "images")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, images):
    return {dims: train_copy(dims, tmp_path_factory.mktemp("trained"), images) for dims in (2, 3)}


@pytest.fixture
def quiet():
    """Commands may not leave the bundles' logging behind."""
    import logging

    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


@pytest.mark.parametrize("command", ["run", "run_workflow"])
def test_train_inference_and_evaluation_run(command, spatial_dims, images, tmp_path, quiet):
    bundle = find_bundle(bundle_name(spatial_dims))
    start = run if command == "run" else run_workflow
    common = {"bundle_root": str(bundle), "dataset_dir": str(images), "output_dir": str(tmp_path)}
    start(config_file=config_files(bundle, "train"), **common, **short(spatial_dims))
    start(config_file=config_files(bundle, "train", "evaluate"), **common, **SMALL, n_masks=1)
    inference = {"workflow_type": "inference"} if command == "run_workflow" else {}
    start(config_file=config_files(bundle, "inference"), **inference, **common, **SMALL)
    written = nibabel.load(tmp_path / "denoised" / "sub" / "volume_denoised.nii.gz")
    assert written.shape == (20, 24, 18)
    assert np.isfinite(written.get_fdata()).all()
    assert (tmp_path / "evaluation" / "scores.csv").stat().st_size > 0
    assert not (bundle / "models" / "model.pt").exists(), "output_dir takes everything"


@pytest.mark.parametrize(
    ("configs", "kind"),
    [(["train"], "train"), (["inference"], "inference"), (["train", "evaluate"], "train")],
    ids=["train", "inference", "evaluate"],
)
def test_workflow_has_every_property(configs, kind, spatial_dims, trained, images, quiet):
    flow = create_workflow(
        config_file=config_files(trained[spatial_dims], *configs),
        workflow_type=kind,
        bundle_root=str(trained[spatial_dims]),
        dataset_dir=str(images),
        **SMALL,
    )
    assert flow.check_properties() == []
    assert isinstance(flow.network_def, BasicUNet)


def test_load_gives_the_trained_network(spatial_dims, trained, quiet):
    bundle = trained[spatial_dims]
    network = load(bundle.name, bundle_dir=str(bundle.parent), device="cpu", net_override=NETWORKS["BasicUNet"])
    weights = torch.load(bundle / "models" / "model.pt", weights_only=True)
    assert network.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())


@pytest.mark.usefixtures("short_epochs")
def test_bundle_of_the_command_line_is_complete(spatial_dims, images, tmp_path, quiet):
    bundle = tmp_path / "model"
    options = ["--epochs", "1", "--scheme", "n2v", "--device", "cpu", "--spatial-dims", str(spatial_dims)]
    assert main(["train", "-i", str(images), "-o", str(bundle), "-q", *options]) == 0
    common = {"bundle_root": str(bundle), "dataset_dir": str(images), **CPU}
    run(config_file=config_files(bundle, "train", "evaluate"), n_masks=1, **common)
    run(config_file=config_files(bundle, "inference"), **common)
    assert (bundle / "evaluation" / "scores.csv").is_file()
    assert (bundle / "denoised" / "sub" / "volume_denoised.nii.gz").is_file()
    ckpt_export("network_def", config_file=config_files(bundle, "inference"), bundle_root=str(bundle))
    scripted = torch.jit.load(bundle / "models" / "model.ts")
    network = load("model", bundle_dir=str(tmp_path), device="cpu").eval()
    x = torch.randn(1, 1, *(32,) * spatial_dims)
    with torch.no_grad():
        torch.testing.assert_close(scripted(x), network(x), rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:No hash value provided:UserWarning")  # the schema is ours
def test_metadata_keep_the_published_rules(spatial_dims, tmp_path):
    pytest.importorskip("jsonschema")
    metadata = find_bundle(bundle_name(spatial_dims)) / "configs" / "metadata.json"
    verify_metadata(meta_file=str(metadata), filepath=str(SCHEMA))
    broken = json.loads(metadata.read_text())
    del broken["network_data_format"]["inputs"]["image"]["spatial_shape"]
    (tmp_path / "metadata.json").write_text(json.dumps(broken))
    with pytest.raises(ValueError, match="spatial_shape"):
        verify_metadata(meta_file=str(tmp_path / "metadata.json"), filepath=str(SCHEMA))


@pytest.mark.parametrize("n", [1, 2])
def test_network_fits_the_declared_shapes(n, spatial_dims):
    bundle = find_bundle(bundle_name(spatial_dims))
    options = {"meta_file": str(bundle / "configs" / "metadata.json"), "bundle_root": str(bundle), "device": "cpu"}
    verify_net_in_out("network_def", config_file=config_files(bundle, "inference"), n=n, **options)
    options["network_def#out_channels"] = 2
    with pytest.raises(ValueError, match="channel number"):
        verify_net_in_out("network_def", config_file=config_files(bundle, "inference"), n=n, **options)
