# SPDX-License-Identifier: Apache-2.0
"""The sentences of docs/reference/security.md."""

from __future__ import annotations

import json
import os
import pickle
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import phantom
from samples import FORMATS, oblique_affine

from monai_n2v.bundle.resources import copy_bundle, find_bundle
from monai_n2v.cli.main import main
from monai_n2v.io.atomic import scratch
from monai_n2v.io.images import read_volume

QUICK = ["--device", "cpu"]


class Trap:
    """What runs when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.fixture
def image(tmp_path) -> Path:
    np.save(tmp_path / "x.npy", phantom((40, 36))[1])
    return tmp_path / "x.npy"


@pytest.fixture
def mark(tmp_path) -> Path:
    return tmp_path / "ran"


def trapped_bundle(folder: Path, mark: Path) -> Path:
    bundle = copy_bundle("n2v_denoise_2d", folder)
    path = bundle / "configs" / "inference.json"
    config = json.loads(path.read_text())
    config["tta"] = f"$__import__('pathlib').Path({str(mark)!r}).touch()"
    path.write_text(json.dumps(config))
    return bundle


def test_bundle_is_run_by_denoise_and_not_by_info(image, mark, tmp_path, capsys):
    bundle = trapped_bundle(tmp_path / "bundle", mark)
    assert main(["info", str(bundle)]) == 0
    assert not mark.exists()
    main(["denoise", "-i", str(image), "-o", str(tmp_path / "y.npy"), "--model", str(bundle), *QUICK])
    assert mark.exists(), "as docs/reference/security.md warns"


def test_weights_outside_of_a_bundle_run_in_our_own(image, tmp_path, capsys):
    weights = tmp_path / "model.pt"
    weights.write_bytes((find_bundle("n2v_denoise_2d") / "models" / "prior.pt").read_bytes())
    code = main(["denoise", "-i", str(image), "-o", str(tmp_path / "y.npy"), "--model", str(weights), *QUICK])
    assert code == 0, capsys.readouterr().err


@pytest.mark.parametrize("command", ["denoise", "info"])
def test_pickled_weights_are_refused_and_not_run(command, image, mark, tmp_path, capsys):
    weights = tmp_path / "model.pt"
    torch.save({"layer.weight": torch.zeros(2, 2, 3, 3), "trap": Trap(mark)}, weights)
    options = ["-i", image, "-o", tmp_path / "y.npy", "--model", weights, *QUICK] if command == "denoise" else [weights]
    assert main([command, *map(str, options)]) == 1
    assert "model must be a file of network weights" in capsys.readouterr().err
    assert not mark.exists()


def test_pickled_checkpoint_is_refused_and_not_run(image, mark, tmp_path, capsys):
    folder = tmp_path / "model"
    options = ["train", "-i", str(image), "-o", str(folder), "--epochs", "1", "--scheme", "n2v", *QUICK]
    (folder / "checkpoints").mkdir(parents=True)
    torch.save({"trap": Trap(mark)}, folder / "checkpoints" / "checkpoint_epoch=1.pt")
    assert main([*options, "--resume"]) in (1, 2)
    assert "Traceback" not in capsys.readouterr().err
    assert not mark.exists()


@pytest.mark.parametrize("suffix", sorted({suffix for suffix, *_ in FORMATS.values()}))
def test_pickle_under_any_name_is_not_run(suffix, mark, tmp_path):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(pickle.dumps(Trap(mark)))
    with pytest.raises(ValueError, match=str(path)):
        read_volume(path)
    np.save(tmp_path / "y.npy", np.array([Trap(mark)], object), allow_pickle=True)
    with pytest.raises(ValueError, match="readable NumPy array"):
        read_volume(tmp_path / "y.npy")
    assert not mark.exists()


@pytest.mark.parametrize("name", ["nifti", "nrrd", "mha", "tiff"])
def test_memory_is_compared_with_the_header_first(name, tmp_path, monkeypatch):
    suffix, write, types, _ = FORMATS[name]
    write(tmp_path / f"x{suffix}", np.ones((60, 50, 40), types[0]), oblique_affine())
    monkeypatch.setattr("monai_n2v.io.memory.free_bytes", lambda: 20 * 60 * 50 * 40 - 1)
    with pytest.raises(ValueError, match="image must fit into memory"):
        read_volume(tmp_path / f"x{suffix}")


@pytest.mark.parametrize("name", ["../other.raw", "/etc/hostname", "sub/../../other.raw"])
def test_names_in_headers_do_not_lead_elsewhere(name, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "other.raw").write_bytes(bytes(81))
    text = f"ObjectType = Image\nNDims = 2\nDimSize = 9 9\nElementType = MET_UCHAR\nElementDataFile = {name}\n"
    (folder / "x.mhd").write_text(text)
    with pytest.raises(ValueError, match="a file beside the header"):
        read_volume(folder / "x.mhd")
    header = f"NRRD0004\ntype: uint8\ndimension: 2\nsizes: 9 9\nencoding: raw\ndata file: {name}\n"
    (folder / "x.nrrd").write_text(header)
    with pytest.raises(ValueError, match="data file must be a file beside the header"):
        read_volume(folder / "x.nrrd")


def test_settings_of_the_command_line_are_run(image, mark, tmp_path, capsys):
    options = ["-i", str(image), "-o", str(tmp_path / "y.npy"), "--epochs", "1", *QUICK]
    main(["denoise", *options, "--set", f"fill=$__import__('pathlib').Path({str(mark)!r}).touch()"])
    assert "Traceback" not in capsys.readouterr().err
    assert mark.exists(), "as docs/reference/security.md says"


def test_what_is_passing_is_the_users_alone(tmp_path):
    for folder in (None, tmp_path):
        with scratch(folder) as work:
            assert stat.S_IMODE(work.parent.stat().st_mode) == 0o700
        assert not work.exists()


def test_report_is_no_more_readable_than_its_image(tmp_path, capsys):
    before = os.umask(0o022)
    try:
        np.save(tmp_path / "x.npy", phantom((40, 36))[1])
        (tmp_path / "x.npy").chmod(0o600)
        options = ["-i", tmp_path / "x.npy", "-o", tmp_path / "out" / "y.npy", "--report", "--save-residual", "--fast"]
        assert main(["denoise", *map(str, options), *QUICK]) == 0, capsys.readouterr().err
    finally:
        os.umask(before)
    written = list((tmp_path / "out").iterdir())
    assert len(written) == 5
    assert {stat.S_IMODE(path.stat().st_mode) for path in written} == {0o600}


def test_help_says_that_a_bundle_is_a_program(capsys):
    with pytest.raises(SystemExit):
        main(["denoise", "--help"])
    assert "a program: run only those you trust" in " ".join(capsys.readouterr().out.split())


def test_every_sentence_of_the_page_is_there(root):
    text = (root / "docs" / "reference" / "security.md").read_text()
    for what in ("--model BUNDLE", "info BUNDLE", "pickled arrays", "ElementDataFile", "--set KEY=VALUE", "cache_dir"):
        assert what in text
    for path in ("tests/io/test_atomic.py", "tests/cli/test_signals.py", "tests/io/test_fuzz.py"):
        assert path in text
        assert (root / path).is_file()
