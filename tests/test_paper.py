# SPDX-License-Identifier: Apache-2.0
"""The paper's experiments: images as described, schemes that differ in their pairing alone, rows that replace rows."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import common
from benchmarks.m4raw import brain_of, m4raw, noise_powers
from benchmarks.paper import classic, failures, medical, sections, store
from benchmarks.paper.__main__ import EXPERIMENTS, listing
from benchmarks.paper.images import bsd68, epithelia, train400
from benchmarks.paper.real import neighbors
from benchmarks.paper.schemes import SCHEMES, trained
from benchmarks.tasks import Task, data_folder
from monai_n2v.bundle.resources import bundle_name, find_bundle, find_config

needs_data = pytest.mark.skipif(not data_folder().exists(), reason="real images are absent")
SHAPES = {2: (96, 80), 3: (32, 40, 36)}


@pytest.mark.parametrize("dims", [2, 3])
def test_epithelia_are_membranes_with_noise_that_is_zero_on_average(dims):
    images = epithelia(4, SHAPES[dims], seed=3)
    clean = np.stack(images.clean)
    assert clean.min() > 0
    assert clean.max() < 44
    assert 0.1 < np.mean(clean > 0.3 * clean.max()) < 0.7, "membranes, and cells between"
    for noisy in (images.first, images.second):
        noise = np.stack(noisy) - clean
        assert abs(noise.mean()) < 4 * noise.std() / np.sqrt(noise.size)
        np.testing.assert_allclose(noise.var(), clean.mean() + 9, rtol=0.05)
        bright = clean > np.percentile(clean, 90)
        assert noise[bright].var() > 1.5 * noise[~bright].var(), "photons"
    both = np.corrcoef(np.ravel(images.first) - clean.ravel(), np.ravel(images.second) - clean.ravel())[0, 1]
    assert abs(both) < 0.02
    np.testing.assert_array_equal(images.first, epithelia(4, SHAPES[dims], seed=3).first)


@needs_data
def test_bsd68_is_as_noisy_as_in_the_paper_and_its_parts_have_the_same_noise():
    task = bsd68()
    assert (len(task.noisy), len(train400().first)) == (68, 400)
    assert task.score(task.noisy) == pytest.approx(20.17, abs=0.01)
    part = bsd68(every=4)
    np.testing.assert_array_equal(part.noisy[3], task.noisy[12])


def of_training(name: str, preset: str = "paper/bsd68.json") -> dict:
    scheme, merged = SCHEMES[name], {}
    names = [preset, *scheme.network, *scheme.pairing, "anneal.json"]
    for path in (find_bundle(bundle_name(2)) / "configs" / "train.json", *map(find_config, names)):
        merged |= json.loads(path.read_text())
    return merged


def test_schemes_are_one_program_with_the_pairing_swapped():
    blind = of_training("Noise2Void")
    for name in ("traditional", "Noise2Noise"):
        differing = {key for key, value in of_training(name).items() if blind.get(key) != value}
        assert differing <= {
            "_desc_", "+settings", "target_dir", "val_target_dir", "train#pairing", "train#dataset#data",
            "train#preprocessing",
            "train#dataloader#cut#label_key", "validate#dataset#data", "validate#dataloader#cut#label_key",
        }  # fmt: skip


@pytest.mark.parametrize("name", ["traditional", "Noise2Noise", "Noise2Void", "N2V2"])
@pytest.mark.parametrize(("dims", "anneal"), [(2, True), (2, False), (3, True)])
def test_every_scheme_trains_from_arrays_and_predicts(dims, name, anneal):
    images = epithelia(2, SHAPES[dims], seed=0)
    settings = {"features": 4, "batch_size": 2, "patch_size": [16] * dims, "lr": 0.002}
    settings |= {} if anneal else {"val_length": 1}
    targets = images.targets(SCHEMES[name].targets)
    with trained(
        SCHEMES[name], ("paper/epithelia.json",), images.first, targets, 10, 0, anneal=anneal, **settings
    ) as found:
        outputs = found.predict(images.first)
        assert found.record["steps"] == 10
    assert [output.shape for output in outputs] == [SHAPES[dims]] * 2
    assert all(np.isfinite(output).all() for output in outputs)


def test_a_row_takes_the_place_of_the_one_it_repeats(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    monkeypatch.setattr(store, "RESULTS", tmp_path)
    for module in (common, store):
        machine = {"command": "x", "commit": "abc", "cpu": "y", "cores": 2, "threads": 1, "gpu": None, "versions": {}}
        monkeypatch.setattr(module, "machine", lambda machine=machine: machine)
    for psnr, seed in ((1.0, 0), (2.0, 1), (3.0, 0)):
        store.record("bsd68", scale="reduced", method="Noise2Void", psnr=psnr, seed=seed, steps=10)
    assert [(row["psnr"], row["seed"]) for row in store.rows_of("bsd68")] == [(3.0, 0), (2.0, 1)]
    assert all("commit" in row["origin"] for row in store.rows_of("bsd68"))
    of_bsd68 = [line for line in listing().splitlines() if line.startswith("bsd68")]
    assert "2 rows, waiting: traditional; Noise2Noise; N2V2;" in of_bsd68[0]
    assert "waiting for a GPU" in of_bsd68[1]
    assert len(listing().splitlines()) == sum(len(scales) for _, scales in EXPERIMENTS.values())


def test_tables_do_not_mix_a_reduced_run_with_a_full_one():
    reduced = [
        {"scale": "reduced", "axes": "2D", "method": method, "psnr": 30.0, "steps": 5, "seed": 0, "sigma": 25}
        | {"seconds_per_image": 1, "n_images": 9, "origin": "o"}
        for method in ("Noise2Noise", "Noise2Void")
    ]
    full = [row | {"scale": "full", "psnr": 33.25, "steps": 10_000} for row in reduced[1:]]
    assert "0.00 dB below" in "\n".join(sections.simulated(reduced))
    for section in (sections.simulated, sections.sweep):
        text = "\n".join(section([*reduced, *full]))
        assert "33.25" in text
        assert "30.00" not in text
        assert "dB below" not in text


def test_filters_score_what_they_denoise_and_name_what_is_absent(monkeypatch, capsys):
    pytest.importorskip("skimage")

    def absent(sigma, n_axes):
        raise ImportError("no such package")

    monkeypatch.setattr(classic, "collaborative", absent)
    rng = np.random.default_rng(0)
    clean = np.full((48, 48), 100.0, np.float32)
    task = Task("flat", [clean + rng.normal(0, 10, clean.shape).astype(np.float32)], [clean], 10, 255)
    rows = {row["method"]: row["psnr"] for row in classic.classic_rows(task, 10)}
    assert rows["noisy"] < rows["median filter 3"] < rows["mean filter 3"] < rows["mean filter 7"]
    assert "BM3D is absent" in capsys.readouterr().err
    assert set(rows) == {
        "noisy",
        "non-local means",
        *(f"{k} filter {n}" for k in ("mean", "median") for n in (3, 5, 7)),
    }


def test_repeats_of_unequal_noise_score_alike_whatever_the_formula():
    rng = np.random.default_rng(0)
    clean, where = rng.normal(100, 20, (200, 200, 20)), np.ones((200, 200, 20), bool)
    repeats = [clean + rng.normal(0, sigma, clean.shape) for sigma in (8, 12, 10)]
    powers = noise_powers(repeats, where)
    np.testing.assert_allclose(powers, [64, 144, 100], rtol=0.05)
    output = clean + rng.normal(0, 5, clean.shape)
    true = 10 * np.log10(255**2 / 25)
    assert medical.by_repeats(repeats[1], repeats[2], where)(output)["psnr"] == pytest.approx(true, abs=0.15)
    assert medical.by_repeat(repeats[2], powers[2], where)(output)["psnr"] == pytest.approx(true, abs=0.15)


@needs_data
@pytest.mark.parametrize("contrast", ["T1", "T2"])
def test_repeats_of_m4raw_are_equally_bright(contrast):
    repeats = m4raw(contrast)
    brain = brain_of(repeats[0])
    means = [volume[brain].mean() for volume in repeats]
    np.testing.assert_allclose(means, means[0], rtol=0.01)


@needs_data
@pytest.mark.parametrize("kind", ["Gaussian", "Rician"])
def test_the_second_noisy_brain_has_noise_of_its_own(kind):
    clean, noisy, second = medical.colin27(kind, 12.0)
    head = clean > 40
    assert abs(np.corrcoef((noisy - clean)[head], (second - clean)[head])[0, 1]) < 0.02
    np.testing.assert_allclose((noisy - clean)[head].std(), 12, rtol=0.05)


def test_worst_predictions_are_those_with_the_largest_errors(monkeypatch):
    rows = []
    monkeypatch.setattr(failures, "record", lambda experiment, **row: rows.append(row))
    clean = [np.full((80, 72), 100.0) for _ in range(3)]
    blind, traditional = [image.copy() for image in clean], [image + 1 for image in clean]
    blind[1][79, 3] += 60
    blind[2] += 9
    failures.worst_predictions(Task("x", clean, clean, 0, 255), traditional, blind, "reduced", 0)
    found = {row["case"]: (row["image_number"], row["noise2void"], row["traditional"]) for row in rows}
    assert found == {"largest error of a pixel": (1, 60, 1), "largest error of an image": (2, 9, 1)}


@pytest.mark.parametrize("kind", failures.STRUCTURES)
def test_share_of_a_pattern_is_found_beside_noise(kind):
    rng = np.random.default_rng(0)
    pattern = failures.STRUCTURES[kind]((128, 128), rng)
    noise = rng.normal(0, 15, pattern.shape)
    assert failures.left_of(pattern, 0.4 * pattern + noise) == pytest.approx(0.4, abs=0.05)
    np.testing.assert_allclose(pattern.std(), failures.AMPLITUDE, rtol=0.01)


def test_neighbors_correlate_along_the_axis_that_is_smoothed():
    noise = np.random.default_rng(0).normal(size=(64, 64))
    assert np.allclose(neighbors(noise), 0, atol=0.05)
    rows, columns = neighbors(noise + np.roll(noise, 1, axis=1))
    assert abs(rows) < 0.05
    assert columns == pytest.approx(0.5, abs=0.05)
