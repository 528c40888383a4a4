# SPDX-License-Identifier: Apache-2.0
"""The benchmarks' own code: tasks as described, recipes that are configs, a page that says what the JSON says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks import bundles
from benchmarks.common import ROOT
from benchmarks.files import table
from benchmarks.gallery import CASES, page as gallery_page
from benchmarks.recipes import Recipe
from benchmarks.speed.curves import TASK_OF, name_of, variants
from benchmarks.table import PAGES, pages
from benchmarks.tasks import TASKS, data_folder
from monai_n2v.bundle.resources import bundle_name, find_bundle, find_config

needs_data = pytest.mark.skipif(not data_folder().exists(), reason="real images are absent")


@needs_data
@pytest.mark.parametrize(("name", "psnr_noisy"), [("set12", 20.17), ("colin27", 24.19)])
def test_tasks_are_those_that_peers_were_measured_on(name, psnr_noisy):
    task = TASKS[name]()
    assert task.score(task.noisy) == pytest.approx(psnr_noisy, abs=0.01)
    assert all(image.dtype == "float32" for image in task.noisy)
    assert {image.shape for image in task.noisy} == {(256, 256) if name == "set12" else (96, 96, 96)}


def config(recipe: Recipe) -> dict[str, Any]:
    """The config that a recipe is laid over."""
    names = [*recipe.overlays, *(["anneal.json"] if recipe.anneal else [])]
    train = find_bundle(bundle_name(recipe.spatial_dims)) / "configs" / "train.json"
    merged: dict[str, Any] = {}
    for path in (train, *map(find_config, names)):
        merged |= json.loads(path.read_text())
    return merged


@pytest.mark.parametrize("dims", [2, 3])
def test_variants_of_the_curves_set_keys_that_the_config_has(dims):
    for group, members in variants(dims).items():
        for name, recipe in members.items():
            known = config(recipe)
            plain = {key for key in recipe.settings if "#" not in key}
            assert plain <= set(known), name_of(dims, group, name)
            assert recipe.spatial_dims == dims
    assert TASK_OF[dims] in TASKS


def test_table_of_real_files_says_what_the_json_says():
    results = json.loads((ROOT / "benchmarks" / "results" / "files.json").read_text())["packages"]
    assert table(results) in (ROOT / "docs" / "reference" / "formats.md").read_text()
    assert sum(one["equal"] for one in results.values()) >= 100
    assert all(one["different"] == 0 for one in results.values())


@pytest.mark.parametrize("name", pages())
def test_pages_of_results_say_what_the_json_says(name):
    assert (ROOT / "docs" / name).read_text() == pages()[name]


def test_every_stored_result_is_on_a_page():
    stored = {path.stem for path in (ROOT / "benchmarks" / "results").glob("*.json")}
    shown = {name for _, sections in PAGES.values() for name in sections}
    elsewhere = {"filters", "overhead_bfloat16", "files", "procedural", "bundles"}  # beside another, or on another page
    assert {name for name in stored - shown - elsewhere if not name.startswith(("gpu_", "paper_"))} == set()


def test_gallery_is_what_the_script_writes():
    assert (ROOT / "docs" / "gallery.md").read_text() == gallery_page()
    assert all((ROOT / "docs" / "images" / f"gallery_{name}.png").is_file() for name in CASES)
    assert (ROOT / "docs" / "images" / "overview.png").is_file()


@pytest.mark.parametrize("dims", [2, 3])
def test_bundle_says_what_the_json_says(dims):
    folder = find_bundle(bundle_name(dims))
    assert bundles.table(dims) in (folder / "docs" / "README.md").read_text()
    facts = json.loads((folder / "configs" / "metadata.json").read_text())
    assert facts["eval_metrics"] == bundles.metrics(dims)
    assert len(facts["eval_metrics"]) == 6
