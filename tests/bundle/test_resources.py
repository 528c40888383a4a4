# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

import monai_n2v.bundle.resources as resources
from monai_n2v.bundle.resources import copy_bundle, find_bundle, list_bundles
from monai_n2v.cli.main import main

NAMES = ["n2v_denoise_2d", "n2v_denoise_3d"]


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def used_bundle(tmp_path, monkeypatch):
    """A checkout in which somebody trained the 3D bundle in place."""
    clean = copy_bundle("n2v_denoise_3d", tmp_path / "clean")
    bundle = tmp_path / "checkout" / "bundles" / "n2v_denoise_3d"
    shutil.copytree(clean, bundle)
    for name in ("models/model.pt", "runs/x/events", "checkpoints/c.pt", "denoised/a.nii", "mlruns.db"):
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / name).write_text("x")
    for name in ("configs/__pycache__/x.pyc", "docs/.cache"):
        (bundle / name).parent.mkdir(exist_ok=True)
        (bundle / name).write_text("x")
    monkeypatch.setattr(resources, "_roots", lambda: (tmp_path / "none", tmp_path / "checkout"))
    return clean


@pytest.mark.parametrize("exists", [False, True])
def test_copy_holds_the_bundle_and_nothing_of_a_training(exists, used_bundle, tmp_path):
    target = tmp_path / "deep" / "copy"
    if exists:
        target.mkdir(parents=True)
    assert copy_bundle("n2v_denoise_3d", target) == target
    assert contents(target) == contents(used_bundle)
    assert list((tmp_path / "deep").iterdir()) == [target]


@pytest.mark.parametrize("name", NAMES)
def test_copy_says_where_it_is_and_what_comes_next(name, tmp_path, capsys):
    assert main(["bundle", "copy", name, str(tmp_path / "a copy")]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"Bundle: {tmp_path / 'a copy'}" in captured.err
    config = tmp_path / "a copy" / "configs" / "train.json"
    assert f"python -m monai.bundle run --config_file '{config}' --bundle_root '{tmp_path / 'a copy'}'" in captured.err
    assert (tmp_path / "a copy" / "LICENSE").read_bytes() == (find_bundle(name) / "LICENSE").read_bytes()


@pytest.mark.parametrize("as_json", [False, True])
def test_list_names_bundles_and_tasks(as_json, capsys):
    assert main(["bundle", "list", *(["--json"] if as_json else [])]) == 0
    said = capsys.readouterr().out
    listed = json.loads(said) if as_json else dict(line.split(": ") for line in said.splitlines())
    assert listed == list_bundles()
    assert list(listed) == NAMES


@pytest.mark.parametrize("text", ["a file", "a folder with something"])
def test_copy_replaces_nothing(text, tmp_path):
    target = tmp_path / "x"
    if text == "a file":
        target.write_text("mine")
    else:
        target.mkdir()
        (target / "mine").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(FileExistsError, match="DIR must not exist yet or be an empty folder"):
        copy_bundle("n2v_denoise_2d", target)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(("name", "nearest"), [("n2v_denoise_2", "n2v_denoise_2d"), ("N2V_3D", "n2v_denoise_3d")])
def test_unknown_bundle_names_the_nearest(name, nearest, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"Did you mean {nearest}"):
        copy_bundle(name, tmp_path / "x")


def test_copying_and_listing_load_neither_torch_nor_monai(tmp_path):
    for command in (["list"], ["copy", "n2v_denoise_3d", str(tmp_path / "x")], ["--help"]):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "monai_n2v.cli", "bundle", *command],
            capture_output=True,
            text=True,
            check=True,
        )
        assert not {"torch", "monai", "numpy"} & {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
