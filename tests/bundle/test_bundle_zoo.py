# SPDX-License-Identifier: Apache-2.0
"""What MONAI's model zoo asks of a bundle, beyond the commands in test_bundle_commands.py."""

from __future__ import annotations

import getpass
import hashlib
import json
import re
from pathlib import Path

import pytest
from monai.bundle import init_bundle
from packaging.requirements import Requirement

import monai_n2v
from monai_n2v.bundle.resources import bundle_name, copy_bundle, find_bundle

MAX_BYTES = 25 * 2**20
WEIGHTS = {".pt", ".pth", ".ts", ".onnx", ".pt2", ".ckpt", ".safetensors", ".zip"}
REQUIRED = ["LICENSE", "configs/metadata.json", "configs/train.json", "configs/inference.json", "configs/evaluate.json"]


@pytest.fixture(params=[2, 3])
def bundle(request, tmp_path) -> Path:
    """A copy: what somebody trained in the checkout is no part of it."""
    return copy_bundle(bundle_name(request.param), tmp_path / bundle_name(request.param))


def metadata(bundle: Path) -> dict:
    return json.loads((bundle / "configs" / "metadata.json").read_text())


def test_files_are_there_small_and_the_prior_is_named(bundle):
    for name in (*REQUIRED, "configs/logging.conf", "docs/README.md"):
        assert (bundle / name).is_file(), name
    files = [path for path in bundle.rglob("*") if path.is_file()]
    assert all(path.stat().st_size <= MAX_BYTES for path in files)
    assert [path.name for path in files if path.suffix in WEIGHTS] == ["prior.pt"]
    named = json.loads((bundle / "configs" / "metadata.json").read_text())["prior"]
    assert hashlib.sha256((bundle / "models" / "prior.pt").read_bytes()).hexdigest() == named["sha256"]
    assert {"command", "seed", "steps", "versions"} <= set(named)
    readme = " ".join((bundle / "docs" / "README.md").read_text().split())
    assert "procedural" in readme, "the page says plainly what the prior has seen"


def test_page_shows_a_picture_and_a_curve_and_links_to_nothing_that_a_copy_lacks(bundle):
    page = bundle / "docs" / "README.md"
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    assert {"denoised.png", "curve.png"} <= set(targets)
    for target in targets:
        assert "://" in target or (page.parent / target).resolve().is_relative_to(bundle.resolve()), target
        assert "://" in target or (page.parent / target).is_file(), target
    assert all(path.stat().st_size < 100_000 for path in page.parent.glob("*.png"))
    assert "of the project" not in page.read_text(), "a copy stands alone"


def test_metadata_tells_modality_and_what_was_measured(bundle):
    facts = metadata(bundle)
    for side in ("inputs", "outputs"):
        assert all("MR" in tensor["modality"] for tensor in facts["network_data_format"][side].values())
    assert facts["eval_metrics"]
    assert all(isinstance(value, float) for value in facts["eval_metrics"].values())


def test_layout_is_that_of_a_new_bundle_of_monai(bundle, tmp_path):
    init_bundle(str(tmp_path / "new"))
    made = {path.relative_to(tmp_path / "new") for path in (tmp_path / "new").rglob("*") if path.is_file()}
    assert Path("configs/metadata.json") in made
    assert made <= {path.relative_to(bundle) for path in bundle.rglob("*")}


def test_license_is_the_package_license(bundle, root):
    assert (bundle / "LICENSE").read_text() == (root / "LICENSE").read_text()


def test_version_is_in_the_changelog_and_of_the_package(bundle):
    facts = metadata(bundle)
    assert facts["version"] in facts["changelog"]
    assert facts["version"] == monai_n2v.__version__
    assert facts["required_packages_version"]["monai-n2v"] == monai_n2v.__version__


def test_versions_are_those_the_tests_pass_with(bundle, root):
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    lines = (root / "constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    needed = {Requirement(line).name for line in project["dependencies"]} & set(pinned)
    facts = metadata(bundle)
    named = {"monai": facts["monai_version"], "torch": facts["pytorch_version"], "numpy": facts["numpy_version"]}
    named |= facts["required_packages_version"]
    assert {name: named.get(name) for name in needed} == {name: pinned[name] for name in needed}
    assert "optional_packages_version" not in facts, "deprecated"


def test_every_config_is_formatted_alike(bundle, root):
    for path in [*bundle.rglob("*.json"), *(root / "configs").glob("*.json")]:
        text = path.read_text()
        assert text == json.dumps(json.loads(text), indent=4) + "\n", path.name


def test_no_file_names_a_place_or_a_user(bundle):
    place = re.compile(r"(?<![\w:/.@'])/(home|root|Users|tmp|work|workspace|mnt|data|opt)/|[A-Z]:\\\\")
    user = getpass.getuser()
    for path in bundle.rglob("*"):
        if path.is_file() and path.suffix not in {*WEIGHTS, ".png"}:
            text = path.read_text()
            assert not place.search(text), path.name
            assert user == "root" or not re.search(rf"\b{re.escape(user)}\b", text), path.name


def test_bundles_differ_in_numbers_only():
    def outline(value):
        if isinstance(value, dict):
            return {key: outline(part) for key, part in value.items()}
        if isinstance(value, list) and not all(isinstance(part, int) for part in value):
            return [outline(part) for part in value]
        return type(value).__name__ if isinstance(value, (int, float, list)) else str(value).replace("_3d", "")

    folders = [find_bundle(bundle_name(dims)) / "configs" for dims in (2, 3)]
    names = [sorted(path.name for path in folder.glob("*.json")) for folder in folders]
    assert names[0] == names[1]
    for name in set(names[0]) - {"metadata.json"}:
        two, three = (outline(json.loads((folder / name).read_text())) for folder in folders)
        assert two == three, name
