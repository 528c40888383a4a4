# SPDX-License-Identifier: Apache-2.0
"""A bundle copied from an installed package works by itself, from anywhere."""

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
from tiny import make_images, short


@pytest.fixture(scope="module")
def installed(tmp_path_factory, root) -> dict[str, str]:
    """Environment in which the package lies as the wheel lays it: bundles and configs inside, no checkout around."""
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    site = tmp_path_factory.mktemp("site")
    wheel = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    ignored = shutil.ignore_patterns("__pycache__", "model*.pt", "runs", "checkpoints", "denoised", "evaluation")
    for package in wheel["packages"]:
        shutil.copytree(root / package, site / package, ignore=ignored)
    for source, target in wheel["force-include"].items():
        copy = shutil.copytree if (root / source).is_dir() else shutil.copyfile
        (site / target).parent.mkdir(parents=True, exist_ok=True)
        copy(root / source, site / target)
    others = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and Path(p).resolve() != root]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *others]), "OMP_NUM_THREADS": "1"}


def start(environment: dict[str, str], folder: Path, module: str, *arguments: object) -> str:
    """Run a module elsewhere; returns what it said."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_copy_from_the_wheel_trains_denoises_and_evaluates_by_command(spatial_dims, installed, tmp_path):
    images = make_images(tmp_path / "images")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    bundle = tmp_path / "my bundle"
    said = start(installed, elsewhere, "monai_n2v.cli", "bundle", "copy", f"n2v_denoise_{spatial_dims}d", bundle)
    assert f"Bundle: {bundle}" in said
    keys = [item for key, value in short(spatial_dims).items() for item in (f"--{key}", json.dumps(value).strip('"'))]
    for names in (["train"], ["train", "evaluate"], ["inference"]):
        files = [str(bundle / "configs" / f"{name}.json") for name in names]
        places = ["--bundle_root", bundle, "--dataset_dir", images]
        known = keys if names == ["train"] else keys[:4]  # features and device
        start(installed, elsewhere, "monai.bundle", "run", "--config_file", str(files), *places, *known)
    written = nibabel.load(bundle / "denoised" / "sub" / "volume_denoised.nii.gz")
    assert np.isfinite(written.get_fdata()).all()
    assert (bundle / "evaluation" / "scores.csv").is_file()
    assert list(elsewhere.iterdir()) == [], "nothing lands where the command was started"


def test_workflow_of_ours_by_command_names_the_nearest_key(installed, tmp_path):
    start(installed, tmp_path, "monai_n2v.cli", "bundle", "copy", "n2v_denoise_2d", "copy", "-q")
    command = ["run_workflow", "--workflow_name", "monai_n2v.bundle.workflow.N2VWorkflow", "--epoch", "5"]
    command += ["--config_file", "copy/configs/train.json", "--bundle_root", "copy"]
    done = subprocess.run(
        [sys.executable, "-m", "monai.bundle", *command], cwd=tmp_path, env=installed, capture_output=True, text=True
    )
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last == "ValueError: epoch must be a key of the config, got an unknown one. Did you mean epochs?"


def test_config_of_every_kind_is_in_the_wheel(installed, tmp_path):
    code = "from monai_n2v.bundle.resources import find_bundle, find_config, list_bundles as l\n"
    code += "print(*[p for n in l() for p in find_bundle(n).rglob('*.json')], find_config('anneal.json'), sep='\\n')"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=installed, capture_output=True, text=True, check=True)
    paths = [Path(line) for line in done.stdout.splitlines()]
    assert all("share" in path.parts for path in paths)
    for dims in (2, 3):
        names = {path.name for path in paths if f"n2v_denoise_{dims}d" in path.parts}
        assert {"train.json", "inference.json", "evaluate.json", "metadata.json", "onnx_export.json"} <= names
