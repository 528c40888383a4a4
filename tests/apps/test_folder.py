# SPDX-License-Identifier: Apache-2.0
"""Folders, training for later, and facts, by the command line."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from conftest import oblique_nifti, phantom
from monai.bundle import ConfigWorkflow
from samples import dicom_series, oblique_affine

from monai_n2v.bundle.resources import copy_bundle
from monai_n2v.cli.main import main
from monai_n2v.inferers import SymmetricInferer
from monai_n2v.io.images import read_volume
from monai_n2v.io.lock import LOCK

QUICK = ["--scheme", "n2v", "--epochs", "1", "--device", "cpu"]


pytestmark = pytest.mark.usefixtures("short_epochs")


@pytest.fixture
def tree(tmp_path) -> Path:
    """Two NIfTI volumes of different shapes and a DICOM series."""
    folder = tmp_path / "in"
    (folder / "sub ä").mkdir(parents=True)
    nibabel.save(oblique_nifti(phantom((20, 18, 16))[1]), folder / "a.nii.gz")
    nibabel.save(oblique_nifti(phantom((16, 18, 12), seed=1)[1]), folder / "sub ä" / "b.nii")
    stored = np.round(10 * phantom((18, 16, 12), seed=2)[1]).astype(np.int16)
    dicom_series(folder / "series", stored, oblique_affine())
    return folder


def run(capsys, *args) -> tuple[int, list[dict], str]:
    code = main([str(a) for a in args])
    captured = capsys.readouterr()
    return code, [json.loads(line) for line in captured.out.splitlines()], captured.err


def test_folder_is_mirrored_with_one_network(tree, tmp_path, capsys):
    out = tmp_path / "out"
    code, records, err = run(capsys, "denoise", "-i", tree, "-o", out, *QUICK, "--json", "--save-residual")
    assert code == 0, err
    assert "Training one network on 3 images" in err
    assert "3 of 3 images denoised" in err
    assert [Path(r["output"]).relative_to(out).as_posix() for r in records] == ["a.nii.gz", "series", "sub ä/b.nii"]
    assert all(record["status"] == "done" for record in records)
    assert nibabel.load(out / "sub ä" / "b.nii").shape == (16, 18, 12)
    assert read_volume(out / "series").data.shape == (1, 18, 16, 12)
    noisy, denoised, removed = (
        read_volume(path).data for path in (tree / "a.nii.gz", out / "a.nii.gz", out / "a_residual.nii.gz")
    )
    np.testing.assert_allclose(denoised + removed, noisy, atol=1e-3)
    assert (out / "series_residual.nii.gz").exists()


def test_faulty_file_is_told_at_the_end_and_the_rest_done(tree, tmp_path, capsys):
    (tree / "aa.nii.gz").write_bytes(b"no image")
    nibabel.save(nibabel.Nifti1Image(np.full((9, 9, 9), 3.0, np.float32), np.eye(4)), tree / "flat.nii")
    code, records, err = run(capsys, "denoise", "-i", tree, "-o", tmp_path / "out", *QUICK, "--json")
    assert code == 1
    assert sorted(Path(r["input"]).name for r in records if r["status"] == "failed") == ["aa.nii.gz", "flat.nii"]
    assert sum(record["status"] == "done" for record in records) == 3
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert err.strip().splitlines()[-2:] == errors
    assert "aa.nii.gz" in errors[0]
    assert "flat.nii" in errors[1]
    assert not (tmp_path / "out" / "aa.nii.gz").exists()
    assert "Traceback" not in err


def test_per_image_trains_as_often(tree, tmp_path, capsys):
    options = ["--per-image", "--pattern", "*.nii*", "--json", *QUICK]
    code, records, _ = run(capsys, "denoise", "-i", tree, "-o", tmp_path / "out", *options)
    assert code == 0
    assert len(records) == 2
    assert records[0]["losses"] != records[1]["losses"]


def test_skip_existing_leaves_results_alone(tree, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.nii.gz").write_bytes(b"old")
    assert run(capsys, "denoise", "-i", tree, "-o", out, *QUICK)[0] == 2
    code, _, err = run(capsys, "denoise", "-i", tree, "-o", out, "--pattern", "*.nii*", "--skip-existing", *QUICK)
    assert code == 0, err
    assert (out / "a.nii.gz").read_bytes() == b"old"
    assert (out / "sub ä" / "b.nii").exists()
    code, _, err = run(capsys, "denoise", "-i", tree, "-o", out, "--pattern", "*.nii*", "--skip-existing", *QUICK)
    assert code == 0
    assert "nothing to do" in err


def test_rest_of_a_folder_is_denoised_by_the_network_of_all(tree, tmp_path, capsys):
    """An interrupted run that goes on gives what an uninterrupted one gives."""
    options = ["-i", tree, "--pattern", "*.nii*", "--skip-existing", *QUICK]
    assert run(capsys, "denoise", *options, "-o", tmp_path / "whole")[0] == 0
    (tmp_path / "parts").mkdir()
    shutil.copy(tmp_path / "whole" / "a.nii.gz", tmp_path / "parts")
    code, _, err = run(capsys, "denoise", *options, "-o", tmp_path / "parts")
    assert code == 0
    assert "Training one network on 2 images" in err
    assert "1 of 1 images denoised" in err
    whole, parts = (read_volume(tmp_path / name / "sub ä" / "b.nii").data for name in ("whole", "parts"))
    assert np.array_equal(whole, parts)


def test_lost_residual_is_made_anew(tree, tmp_path, capsys):
    options = ["-i", tree, "-o", tmp_path / "out", "--pattern", "*.nii*", "--skip-existing", "--save-residual", *QUICK]
    assert run(capsys, "denoise", *options)[0] == 0
    lost = tmp_path / "out" / "a_residual.nii.gz"
    before = read_volume(lost).data
    lost.unlink()
    assert run(capsys, "denoise", *options)[0] == 0
    assert np.array_equal(read_volume(lost).data, before)


def test_interrupt_keeps_what_is_done_and_nothing_half(tree, tmp_path, capsys, monkeypatch):
    predict, calls = SymmetricInferer.__call__, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return predict(*args, **kwargs)

    monkeypatch.setattr(SymmetricInferer, "__call__", interrupted)
    out = tmp_path / "out"
    code, _, err = run(capsys, "denoise", "-i", tree, "-o", out, *QUICK)
    assert code == 130
    assert "interrupted" in err
    assert [p.name for p in out.rglob("*")] == ["a.nii.gz"]


def test_series_chosen_and_noise_map_written(tree, tmp_path, capsys):
    code, _, err = run(
        capsys, "denoise", "-i", tree / "series", "-o", tmp_path / "s", "--series", "3", "--save-noise-map", *QUICK
    )
    assert code == 0, err
    noise = read_volume(tmp_path / "s_noise.nii.gz").data
    assert noise.shape == (1, 18, 16, 12)
    assert (noise >= 0).all()
    assert run(capsys, "denoise", "-i", tree / "series", "-o", tmp_path / "t", "--series", "9", *QUICK)[0] == 1


def test_trained_bundle_stands_on_its_own(tree, tmp_path, capsys):
    model = tmp_path / "model"
    code, records, err = run(capsys, "train", "-i", tree, "-o", model, "--json", *QUICK)
    assert code == 0, err
    assert records[0]["steps"] == 2
    data = json.loads((model / "configs" / "metadata.json").read_text())["training_data"]
    assert [item["shape"] for item in data] == [[20, 18, 16], [18, 16, 12], [16, 18, 12]]
    for part in ("LICENSE", "docs/README.md", "models/model.pt", "configs/train.json", "configs/logging.conf"):
        assert (model / part).is_file(), part

    denoised = tmp_path / "by_model.nii.gz"
    code, _, err = run(capsys, "denoise", "-i", tree / "a.nii.gz", "-o", denoised, "--model", model, "--device", "cpu")
    assert code == 0, err
    flow = ConfigWorkflow(
        config_file=str(model / "configs" / "inference.json"),
        workflow_type="inference",
        logging_file=False,
        bundle_root=str(model),
        dataset_dir=str(tree),
        device="$torch.device('cpu')",
    )
    flow.initialize()
    assert flow.check_properties() == []
    flow.run()
    flow.finalize()
    by_bundle = read_volume(model / "denoised" / "a_denoised.nii.gz").data
    np.testing.assert_allclose(by_bundle, read_volume(denoised).data, atol=1e-4)
    assert read_volume(model / "denoised" / "series_denoised").data.shape == (1, 18, 16, 12)


def test_training_refuses_to_overwrite_and_resumes(tree, tmp_path, capsys):
    model, whole = tmp_path / "model", tmp_path / "whole"
    options = ["--scheme", "n2v", "--device", "cpu"]
    assert run(capsys, "train", "-i", tree / "a.nii.gz", "-o", whole, "--epochs", 3, *options)[0] == 0
    assert run(capsys, "train", "-i", tree / "a.nii.gz", "-o", model, "--epochs", 3, *options)[0] == 0
    code, _, err = run(capsys, "train", "-i", tree / "a.nii.gz", "-o", model, "--epochs", 3, *options)
    assert code == 2
    assert "MODELDIR must not hold a network yet" in err
    # As if it had been stopped in the third epoch.
    (model / "checkpoints" / "checkpoint_epoch=3.pt").unlink()
    (model / "models" / "model.pt").unlink()
    assert run(capsys, "train", "-i", tree / "a.nii.gz", "-o", model, "--epochs", 3, "--resume", *options)[0] == 0
    first, second = (torch.load(m / "models" / "model.pt", weights_only=True) for m in (whole, model))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert run(capsys, "train", "-i", tree / "a.nii.gz", "-o", tmp_path / "none", "--resume", *options)[0] == 2
    assert run(capsys, "train", "-i", tree, "-o", model, "--resume", "--max-time", 3, *options)[0] == 2


def test_info_of_image_series_and_network(tree, tmp_path, capsys):
    code, records, _ = run(capsys, "info", tree / "series", "--json")
    assert code == 0
    assert records[0]["kind"] == "DICOM series"
    assert records[0]["shape"] == [18, 16, 12]
    code, records, _ = run(capsys, "info", tree / "a.nii.gz", "--json")
    assert records[0]["spacing_mm"] == pytest.approx([0.9, 1.1, 2.5])
    assert run(capsys, "train", "-i", tree / "a.nii.gz", "-o", tmp_path / "m", *QUICK)[0] == 0
    code, records, _ = run(capsys, "info", tmp_path / "m", "--json")
    assert records[0]["network"] == "ReplicateUNet"
    assert records[0]["training_data"][0]["shape"] == [20, 18, 16]
    assert main(["info", str(tree / "a.nii.gz")]) == 0
    assert "shape: [20, 18, 16]" in capsys.readouterr().out
    assert run(capsys, "info", tree / "none.nii")[0] == 2
    assert run(capsys, "info", tmp_path)[0] == 2
    assert run(capsys, "check", tree)[0] == 2


@pytest.mark.parametrize("keep", [True, False])
def test_padding_kept_by_default(keep, tmp_path, capsys):
    noisy = phantom((24, 22, 18))[1]
    noisy[:6] = -1024
    nibabel.save(nibabel.Nifti1Image(noisy, np.eye(4)), tmp_path / "x.nii")
    options = [] if keep else ["--no-keep-padding"]
    code, _, err = run(capsys, "denoise", "-i", tmp_path / "x.nii", "-o", tmp_path / "y.nii", *QUICK, *options)
    assert code == 0, err
    assert (read_volume(tmp_path / "y.nii").data[0, :6] == -1024).all() == keep


@pytest.mark.parametrize(("asked", "expected"), [("3x1x1", [3, 1, 1]), ("auto", [1, 3, 1])])
def test_footprint_reaches_the_training(asked, expected, tmp_path, capsys, monkeypatch):
    import monai_n2v.apps.train as training

    clean, _ = phantom((48, 48, 40))
    noise = np.random.default_rng(0).normal(0, 10, clean.shape)
    noise = (noise + 0.7 * np.roll(noise, 1, axis=1)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(clean + noise, np.eye(4)), tmp_path / "x.nii")
    configs, train = [], training.train
    monkeypatch.setattr(
        training,
        "train",
        lambda folder, *args, **kwargs: (
            configs.append(json.loads((folder / "configs" / "train.json").read_text())),
            train(folder, *args, **kwargs),
        )[1],
    )
    code, _, err = run(
        capsys, "denoise", "-i", tmp_path / "x.nii", "-o", tmp_path / "y.nii", "--footprint", asked, *QUICK
    )
    assert code == 0, err
    assert list(np.shape(configs[0]["footprint"])) == expected


@pytest.mark.parametrize("footprint", ["2x1x1", "3", "axb", "3x3"])
def test_unfit_footprint_is_asked_wrongly(footprint, tree, tmp_path, capsys):
    try:
        options = ["-o", tmp_path / "y.nii.gz", "--footprint", footprint, *QUICK]
        code = run(capsys, "denoise", "-i", tree / "a.nii.gz", *options)[0]
    except SystemExit as error:
        code = int(error.code)
    assert code == (1 if footprint == "3x3" else 2)


def test_interrupted_retraining_leaves_the_old_network(tree, tmp_path, capsys, monkeypatch):
    import monai_n2v.apps.train as training

    model, a = tmp_path / "m", tree / "a.nii.gz"
    assert run(capsys, "train", "-i", a, "-o", model, "--epochs", "1", "--device", "cpu")[0] == 0
    before = {
        path: path.read_bytes() for path in model.rglob("*") if path.is_file() and "checkpoints" not in path.parts
    }

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", interrupt)
    assert run(capsys, "train", "-i", a, "-o", model, "--force", *QUICK)[0] == 130
    assert {path: path.read_bytes() for path in before} == before
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_retraining_stopped_between_configs_and_weights_is_told(tree, tmp_path, capsys, monkeypatch):
    model, command = tmp_path / "m", ["-i", tree / "a.nii.gz", "-o", tmp_path / "m", *QUICK]
    assert run(capsys, "train", *command)[0] == 0
    replace = os.replace

    def stop_at_weights(source, target):
        if Path(target) == model / "models" / "model.pt":
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr("monai_n2v.apps.train.os.replace", stop_at_weights)
        assert run(capsys, "train", "--force", *command)[0] == 130
    code, _, err = run(capsys, "denoise", "-i", tree / "a.nii.gz", "-o", tmp_path / "x.nii.gz", "--model", model)
    assert code == 1
    assert "model must be a whole bundle, got one whose training was stopped" in err
    assert run(capsys, "train", "--force", *command)[0] == 0


def test_folder_that_another_process_trains_into_is_refused(tree, tmp_path, capsys):
    model = tmp_path / "m"
    model.mkdir()
    (model / LOCK).write_text(json.dumps({"pid": 7, "started": 1.0, "machine": "elsewhere"}))
    code, _, err = run(capsys, "train", "-i", tree / "a.nii.gz", "-o", model, *QUICK)
    assert code == 2
    assert f"output must be free of other trainings, got process 7 at work in {model}" in err
    assert [path.name for path in model.iterdir()] == [LOCK]


def test_training_goes_on_without_a_faulty_file(tree, tmp_path, capsys):
    (tree / "b.npy").write_bytes(b"junk")
    code, _, err = run(capsys, "train", "-i", tree, "-o", tmp_path / "m", *QUICK)
    assert code == 1
    assert "b.npy" in err.strip().splitlines()[-1]
    assert (tmp_path / "m" / "models" / "model.pt").exists()


def test_footprint_across_slices_refused(tmp_path, capsys):
    nibabel.save(nibabel.Nifti1Image(phantom((24, 20, 4))[1], np.eye(4)), tmp_path / "x.nii")
    options = ["-o", tmp_path / "y.nii", "--footprint", "1x1x3", *QUICK]
    code, _, err = run(capsys, "denoise", "-i", tmp_path / "x.nii", *options)
    assert code == 1
    assert "footprint must lie in the slices" in err


@pytest.mark.parametrize("command", ["denoise", "train"])
def test_folder_is_handed_to_the_bundle_as_files(command, tree, tmp_path, capsys, monkeypatch):
    import monai_n2v.apps.train as training

    trained_on, train = [], training.train
    monkeypatch.setattr(training, "train", lambda *args, **kw: (trained_on.extend(args[1]), train(*args, **kw))[1])
    code, _, err = run(capsys, command, "-i", tree, "-o", tmp_path / "out", *QUICK, "--json")
    assert code == 0, err
    assert [Path(item["image"]).name for item in trained_on] == ["a.nii.gz", "series", "b.nii"], "images were held"


def test_one_workflow_and_one_network_serve_a_folder(tree, tmp_path, capsys, monkeypatch):
    import gc

    import monai_n2v.bundle.run as bundle_run

    assert run(capsys, "train", "-i", tree / "a.nii.gz", "-o", tmp_path / "m", *QUICK)[0] == 0
    for k in range(4):
        shutil.copy(tree / "a.nii.gz", tree / f"copy{k}.nii.gz")
    (tree / "aa.nii.gz").write_bytes(b"no image")
    workflows, loads, collections = [], [], []
    workflow, load, collect = bundle_run.N2VWorkflow, torch.load, gc.collect
    monkeypatch.setattr(bundle_run, "N2VWorkflow", lambda **kw: (workflows.append(1), workflow(**kw))[1])
    monkeypatch.setattr(torch, "load", lambda *args, **kw: (loads.append(args[0]), load(*args, **kw))[1])
    monkeypatch.setattr(gc, "collect", lambda *args: (collections.append(1), collect(*args))[1])
    options = ["--model", tmp_path / "m", "--device", "cpu", "--json"]
    code, records, _ = run(capsys, "denoise", "-i", tree, "-o", tmp_path / "out", *options)
    assert code == 1
    assert [record["status"] for record in records].count("done") == 7
    assert len(workflows) == 1
    assert collections == []
    # Checked once, loaded at the start, and again after the file that failed.
    assert len(loads) <= 3


def test_check_with_a_model_writes_nothing(tree, tmp_path, capsys):
    assert run(capsys, "train", "-i", tree / "a.nii.gz", "-o", tmp_path / "m", *QUICK)[0] == 0
    before = sorted(path for path in tmp_path.rglob("*"))
    for name in ("a.nii.gz", "series"):
        assert main(["check", str(tree / name), "--model", str(tmp_path / "m"), "--device", "cpu"]) == 0
    assert sorted(path for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("by_model", [True, False])
def test_series_is_chosen_in_a_folder_of_several_images(by_model, tmp_path, capsys):
    folder = tmp_path / "in"
    for name, number in (("a", 3), ("b", 3), ("other", 4)):
        stored = np.round(10 * phantom((18, 16, 12), seed=number)[1]).astype(np.int16)
        place = tmp_path / name if name == "other" else folder / name
        dicom_series(place, stored, oblique_affine(), series_number=number)
    for path in (tmp_path / "other").iterdir():
        shutil.copy(path, folder / "b" / f"other_{path.name}")
    out, model = tmp_path / "out", tmp_path / "m"
    if by_model:
        assert run(capsys, "train", "-i", folder, "-o", model, "--series", 3, *QUICK)[0] == 0
    options = ["--model", model, "--device", "cpu"] if by_model else QUICK
    code, records, err = run(capsys, "denoise", "-i", folder, "-o", out, "--series", 3, "--json", *options)
    assert code == 0, err
    assert [record["status"] for record in records] == ["done", "done"]
    assert len(list((out / "b").iterdir())) == 12


def test_file_that_another_program_replaces_is_refused(tree, tmp_path, capsys, monkeypatch):
    import monai_n2v.apps.folder as folder

    train = folder.train_network

    def replaced_meanwhile(*args):
        nibabel.save(oblique_nifti(phantom((20, 18, 14))[1]), tree / "a.nii.gz")
        return train(*args)

    monkeypatch.setattr(folder, "train_network", replaced_meanwhile)
    out = tmp_path / "out"
    code, records, _ = run(capsys, "denoise", "-i", tree, "-o", out, "--pattern", "*.nii*", "--json", *QUICK)
    assert code == 1
    assert {Path(record["input"]).name: record["status"] for record in records} == {
        "a.nii.gz": "failed",
        "b.nii": "done",
    }
    assert "image must stay as it was" in records[0]["error"]
    assert not (out / "a.nii.gz").exists()


def test_evaluator_that_ends_early_ends_with_a_sentence(tree, tmp_path, capsys, monkeypatch):
    assert run(capsys, "train", "-i", tree / "a.nii.gz", "-o", tmp_path / "m", *QUICK)[0] == 0
    monkeypatch.setattr("monai.engines.SupervisedEvaluator.run", lambda self: None)
    options = ["--model", tmp_path / "m", "--pattern", "*.nii*", "--device", "cpu", "--json"]
    code, records, _ = run(capsys, "denoise", "-i", tree, "-o", tmp_path / "out", *options)
    assert code == 1
    assert all("evaluator must reach every image" in record["error"] for record in records)
    assert len(records) == 2


def test_info_runs_nothing_of_a_bundle(tmp_path, capsys):
    """A bundle is a program; to look at a stranger's must not run it."""
    trap, ran = copy_bundle("n2v_denoise_3d", tmp_path / "trap"), tmp_path / "ran"
    config = json.loads((trap / "configs" / "inference.json").read_text())
    code = f"$__import__('pathlib').Path({str(ran)!r}).touch()"
    config |= {"tta": code, "imports": [code], "features": code, "spatial_dims": code, "keep_mean": code}
    (trap / "configs" / "inference.json").write_text(json.dumps(config))
    for path in (trap, trap / "models" / "prior.pt"):
        exit_code, records, err = run(capsys, "info", path, "--json")
        assert exit_code == 0, err
        assert records[0]["network"] == "ReplicateUNet"
        assert records[0]["spatial_dims"] == 3
        assert records[0]["n_parameters"] > 1e5
    assert not ran.exists()


def test_names_cannot_command_the_terminal(tmp_path, capsys):
    path = tmp_path / "a\x1b[31mred\x07.nii"
    path.write_bytes(b"no image")
    assert main(["info", str(path)]) == 1
    assert main(["denoise", "-i", str(path), "-o", str(tmp_path / "o.nii"), *QUICK]) == 1
    err = capsys.readouterr().err
    assert r"a\x1b[31mred\x07.nii" in err
    assert "\x1b" not in err
    assert "\x07" not in err
