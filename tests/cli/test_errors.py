# SPDX-License-Identifier: Apache-2.0
"""The table of docs/reference/errors.md, row by row: bad input ends in one clear line and the right exit code."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from faulty import (
    DATA,
    FILE_CASES,
    ZIPPED,
    Case,
    changed,
    color_nrrd,
    cut,
    edited,
    huge_nifti,
    io,
    lonely_header,
    lonely_mhd,
    mha,
    mixed_tiff,
    nifti,
    npy,
    nrrd_file,
    png,
    rgb_nifti,
    series,
    tiff,
    vector_mha,
    written,
)

from monai_n2v.cli.main import main

FOUR = np.stack([DATA] * 4, axis=-1)


def loop(folder: Path) -> list:
    (folder / "in.nii").symlink_to(folder / "in.nii")
    return io(folder / "in.nii")


def existing(folder: Path) -> list:
    nifti(folder, DATA, "out.nii.gz")
    return io(nifti(folder, DATA))


def bids(folder: Path, *options: str, out: str = "out", described: bool = True, sidecar: str = "{}") -> list:
    anat = folder / "in" / "sub-01" / "anat"
    anat.mkdir(parents=True)
    nifti(anat, DATA, "sub-01_T1w.nii.gz")
    (anat / "sub-01_T1w.json").write_text(sidecar)
    other = folder / "in" / "derivatives" / "other"
    other.mkdir(parents=True)
    for top in (folder / "in", other)[: 2 * described]:
        (top / "dataset_description.json").write_text('{"Name": "x", "GeneratedBy": [{"Name": "other"}]}')
    return ["-i", folder / "in", "-o", folder / out, "--bids", *options]


def weights(folder: Path, content: object, data: np.ndarray = DATA) -> list:
    torch.save(content, folder / "model.pt")
    return [*io(nifti(folder, data)), "--model", folder / "model.pt"]


DENOISE = ("denoise", "--device", "cpu")
COPY = ("bundle", "copy")


def setting(what: str, message: str, text: str) -> Case:
    """A setting refused before any file is looked at."""
    return Case(what, 2, message, lambda f: [*io(nifti(f, DATA)), "--set", text], of_a_file=False)


CASES = [
    Case("IN does not exist", 2, "IN must be an existing file or folder", lambda f: io(f / "none.nii")),
    Case("OUT exists", 2, "OUT must not exist yet", existing),
    Case("OUT is IN", 2, "OUT must not be IN", lambda f: [*io(nifti(f, DATA), "in.nii.gz"), "--force"]),
    Case("OUT of another kind", 2, "output must be of the input's kind", lambda f: io(nifti(f, DATA), "out.mha")),
    Case("OUT is a folder", 2, "output must be a file, got the folder", lambda f: _with_folder(f)),
    Case("folder without images", 2, "dataset_dir must hold images", lambda f: _empty_folder(f)),
    Case("--model does not exist", 2, "--model must be a trained bundle", lambda f: _no_model(f)),
    Case("--model holds no weights", 1, "model must be a file of network weights", lambda f: weights(f, [1, 2])),
    Case("--model of another network", 1, "model must hold weights of the network", lambda f: weights(f, _other(3))),
    Case("3D --model for an image", 1, "model must fit an image of 2 axes", lambda f: weights(f, _other(3), DATA[0])),
    Case("--noise-map does not exist", 2, "--noise-map must be an existing file", lambda f: noise_map(f)),
    Case("--noise-map is a text file", 1, "noise_map must be a readable image", lambda f: noise_map(f, ZIPPED)),
    Case("--noise-map of zeros", 1, "noise_map must have values above 0", lambda f: noise_map(f, 0 * DATA)),
    Case("--noise-map of another shape", 1, "noise_map must have the shape", lambda f: noise_map(f, DATA[1:])),
    Case("--noise-map of turned axes", 1, "noise_map must have the shape", lambda f: noise_map(f, DATA.T)),
    Case("--noise-map at another place", 1, "noise_map must lie where the image does", lambda f: noise_map(f, DATA, 2)),
    Case("--noise-map is OUT", 2, "--noise-map must be another file", lambda f: _map_is_out(f)),
    Case("--series with a file", 1, "series must come with a folder", lambda f: [*io(nifti(f, DATA)), "--series", "3"]),
    Case(
        "--volumes together and a scheme of one noise", 2, "scheme must be auto, n2v or prior with volumes together",
        lambda f: [*io(nifti(f, FOUR)), "--volumes", "together", "--scheme", "recorrupted"], of_a_file=False,
    ),
    Case("--bids without a dataset", 2, "IN must be a BIDS dataset with --bids", lambda f: bids(f, described=False)),
    Case(
        "--bids with a folder of the raw images as OUT", 2, "OUT must lie in derivatives/",
        lambda f: bids(f, out="in/results"),
    ),
    Case(
        "--bids with another program's derivative as OUT", 2, "OUT must be a new dataset or one of monai_n2v",
        lambda f: bids(f, "--force", out="in/derivatives/other"),
    ),
    Case("--bids and a broken sidecar", 2, "sub-01_T1w.json must hold JSON", lambda f: bids(f, sidecar="{")),
    Case(
        "--participant-label of nobody", 2, "--participant-label must name participants",
        lambda f: bids(f, "--participant-label", "7"),
    ),
    Case(
        "--filter without a match", 2, "--filter must match an image", lambda f: bids(f, "--filter", "suffix=bold"),
        of_a_file=False,
    ),
    Case(
        "--filter of an unknown key", 2, "Did you mean suffix?", lambda f: bids(f, "--filter", "sufix=T1w"),
        of_a_file=False,
    ),
    Case(
        "--filter without --bids", 2, "Add --bids", lambda f: [*io(nifti(f, DATA)), "--filter", "suffix=T1w"],
        of_a_file=False,
    ),
    Case("unknown suffix", 1, "path must end in", lambda f: io(written(f / "in.mgz", b"x"))),
    Case("file of zero bytes", 1, "which is empty", lambda f: io(written(f / "in.nii.gz", b""))),
    Case("link to itself", 2, "IN must be an existing file or folder", loop),
    Case("truncated gzip", 1, "readable NIfTI file", lambda f: io(cut(nifti(f, DATA)))),
    Case("truncated NIfTI", 1, "readable NIfTI file", lambda f: io(cut(nifti(f, DATA, "in.nii")))),
    Case("text named .nii", 1, "readable NIfTI file", lambda f: io(written(f / "in.nii", b"no image " * 99))),
    Case("zipped text named .nii.gz", 1, "readable NIfTI file", lambda f: io(written(f / "in.nii.gz", ZIPPED))),
    Case("header of terabytes", 1, "image must fit into memory", huge_nifti),
    Case(".hdr without .img", 1, "readable NIfTI file", lonely_header),
    Case("RGB NIfTI", 1, "got RGB voxels", rgb_nifti),
    Case("NaN", 1, "got 1 NaN or infinite voxels", lambda f: io(nifti(f, changed(np.nan)))),
    Case("infinite voxels", 1, "got 1 NaN or infinite voxels", lambda f: io(nifti(f, changed(np.inf)))),
    Case("constant image", 1, "image must vary", lambda f: io(nifti(f, np.full((9, 9, 9), 5.0, np.float32)))),
    Case("a line of voxels", 1, "2 or 3 spatial axes", lambda f: io(nifti(f, DATA[:, :1, :1]))),
    Case("fewer than 8 voxels along every axis", 1, "at least 8 voxels", lambda f: io(nifti(f, DATA[:7, :6, :5]))),
    Case("truncated NRRD", 1, "readable NRRD file", lambda f: io(cut(nrrd_file(f), 0.8))),
    Case("colored NRRD", 1, "got RGB voxels", color_nrrd),
    Case("truncated MHA", 1, "readable MetaImage", lambda f: io(cut(mha(f)))),
    Case("MHD without its voxels", 1, "readable MetaImage", lonely_mhd),
    Case("MHA of vectors", 1, "got 3 components", vector_mha),
    Case("truncated TIFF", 1, "readable TIFF file", lambda f: io(cut(tiff(f, compression="zlib"), 0.9))),
    Case("RGB TIFF", 1, "got RGB voxels", lambda f: io(tiff(f, np.zeros((9, 9, 3), np.uint8), photometric="rgb"))),
    Case("TIFF of several sizes", 1, "path must hold one image or stack, got 2", mixed_tiff),
    Case("truncated PNG", 1, "readable PNG image", lambda f: io(cut(png(f)))),
    Case("RGB PNG", 1, "got RGB voxels", lambda f: io(png(f, "RGB"))),
    Case("PNG of a palette", 1, "got palette voxels", lambda f: io(png(f, "P"))),
    Case("pickled NPY", 1, "readable NumPy array", lambda f: npy(f, np.array([{}], object), allow_pickle=True)),
    Case("NPY of texts", 1, "one real number per voxel", lambda f: npy(f, np.full((9, 9), "a"))),
    Case("DICOM series with a missing slice", 1, "evenly spaced slices", lambda f: series(f, lambda p: p[3].unlink())),
    Case("two DICOM series", 1, "path must hold one series, got 2", lambda f: series(f, edited(SeriesInstanceUID="1"))),
    Case("DICOM of mixed sizes", 1, "series must have one Rows", lambda f: series(f, edited(Rows=9))),
    Case("truncated DICOM", 1, "readable DICOM image", lambda f: series(f, lambda p: cut(p[2], 0.9))),
    Case("multi-frame DICOM", 1, "one frame per file", lambda f: series(f, edited(NumberOfFrames=2))),
    Case("RGB DICOM", 1, "got RGB voxels", lambda f: series(f, edited(SamplesPerPixel=3))),
    *FILE_CASES,
    Case("misspelled option", 2, "Did you mean --epochs?", lambda f: [*io(f / "x"), "--epoch", "3"], DENOISE, False),
    setting("misspelled key of --set", "Did you mean epoch_length?", "epoch_lenght=3"),
    setting("misspelled part of a key of --set", "Did you mean optimizer#betas?", "optimizer#beta=3"),
    setting("--set of what has an option", "Use --seed", "seed=3"),
    setting("--set of what monai-n2v leaves out", "use monai.bundle run", "val_interval=3"),
    Case("--set with an unfit value", 1, "fill must be", lambda f: [*io(nifti(f, DATA)), "--set", "fill=blue"]),
    Case("bundle copy of an unknown name", 2, "Did you mean n2v_denoise_3d?", lambda f: ["n2v3d", f], COPY, False),
    Case("bundle copy into a folder in use", 2, "DIR must not exist yet", lambda f: _used(f), COPY),
]  # fmt: skip


def _used(folder: Path) -> list:
    nifti(folder, DATA)
    return ["n2v_denoise_2d", folder]


def _with_folder(folder: Path) -> list:
    (folder / "out.nii.gz").mkdir()
    return [*io(nifti(folder, DATA)), "--force"]


def _empty_folder(folder: Path) -> list:
    (folder / "in").mkdir()
    return ["-i", folder / "in", "-o", folder / "out"]


def noise_map(folder: Path, values: np.ndarray | bytes | None = None, spacing: float = 1) -> list:
    path = folder / ("map.txt" if isinstance(values, bytes) else "map.nii")
    if isinstance(values, bytes):
        path.write_bytes(values)
    elif values is not None:
        nibabel.save(nibabel.Nifti1Image(values, np.diag([spacing] * 3 + [1])), path)
    return [*io(nifti(folder, DATA)), "--noise-map", path]


def _map_is_out(folder: Path) -> list:
    out = nifti(folder, DATA, "out.nii.gz")
    return [*io(nifti(folder, DATA)), "--noise-map", out, "--force"]


def _no_model(folder: Path) -> list:
    return [*io(nifti(folder, DATA)), "--model", folder / "none"]


def _other(n_axes: int) -> dict[str, torch.Tensor]:
    return {"layer.weight": torch.zeros(1, 1, *(3,) * n_axes)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_bad_input_ends_in_one_line_and_loses_nothing(case, tmp_path, capsys):
    folder = tmp_path / "with blank ünd ä"
    folder.mkdir()
    options = case.make(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    length = ["--epochs", "1"] if case.command[0] == "denoise" and "--model" not in options else []
    try:
        code = main([*case.command, *map(str, options), *length])
    except SystemExit as error:  # the usage comes before the line
        code = error.code
    captured = capsys.readouterr()
    assert captured.out == ""
    last = captured.err.strip().splitlines()[-1]
    assert re.match(r"(monai-n2v [a-z ]+: )?error: ", last)
    assert case.message in last
    assert str(folder) in last or not case.of_a_file
    assert code == case.code
    assert "Traceback" not in captured.err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "No space left on device"), PermissionError(13, "Denied")])
def test_full_disk_or_lost_permission_leaves_nothing(fault, tmp_path, capsys, monkeypatch):
    def fail(*args, **kwargs):
        raise fault

    import monai_n2v.apps.train as training

    train = training.train
    monkeypatch.setattr(training, "train", lambda *args, **kwargs: train(*args, **{**kwargs, "epoch_length": 2}))
    np.save(tmp_path / "x.npy", DATA)
    monkeypatch.setattr(np, "save", fail)
    options = [
        "-i",
        tmp_path / "x.npy",
        "-o",
        tmp_path / "out" / "y.npy",
        "--scheme",
        "n2v",
        "--epochs",
        "1",
        "--device",
        "cpu",
    ]
    code, err = main(["denoise", *map(str, options), "--device", "cpu"]), capsys.readouterr().err
    assert code == 1, err
    assert fault.strerror in err.strip().splitlines()[-1]
    assert list((tmp_path / "out").iterdir()) == []


def test_table_in_the_docs_has_these_rows(root):
    page = (root / "docs" / "reference" / "errors.md").read_text()
    rows = re.findall(r"^\| ([^|]+) \| (\d) \| `([^`]+)` \|$", page, re.MULTILINE)
    assert [(case.what, str(case.code), case.message) for case in CASES] == rows
