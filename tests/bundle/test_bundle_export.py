# SPDX-License-Identifier: Apache-2.0
"""TorchScript and ONNX networks give what PyTorch gives, also at sizes other than those they were exported with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from monai.bundle import ckpt_export, load, onnx_export
from tiny import config_files, make_images, network_keys, train_copy

from monai_n2v.bundle.resources import bundle_name, find_bundle

pytestmark = [
    pytest.mark.parametrize("spatial_dims", [2, 3]),
    pytest.mark.parametrize("kind", ["BasicUNet", "N2VUNet"]),
]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """Trained bundles by network and number of axes, made when first asked for."""
    images = make_images(tmp_path_factory.mktemp("data") / "images")
    made: dict[tuple[str, int], Path] = {}

    def bundle(kind: str, spatial_dims: int) -> Path:
        if (kind, spatial_dims) not in made:
            folder = tmp_path_factory.mktemp("exported")
            made[kind, spatial_dims] = train_copy(spatial_dims, folder, images, **network_keys(kind, spatial_dims))
        return made[kind, spatial_dims]

    return bundle


def trained_network(bundle: Path, kind: str, spatial_dims: int) -> torch.nn.Module:
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(config_files(bundle, "inference"))
    parser.update(network_keys(kind, spatial_dims))
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True))
    return network.eval()


def sizes(spatial_dims: int) -> list[tuple[int, ...]]:
    """Batch and sides, none of them those of the metadata (1 and 16 each)."""
    return [(2, *(32, 48, 16)[:spatial_dims]), (1, *(64, 32, 48)[:spatial_dims]), (3, *(48, 80, 32)[:spatial_dims])]


def test_torchscript_equals_the_network(kind, spatial_dims, bundles):
    bundle = bundles(kind, spatial_dims)
    ckpt_export(
        "network_def",
        config_file=config_files(bundle, "inference"),
        bundle_root=str(bundle),
        **network_keys(kind, spatial_dims),
    )
    extra = {"metadata.json": "", "inference.json": ""}
    scripted = torch.jit.load(bundle / "models" / "model.ts", _extra_files=extra)
    network = trained_network(bundle, kind, spatial_dims)
    for n, *sides in sizes(spatial_dims):
        x = torch.randn(n, 1, *sides)
        with torch.no_grad():
            torch.testing.assert_close(scripted(x), network(x), rtol=0, atol=1e-5)
    assert json.loads(extra["metadata.json"])["version"] == "0.1.0"
    assert json.loads(extra["inference.json"])["spatial_dims"] == spatial_dims


def test_loaded_bundle_gives_the_torchscript_network(kind, spatial_dims, bundles):
    bundle = bundles(kind, spatial_dims)
    keys = {"bundle_root": str(bundle), **network_keys(kind, spatial_dims)}
    ckpt_export("network_def", config_file=config_files(bundle, "inference"), **keys)
    network, metadata, _ = load(bundle.name, bundle_dir=str(bundle.parent), device="cpu", load_ts_module=True)
    x = torch.randn(1, 1, *(16,) * spatial_dims)
    with torch.no_grad():
        torch.testing.assert_close(network(x), trained_network(bundle, kind, spatial_dims)(x), rtol=0, atol=1e-5)
    assert metadata["network_data_format"]["inputs"]["image"]["num_channels"] == 1


# MONAI hands dynamic axes to the exporter that torch deprecates; the sizes below show that what it bakes in is right.
@pytest.mark.filterwarnings("ignore:.*legacy TorchScript-based ONNX export:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Converting a tensor to a Python:torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore:Constant folding:UserWarning")
@pytest.mark.filterwarnings("ignore:No names were found for specified dynamic axes:UserWarning")  # they get some
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.onnx")
def test_onnx_equals_the_network_at_other_sizes(kind, spatial_dims, bundles):
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    bundle = bundles(kind, spatial_dims)
    path = bundle / "models" / "model.onnx"
    onnx_export(
        filepath=str(path),
        ckpt_file=str(bundle / "models" / "model.pt"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=config_files(bundle, "inference"),
        args_file=str(bundle / "configs" / "onnx_export.json"),
        **network_keys(kind, spatial_dims),
    )
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [value.name for value in (*session.get_inputs(), *session.get_outputs())] == ["image", "pred"]
    network = trained_network(bundle, kind, spatial_dims)
    for n, *sides in sizes(spatial_dims):
        x = torch.randn(n, 1, *sides)
        with torch.no_grad():
            expected = network(x)
        (given,) = session.run(None, {"image": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(given), expected, rtol=0, atol=1e-5)


def test_onnx_settings_free_batch_and_space(kind, spatial_dims):
    settings = json.loads((find_bundle(bundle_name(spatial_dims)) / "configs" / "onnx_export.json").read_text())
    axes = [0, *range(2, 2 + spatial_dims)]
    assert settings["converter_kwargs"]["dynamic_axes"] == {"image": axes, "pred": axes}
