# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import logging
import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from conftest import oblique_nifti, phantom
from PIL import Image
from samples import damaged, head, headers_are_equal, magnitude

from monai_n2v.bundle.resources import copy_bundle
from monai_n2v.cli.main import main
from monai_n2v.cli.options import make_parser
from monai_n2v.inferers import SymmetricInferer

QUICK = ["--scheme", "n2v", "--epochs", "1", "--device", "cpu"]


pytestmark = pytest.mark.usefixtures("short_epochs")


@pytest.fixture
def noisy(noisy_folder) -> Path:
    return noisy_folder / "noisy.nii.gz"


def run(capsys, *args) -> tuple[int, str]:
    try:
        code = main([str(a) for a in args])
    except SystemExit as error:
        code = int(error.code or 0)
    captured = capsys.readouterr()
    assert captured.out == "", "stdout belongs to machines"
    return code, captured.err


@pytest.mark.parametrize(("dtype", "stored"), [("float32", np.float32), ("input", np.int16)])
def test_denoise_keeps_header_and_kind(dtype, stored, tmp_path, capsys):
    source = oblique_nifti(np.round(phantom((24, 20, 18))[1]).astype(np.int16))
    nibabel.save(source, tmp_path / "in.nii.gz")
    out = tmp_path / "deep" / "out.nii.gz"
    code, err = run(capsys, "denoise", "-i", tmp_path / "in.nii.gz", "-o", out, "--dtype", dtype, *QUICK)
    assert code == 0, err
    written = nibabel.load(out)
    headers_are_equal(nibabel.load(tmp_path / "in.nii.gz"), written, stored_type=dtype == "input")
    assert written.get_data_dtype() == stored
    assert "--epochs 1 --seed 0 --scheme n2v repeats this run" in err


@pytest.mark.parametrize("shape", [(40, 36), (24, 20, 16, 2), (20, 24, 4)])
def test_denoise_2d_4d_and_thin(shape, tmp_path, capsys):
    nibabel.save(nibabel.Nifti1Image(phantom(shape)[1], np.eye(4)), tmp_path / "in.nii")
    code, err = run(capsys, "denoise", "-i", tmp_path / "in.nii", "-o", tmp_path / "out.nii", *QUICK)
    assert code == 0, err
    assert nibabel.load(tmp_path / "out.nii").shape == shape


def test_report_says_where_the_picture_is(noisy, tmp_path, capsys):
    out = tmp_path / "out.nii.gz"
    code, err = run(capsys, "denoise", "-i", noisy, "-o", out, "--report", *QUICK)
    assert code == 0, err
    picture = tmp_path / "out_report.png"
    assert f"Before/after picture: {picture}" in err
    with Image.open(picture) as opened:
        assert np.asarray(opened).std() > 20
    record = json.loads((tmp_path / "out_report.json").read_text())
    assert record["steps"] == 2
    assert record["epochs"] == 1
    assert len(record["config_sha256"]) == len(record["input_sha256"]) == 64
    assert len(record["losses"]) == 1
    assert (tmp_path / "out_report.html").stat().st_size < 2_000_000
    removed = nibabel.load(noisy).get_fdata() - nibabel.load(out).get_fdata()
    assert record["std_removed"] == pytest.approx(removed.std(), rel=1e-3)


def test_what_the_log_says_repeats_a_max_time_run(noisy, tmp_path, capsys):
    first, again = tmp_path / "a.nii", tmp_path / "b.nii"
    options = ["--scheme", "n2v", "--device", "cpu"]
    code, err = run(capsys, "denoise", "-i", noisy, "-o", first, "--max-time", 1, *options, "--report")
    assert code == 0, err
    record = json.loads((tmp_path / "a_report.json").read_text())
    assert f"Trained {record['steps']} steps" in err
    repeats = shlex.split(err.partition("s; ")[2].partition(" repeats this run")[0])
    assert repeats[:6] == ["--epochs", str(record["epochs"]), "--seed", "0", "--scheme", "n2v"]
    assert repeats[6:] == ["--set", f"schedule={json.dumps(record['schedule'])}"]
    assert run(capsys, "denoise", "-i", noisy, "-o", again, "--device", "cpu", *repeats)[0] == 0
    assert np.array_equal(nibabel.load(first).get_fdata(), nibabel.load(again).get_fdata())


def test_quiet_only_warns(noisy, tmp_path, capsys):
    code, err = run(capsys, "denoise", "-i", noisy, "-o", tmp_path / "x.nii", "-q", *QUICK)
    assert code == 0
    assert all(line.startswith("warning: ") for line in err.splitlines())


def test_force_overwrites(noisy, tmp_path, capsys):
    out = tmp_path / "out.nii.gz"
    out.write_bytes(b"old")
    code, err = run(capsys, "denoise", "-i", noisy, "-o", out, *QUICK)
    assert code == 2
    assert err.strip().splitlines()[-1] == f"error: OUT must not exist yet, got {out}. Use --force to overwrite it."
    assert out.read_bytes() == b"old"
    assert run(capsys, "denoise", "-i", noisy, "-o", out, "--force", *QUICK)[0] == 0
    assert nibabel.load(out).shape == (32, 36, 24)


def bad_file(kind: str, folder: Path) -> Path:
    path = folder / "bad.nii.gz"
    data = phantom((12, 12, 12))[1]
    if kind in ("nan", "inf"):
        data[3, 3, 3] = float(kind)
    elif kind == "constant":
        data[:] = 5
    elif kind == "small":
        data = data[:7, :6, :5]
    elif kind == "suffix":
        path = folder / "bad.mgz"
    elif kind == "no voxels":
        data = data[:0]
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), folder / "ok.nii.gz")
    (folder / "ok.nii.gz").rename(path)
    if kind in ("empty", "truncated", "text", "rgb"):
        damaged(kind, path)
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nan", "got 1 NaN or infinite voxels"),
        ("inf", "got 1 NaN or infinite voxels"),
        ("constant", "image must vary, got the constant 5"),
        ("small", "at least 8 voxels"),
        ("no voxels", "2 or 3 spatial axes"),
        ("empty", "which is empty"),
        ("truncated", "readable NIfTI"),
        ("text", "readable NIfTI"),
        ("rgb", "RGB voxels"),
        ("suffix", "path must end in"),
    ],
)
def test_file_at_fault_exits_1_with_one_line(kind, message, tmp_path, capsys):
    path = bad_file(kind, tmp_path)
    code, err = run(capsys, "denoise", "-i", path, "-o", tmp_path / "out.nii.gz", *QUICK)
    assert code == 1
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
    assert str(path) in last
    assert "Traceback" not in err
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name]


def wrong_questions(noisy: Path, folder: Path) -> dict[str, list]:
    locked = folder / "locked"
    locked.mkdir()
    locked.chmod(stat.S_IRUSR | stat.S_IXUSR)
    (folder / "file").touch()
    io = ["-i", noisy, "-o", folder / "x.nii"]
    return {
        "missing": ["-i", folder / "none.nii", "-o", folder / "x.nii"],
        "folder": ["-i", folder, "-o", folder / "x.nii"],
        "suffix": ["-i", noisy, "-o", folder / "x.png"],
        "same": ["-i", noisy, "-o", noisy, "--force"],
        "locked": ["-i", noisy, "-o", locked / "x.nii"],
        "below a file": ["-i", noisy, "-o", folder / "file" / "x.nii"],
        "device": [*io, "--device", "tpu9"],
        "model": [*io, "--model", folder / "none"],
        "model and length": [*io, "--model", folder, "--epochs", "2"],
        "two lengths": [*io, "--epochs", "2", "--max-time", "3"],
        "negative": [*io, "--max-time", "-3"],
        "not a number": [*io, "--max-time", "abc"],
        "zero": [*io, "--epochs", "0"],
        "seed": [*io, "--seed", "-1"],
        "unknown": [*io, "--nothing"],
        "nothing": [],
    }


NAMES = [
    *("missing", "folder", "suffix", "same", "locked", "below a file", "device", "model", "model and length"),
    *("two lengths", "negative", "not a number", "zero", "seed", "unknown", "nothing"),
]


@pytest.mark.parametrize("name", NAMES)
def test_asked_wrongly_exits_2(name, noisy, tmp_path, capsys, monkeypatch):
    if os.geteuid() == 0:  # whom no mode of a folder stops
        access = os.access
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "locked" and access(path, mode))
    questions = wrong_questions(noisy, tmp_path)
    assert set(questions) == set(NAMES)
    before = sorted(tmp_path.rglob("*"))
    code, err = run(capsys, "denoise", *questions[name])
    assert code == 2
    assert "error: " in err.strip().splitlines()[-1]
    assert "Traceback" not in err
    assert sorted(tmp_path.rglob("*")) == before


def test_very_verbose_shows_the_traceback(tmp_path, capsys):
    path = bad_file("constant", tmp_path)
    code, err = run(capsys, "denoise", "-i", path, "-o", tmp_path / "x.nii", "-vv")
    assert code == 1
    assert "Traceback" in err


def test_interrupt_exits_130_and_leaves_nothing(noisy, tmp_path, capsys, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(SymmetricInferer, "__call__", interrupt)
    code, err = run(capsys, "denoise", "-i", noisy, "-o", tmp_path / "x.nii", *QUICK)
    assert code == 130
    assert "interrupted" in err
    assert not (tmp_path / "x.nii").exists()


def test_help_and_version_are_quick():
    for option in ("--help", "--version"):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "monai_n2v.cli", option],
            capture_output=True,
            text=True,
            check=True,
        )
        assert "monai-n2v" in done.stdout
        assert "torch" not in done.stderr


def test_training_into_a_place_below_a_file_is_refused_before_any_work(noisy_folder, tmp_path, capsys):
    (tmp_path / "text.txt").write_text("not a folder")
    assert main(["train", "-i", str(noisy_folder), "-o", str(tmp_path / "text.txt" / "x"), "--epochs", "1"]) == 2
    assert "MODELDIR must be writable" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("asked", [[], ["--magnitude", "off"], ["--magnitude", "rician", "--coils", "2"]])
def test_magnitude_bias_is_taken_off_and_told(asked, tmp_path, capsys):
    source, target = tmp_path / "mr.nii.gz", tmp_path / "o.nii.gz"
    nibabel.save(nibabel.Nifti1Image(magnitude(head(3), 9), np.eye(4)), source)
    code, err = run(capsys, "denoise", "-i", source, "-o", target, "--fast", "--device", "cpu", "--report", *asked)
    assert code == 0, err
    kind = {0: "Rician noise", 2: None, 4: "noise of 2 coils (non-central chi)"}[len(asked)]
    told = json.loads((tmp_path / "o_report.json").read_text())
    air = nibabel.load(target).get_fdata()[:6]
    assert told["coils"] == (2 if "--coils" in asked else None)
    assert ("was taken off" in err) == (kind is not None)
    if kind is None:
        assert told["magnitude"] == "no bias was taken off"
        assert air.mean() > 9
    else:
        assert f"the bias of {kind} of standard deviation" in told["magnitude"]
        assert air.mean() < 0.1 * 9
    assert not any("brighter" in text or "darker" in text for text in told["warnings"]), told["warnings"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["--coils", "0.5"], "--coils must be a number from 1 to 64, got 0.5."),
        (["--coils", "4", "--magnitude", "off"], "--coils must come with a magnitude, got 4.0 and magnitude off."),
    ],
)
def test_coils_that_cannot_be_are_refused_before_any_work(asked, message, noisy, tmp_path, capsys):
    code, err = run(capsys, "denoise", "-i", noisy, "-o", tmp_path / "o.nii", *asked)
    assert code == 2
    assert message in err


def test_signed_image_is_refused_as_a_magnitude_before_any_training(noisy, tmp_path, capsys):
    data = nibabel.load(noisy).get_fdata(dtype=np.float32) - 100
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), tmp_path / "signed.nii")
    code, err = run(
        capsys, "denoise", "-i", tmp_path / "signed.nii", "-o", tmp_path / "o.nii", "--magnitude", "rician", *QUICK
    )
    assert code == 1
    assert "magnitude must be auto or off for an image with negative values, got rician for" in err
    assert "Trained" not in err
    assert not any(word in err for word in ("2D, ", "3D, "))


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ([], "from the prior"),
        (["--from-scratch"], "from random weights"),
        (["--set", "features=[8,8,8,8,8,8]", "--scheme", "n2v"], "from random weights"),
    ],
)
def test_start_of_the_training_is_told(asked, told, noisy, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("monai_n2v.apps.folder.train_network", lambda *_: 1 / 0)
    code, err = run(capsys, "denoise", "-i", noisy, "-o", tmp_path / "o.nii", "--epochs", "1", *asked)
    assert code == 1
    assert err.splitlines()[0] == f"Training on these images, {told}, for 1 epoch."


@pytest.mark.parametrize("asked", [["--fast"], ["--model"]], ids=["fast", "bundle without training"])
def test_prior_alone_is_told_everywhere(asked, noisy, tmp_path, capsys):
    if asked == ["--model"]:
        asked.append(str(copy_bundle("n2v_denoise_3d", tmp_path / "bundle")))
    code, err = run(capsys, "denoise", "-i", noisy, "-o", tmp_path / "o.nii", *asked, "--device", "cpu", "--report")
    assert code == 0, err
    assert "prior" in err
    told = "the prior alone, nothing was trained on this image"
    assert json.loads((tmp_path / "o_report.json").read_text())["network"] == told
    page = (tmp_path / "o_report.html").read_text()
    assert told in page
    assert "before the bias was taken off" not in page, "none was"


def noise_map(folder: Path, like: Path) -> Path:
    image = nibabel.load(like)
    strength = np.linspace(1, 3, image.shape[0])[:, None, None] * np.ones(image.shape)
    nibabel.save(nibabel.Nifti1Image(strength.astype(np.float32), image.affine), folder / "map.nii")
    return folder / "map.nii"


@pytest.mark.parametrize("scheme", ["n2v", "recorrupted", "prior"])
def test_noise_map_serves_training_and_prediction_and_is_told(scheme, noisy, tmp_path, capsys, monkeypatch):
    import monai_n2v.apps.train as training

    given, train = [], training.train
    monkeypatch.setattr(training, "train", lambda *a, **k: given.append(k["noise_map"]) or train(*a, **k))
    path, length = noise_map(tmp_path, noisy), [] if scheme == "prior" else ["--epochs", "1"]
    asked = ["-i", noisy, "--scheme", scheme, *length, "--device", "cpu", "--noise-map", path, "--report"]
    code, err = run(capsys, "denoise", "-o", tmp_path / "o.nii.gz", *asked)
    assert code == 0, err
    assert [str(path)] * len(given) == [one.path for one in given]
    assert len(given) == (scheme != "prior")
    assert json.loads((tmp_path / "o_report.json").read_text())["given_noise_map"] == str(path)
    assert str(path) in (tmp_path / "o_report.html").read_text()
    assert (f"--noise-map {path} repeats this run" in err) == (scheme != "prior")


@pytest.mark.parametrize("command", ["denoise", "train"])
def test_noise_map_of_a_folder_serves_images_of_its_grid(command, noisy, tmp_path, capsys):
    nibabel.save(oblique_nifti(phantom((36, 32, 24))[1]), noisy.parent / "other.nii.gz")
    path = noise_map(tmp_path, noisy)
    asked = ["-i", noisy.parent, "-o", tmp_path / "out", "--noise-map", path, *QUICK]
    code, err = run(capsys, command, *asked)
    assert code == 1
    assert "noise_map must have the shape of the image, (36, 32, 24), got (32, 36, 24)" in err.splitlines()[-1]
    assert str(noisy.parent / "other.nii.gz") in err.splitlines()[-1]
    if command == "denoise":
        assert [one.name for one in (tmp_path / "out").iterdir()] == ["noisy.nii.gz"]
    else:
        assert json.loads((tmp_path / "out" / "configs" / "train.json").read_text())["noise_map"] is None


@pytest.mark.parametrize("command", ["denoise", "train"])
def test_noise_map_among_the_images_is_refused(command, noisy, tmp_path, capsys):
    path = noise_map(noisy.parent, noisy)
    code, err = run(capsys, command, "-i", noisy.parent, "-o", tmp_path / "out", "--noise-map", path, *QUICK)
    assert code == 2
    assert "--noise-map must be another file than IN's images" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["denoise", "train"])
@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["--noise-map", "map.nii"], "noise_map must have the shape of the image"),
    ],
)
def test_faults_of_headers_are_told_before_torch_is_loaded(command, asked, message, tmp_path):
    for name, shape in (("x.nii", (12, 11, 10, 5)), ("map.nii", (12, 11, 9))):
        nibabel.save(nibabel.Nifti1Image(np.ones(shape, np.float32), np.eye(4)), tmp_path / name)
    (tmp_path / "x.bval").write_text("0 1 1 1 1")
    code = (
        "import sys; from monai_n2v.cli.main import main; code = main(sys.argv[1:]); "
        "sys.exit(3 if 'torch' in sys.modules else code)"
    )
    arguments = [command, "-i", "x.nii", "-o", "out" if command == "train" else "out.nii", *asked]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, message in done.stderr.splitlines()[-1]) == (1, True), done.stderr


@pytest.mark.parametrize("command", ["denoise", "train", "check", "info", "bundle copy", "bundle list"])
def test_help_has_the_common_options_on_one_screen(command, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    lines = capsys.readouterr().out.splitlines()
    groups = [n for n, line in enumerate(lines) if line.endswith(":") and not line.startswith((" ", "usage"))]
    common = lines[: next((n for n in groups if lines[n] not in ("options:", "positional arguments:")), len(lines))]
    assert len(common) <= 24, "\n".join(common)
    assert {"--help"} <= set(" ".join(common).replace(",", "").split())


@pytest.mark.parametrize(("given", "scheme"), [([], "auto"), (["--fast"], "prior"), (["--scheme", "n2v"], "n2v")])
@pytest.mark.parametrize("command", ["denoise", "train"])
def test_fast_and_scheme_set_one_thing(command, given, scheme):
    assert make_parser().parse_args([command, "-i", "a", "-o", "b", *given]).scheme == scheme


@pytest.mark.parametrize("more", ["-q", "-v"])
def test_logging_is_left_as_it_was(more, tmp_path):
    logger = logging.getLogger("monai_n2v")
    before = logger.level, list(logger.handlers)
    assert main(["denoise", "-i", str(tmp_path / "none.nii"), "-o", str(tmp_path / "out.nii"), more]) != 0
    assert (logger.level, logger.handlers) == before
