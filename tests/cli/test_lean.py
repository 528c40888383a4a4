# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from conftest import phantom

from monai_n2v.bundle.resources import find_bundle
from monai_n2v.cli import lean
from monai_n2v.cli.main import main

# What takes long to load, and denoising does not use.
HEAVY = {
    *("mlflow", "pandas", "matplotlib", "sklearn", "skimage", "tensorboard", "tifffile", "itk", "scipy.signal"),
    *("scipy.stats", "sympy", "torch._dynamo", "torch.distributed.optim", "jinja2", "jsonschema"),
}
PROGRAM = """
import sys
from monai_n2v.cli.main import main
code = main()
print(" ".join(sys.modules))
import scipy.signal, torch.distributed.optim  # are there still
sys.exit(code)
"""


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["--fast"], id="prior"),
        pytest.param(["--epochs", "1", "--scheme", "n2v"], id="training", marks=pytest.mark.slow),
    ],
)
def test_program_loads_what_it_uses_and_denoises_alike(options, tmp_path):
    options = [*options, "--device", "cpu", "-q"]
    options += [] if "--fast" in options else ["--spatial-dims", "2", "--set", "epoch_length=2"]
    source, alone, here = (tmp_path / name for name in ("in.nii", "alone.nii", "here.nii"))
    nibabel.save(nibabel.Nifti1Image(phantom((24, 26, 20))[1], np.eye(4)), source)
    command = [sys.executable, "-c", PROGRAM, "denoise", "-i", str(source), "-o", str(alone), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    found = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert found.returncode == 0, found.stderr
    loaded = set(found.stdout.split())
    assert {"monai", "torch"} <= loaded
    allowed = set() if "--fast" in options else {"torch._dynamo", "sympy"}  # of which torch's optimizers make use
    assert sorted(loaded & HEAVY - allowed) == []
    assert main(["denoise", "-i", str(source), "-o", str(here), *options]) == 0
    assert np.array_equal(nibabel.load(alone).get_fdata(), nibabel.load(here).get_fdata())


def test_bundle_with_other_parts_gets_all_of_monai(tmp_path):
    model = tmp_path / "model"
    shutil.copytree(find_bundle("n2v_denoise_3d"), model)
    for place in (model, model / "models", model / "models" / "model.pt", Path("other.pt"), None):
        assert lean._targets_of(place) <= lean._own_targets()
    path = model / "configs" / "inference.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "more": {"_target_": "KeepLargestConnectedComponentd", "keys": "pred"}}))
    for place in (model, model / "models" / "model.pt"):
        assert lean._targets_of(place) - lean._own_targets() == {"KeepLargestConnectedComponentd"}
    path.write_text("{")
    assert lean._targets_of(model) == set()
    assert {"Compose", "SupervisedEvaluator"} <= lean._own_targets()


@pytest.mark.parametrize(
    ("model", "settings", "there", "asks"),
    [
        (None, {}, False, True),
        (None, {"lr": 1}, False, True),
        (None, {"loss": {"_target_": "L1Loss"}}, False, False),
        (None, {"lr": "$monai.optimizers"}, False, False),
        (None, {}, True, False),
        ("foreign", {}, False, False),
    ],
)
def test_monai_is_lean_only_where_all_is_known_and_none_is_there(model, settings, there, asks, monkeypatch, tmp_path):
    seen: list[dict[str, object]] = []

    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name.partition(".")[0] == "monai":
                seen.append({name: sys.modules.get(name, "") for name in ("mlflow", "torch.distributed.optim")})
                raise ImportError("seen")

    for name in [name for name in sys.modules if name.partition(".")[0] == "monai"]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("mlflow", "torch.distributed.optim"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    if there:
        monkeypatch.setitem(sys.modules, "monai", None)
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    if model:
        model = tmp_path / model
        (model / "configs").mkdir(parents=True)
        (model / "configs" / "inference.json").write_text('{"network_def": {"_target_": "SegResNet"}}')
    if asks:
        with pytest.raises(ImportError, match="seen"):
            lean.load_lean_monai(model, settings)
        assert seen[0]["mlflow"] is None
        assert "torch.distributed.optim" not in sys.modules, "left behind"
        assert "mlflow" not in sys.modules
    else:
        lean.load_lean_monai(model, settings)
        assert seen == []
