# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from samples import dicom_series, oblique_affine

from monai_n2v.apps.paths import plan_jobs, plan_sources


@pytest.fixture
def tree(tmp_path) -> Path:
    folder = tmp_path / "in"
    for name in ("a.nii.gz", "sub/a.nii.gz", "sub/deep/b c ä.tif"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"not looked at")
    dicom_series(folder / "series", np.zeros((4, 5, 3), np.uint16), oblique_affine())
    return folder


def test_tree_is_mirrored(tree, tmp_path):
    out = tmp_path / "out"
    jobs = plan_jobs(tree, out)
    names = ["a.nii.gz", "series", "sub/a.nii.gz", "sub/deep/b c ä.tif"]
    assert [job.source for job in jobs] == [tree / n for n in names]
    assert [job.target for job in jobs] == [out / n for n in names]


@pytest.mark.parametrize(("pattern", "n"), [("*.tif", 1), ("a*", 2), ("sub/*", 2), ("series", 1)])
def test_pattern_matches_name_or_path(pattern, n, tree, tmp_path):
    assert len(plan_jobs(tree, tmp_path / "out", patterns=[pattern])) == n
    assert len(plan_sources(tree, [pattern])) == n


def test_results_inside_the_tree_are_left_out(tree):
    (tree / "out").mkdir()
    (tree / "out" / "a.nii.gz").touch()
    assert sum(not job.done for job in plan_jobs(tree, tree / "out", skip_existing=True)) == 3
    assert len(plan_jobs(tree, tree / "out", force=True)) == 4


def test_extras_named_after_the_result(tree, tmp_path):
    job = plan_jobs(tree / "a.nii.gz", tmp_path / "x.nii.gz", report=True, residual=True, noise_map=True)[0]
    names = ["x.nii.gz", "x_residual.nii.gz", "x_noise.nii.gz", "x_report.png", "x_report.json", "x_report.html"]
    assert sorted(p.name for p in job.outputs) == sorted(names)
    series = plan_jobs(tree / "series", tmp_path / "s", residual=True)[0]
    assert series.residual == tmp_path / "s_residual.nii.gz"


def refused(case: str, tree: Path, out: Path) -> dict:
    if case == "exists":
        (out / "sub").mkdir(parents=True)
        (out / "sub" / "a.nii.gz").touch()
    elif case == "report exists":
        out.mkdir()
        (out / "a_report.png").touch()
        return {"report": True}
    elif case == "same folder":
        return {"target": tree}
    elif case == "file as folder":
        return {"target": out / "x.nii.gz"}
    elif case == "pattern":
        return {"patterns": ["*.mha"]}
    elif case == "pattern of a file":
        return {"source": tree / "a.nii.gz", "target": out / "x.nii.gz", "patterns": ["*"]}
    elif case == "reports collide":
        return {"report": out / "reports"}
    elif case == "image in a series":
        (tree / "series" / "x.png").touch()
    elif case == "missing":
        return {"source": tree / "none"}
    elif case == "parent of IN":
        return {"source": tree / "series", "target": tree, "force": True}
    elif case == "folder with other files":
        out.mkdir()
        (out / "thesis.txt").touch()
        return {"source": tree / "series", "force": True}
    elif case == "partner exists":
        (tree / "x.hdr").touch()
        out.mkdir()
        (out / "y.img").touch()
        return {"source": tree / "x.hdr", "target": out / "y.hdr"}
    elif case == "voxels of IN":
        (tree / "x.mhd").write_text("ElementDataFile = y.raw\n")
        (tree / "y.raw").touch()
        return {"source": tree / "x.mhd", "target": tree / "y.mhd", "force": True}
    elif case == "dangling link":
        (tree / "l.nii").symlink_to(tree / "nowhere.nii")
        return {"source": tree / "a.nii.gz", "target": tree / "l.nii"}
    elif case == "same file":
        return {"source": tree / "a.nii.gz", "target": tree / "a.nii.gz", "force": True}
    return {}


@pytest.mark.parametrize(
    ("case", "error", "message"),
    [
        ("exists", FileExistsError, "OUT must not exist yet"),
        ("dangling link", FileExistsError, "OUT must not exist yet"),
        ("report exists", FileExistsError, "OUT must not exist yet"),
        ("same folder", ValueError, "OUT must not be IN"),
        ("file as folder", ValueError, "OUT must be a folder"),
        ("pattern", FileNotFoundError, "--pattern must match an image"),
        ("pattern of a file", ValueError, "--pattern must come with a folder"),
        ("reports collide", ValueError, "a result of its own"),
        ("image in a series", ValueError, "inside the folder of a DICOM series"),
        ("missing", FileNotFoundError, "IN must be an existing file"),
        ("same file", ValueError, "OUT must not be IN"),
        ("parent of IN", ValueError, "OUT must not hold IN"),
        ("folder with other files", FileExistsError, "one of DICOM files only"),
        ("partner exists", FileExistsError, "OUT must not exist yet"),
        ("voxels of IN", ValueError, "OUT must not be IN"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(case, error, message, tree, tmp_path):
    question = {"source": tree, "target": tmp_path / "out", **refused(case, tree, tmp_path / "out")}
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error, match=message):
        plan_jobs(**question)
    assert sorted(tmp_path.rglob("*")) == before


def test_image_is_done_when_all_that_was_asked_for_exists(tree, tmp_path):
    out = tmp_path / "out"
    options = {"patterns": ["a.nii.gz"], "report": True, "residual": True, "noise_map": True, "skip_existing": True}
    results = plan_jobs(tree, out, **options)[0].results
    assert len(results) == 6
    out.mkdir()
    (out / "sub").mkdir()
    for path in results:
        assert not plan_jobs(tree, out, **options)[0].done
        path.touch()
    jobs = plan_jobs(tree, out, **options)
    assert [job.done for job in jobs] == [True, False]
    with pytest.raises(FileExistsError):
        plan_jobs(tree, out, **{**options, "skip_existing": False})
