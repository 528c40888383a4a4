# SPDX-License-Identifier: Apache-2.0
"""A BIDS dataset in, a derivative out: names, sidecars, companions, one network per kind, and the BIDS validator."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from conftest import phantom

from monai_n2v.cli.main import main
from monai_n2v.io.bids import find_bids_images, split_entities

FAST = ["--fast", "--device", "cpu"]
T1 = "sub-01/anat/sub-01_T1w.nii.gz"
DENOISED = "sub-01/anat/sub-01_desc-denoised_T1w"


def image(path: Path, shape: tuple[int, ...] = (16, 14, 12), seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    made = nibabel.Nifti1Image(phantom(shape, seed=seed)[1].astype(np.float32), np.diag([2.0, 2, 2, 1]))
    made.header.set_xyzt_units("mm", "sec")
    if len(shape) == 4:
        made.header["pixdim"][4] = 2
    nibabel.save(made, path)
    return path


def says(path: Path, **content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def read(path: Path) -> dict:
    return json.loads(path.read_text())


@pytest.fixture
def dataset(tmp_path) -> Path:
    """Two participants, one with sessions; every data type; metadata at several levels."""
    top = tmp_path / "my data"
    says(top / "dataset_description.json", Name="Heads", BIDSVersion="1.9.0", License="CC0", DatasetDOI="doi:10.5/x")
    says(top / "T1w.json", SkullStripped=False, MagneticFieldStrength=3)
    says(top / "sub-01/anat/sub-01_T1w.json", MagneticFieldStrength=1.5, RepetitionTime=2.3)
    image(top / T1)
    image(top / "sub-02/ses-a/anat/sub-02_ses-a_run-1_T1w.nii.gz", seed=1)
    image(top / "sub-02/ses-a/anat/sub-02_ses-a_FLAIR.nii.gz", seed=2)
    says(top / "task-rest_bold.json", TaskName="rest", RepetitionTime=2.0)
    image(top / "sub-01/func/sub-01_task-rest_bold.nii.gz", (12, 10, 9, 3))
    image(top / "sub-01/dwi/sub-01_dwi.nii.gz", (12, 10, 9, 3))
    (top / "sub-01/dwi/sub-01_dwi.bval").write_text("0 1000 1000\n")
    (top / "dwi.bvec").write_text("0 1 0\n0 0 1\n0 0 0\n")
    image(top / "sub-01/perf/sub-01_asl.nii.gz", (12, 10, 9, 2))
    (top / "sub-01/perf/sub-01_aslcontext.tsv").write_text("volume_type\ncontrol\nlabel\n")
    image(top / "sub-01/perf/sub-01_m0scan.nii.gz", (12, 10, 9))
    says(top / "sub-01/perf/sub-01_m0scan.json", IntendedFor=["perf/sub-01_asl.nii.gz", "bids::" + T1])
    for name in ("anat/sub-01_T1map", "anat/sub-01_part-phase_T1w", "anat/sub-01_T1w_copy", "anat/sub-02_T2w"):
        image(top / f"sub-01/{name}.nii.gz")
    return top


def denoise(dataset: Path, *options, out: Path | None = None, how: list[str] = FAST) -> tuple[int, Path]:
    out = out or dataset / "derivatives" / "monai_n2v"
    return main(["denoise", "-i", str(dataset), "-o", str(out), "--bids", *how, *map(str, options)]), out


def names(out: Path, ending: str = ".nii.gz") -> list[str]:
    return sorted(path.name for path in out.rglob(f"*{ending}"))


def test_every_noisy_image_gets_a_name_of_bids_and_others_are_counted(dataset, capsys):
    code, out = denoise(dataset)
    err = capsys.readouterr().err
    assert code == 0, err
    assert names(out) == [
        "sub-01_desc-denoised_T1w.nii.gz",
        "sub-01_desc-denoised_asl.nii.gz",
        "sub-01_desc-denoised_dwi.nii.gz",
        "sub-01_desc-denoised_m0scan.nii.gz",
        "sub-01_task-rest_desc-denoised_bold.nii.gz",
        "sub-02_ses-a_desc-denoised_FLAIR.nii.gz",
        "sub-02_ses-a_run-1_desc-denoised_T1w.nii.gz",
    ]
    assert (out / "sub-02/ses-a/anat/sub-02_ses-a_desc-denoised_FLAIR.nii.gz").is_file()
    assert "left out: 4 file(s)" in err
    noisy, result = (nibabel.load(path) for path in (dataset / T1, out / f"{DENOISED}.nii.gz"))
    assert np.array_equal(noisy.affine, result.affine)
    assert not np.array_equal(noisy.get_fdata(), result.get_fdata())


def test_result_is_that_of_the_file_alone(dataset, tmp_path):
    assert denoise(dataset, "--filter", "suffix=T1w", "--participant-label", "01")[0] == 0
    assert main(["denoise", "-i", str(dataset / T1), "-o", str(tmp_path / "alone.nii.gz"), *FAST]) == 0
    both = [tmp_path / "alone.nii.gz", dataset / "derivatives" / "monai_n2v" / f"{DENOISED}.nii.gz"]
    assert np.array_equal(*(nibabel.load(path).get_fdata() for path in both))


def test_sidecar_holds_what_the_dataset_says_and_how_it_was_made(dataset):
    says(dataset / "sub-01/anat/sub-01_T1w.json", MagneticFieldStrength=1.5, SkullStripped=True)
    code, out = denoise(dataset, "--participant-label", "sub-01", "--filter", "datatype=anat,perf")
    assert code == 0
    sidecar = read(out / f"{DENOISED}.json")
    assert sidecar["MagneticFieldStrength"] == 1.5, "the nearest file counts"
    assert sidecar["SkullStripped"] is True
    assert sidecar["Sources"] == [f"bids:source:{T1}"]
    assert sidecar["Denoising"]["Scheme"] == "prior"
    assert sidecar["Denoising"]["Seed"] == 0
    assert str(dataset.parent) not in (out / f"{DENOISED}.json").read_text(), "paths of this machine"
    intended = read(out / "sub-01/perf/sub-01_desc-denoised_m0scan.json")["IntendedFor"]
    assert intended == ["bids:source:sub-01/perf/sub-01_asl.nii.gz", f"bids:source:{T1}"]
    assert read(out / "sub-01/perf/sub-01_desc-denoised_asl.json")["SkullStripped"] is False


def test_description_names_program_source_and_license(dataset):
    out = denoise(dataset, "--filter", "suffix=T1w")[1]
    facts = read(out / "dataset_description.json")
    assert facts["DatasetType"] == "derivative"
    assert facts["GeneratedBy"][0]["Name"] == "monai_n2v"
    assert facts["License"] == "CC0"
    assert facts["SourceDatasets"] == [{"URL": "../..", "DOI": "doi:10.5/x"}]
    assert (out / facts["DatasetLinks"]["source"] / T1).is_file()
    assert "DatasetDOI" not in facts, "that is the source's"


def test_companions_come_along_wherever_they_stood(dataset):
    code, out = denoise(dataset, "--participant-label", "01", "--filter", "datatype=dwi,perf", "--save-residual")
    assert code == 0
    assert (out / "sub-01/dwi/sub-01_dwi.bval").read_text() == "0 1000 1000\n"
    assert (out / "sub-01/dwi/sub-01_dwi.bvec").read_text() == (dataset / "dwi.bvec").read_text()
    assert (out / "sub-01/perf/sub-01_aslcontext.tsv").is_file()
    made = find_bids_images(out)[0]
    assert {len(one.beside("dwi", ".bval")) for one in made if one.suffix == "dwi"} == {1}, "both images find it"


@pytest.mark.usefixtures("short_epochs")
def test_every_kind_has_a_network_of_its_own_and_one_that_fails_stops_no_other(dataset, capsys):
    image(dataset / "sub-01/anat/sub-01_T2w.nii.gz", (20, 18, 1))  # no 3D network can serve it
    quick = ["--scheme", "n2v", "--epochs", "1", "--spatial-dims", "3", "--device", "cpu", "--json"]
    code, out = denoise(dataset, "--filter", "suffix=T1w,T2w,FLAIR", how=quick)
    captured = capsys.readouterr()
    records = {Path(r["input"]).name: r for r in map(json.loads, captured.out.splitlines())}
    assert code == 1
    assert "one network on 2 anat T1w images" in captured.err
    assert "one network on 1 anat FLAIR image." in captured.err
    assert {name for name, r in records.items() if r["status"] == "failed"} == {"sub-01_T2w.nii.gz"}
    assert len(names(out)) == 3
    assert not list(out.rglob("*T2w*")), "nothing is left of what failed"
    hashes = [r["config_sha256"] for name, r in records.items() if name.endswith("T1w.nii.gz")]
    assert len(hashes) == 2
    assert hashes[0] == hashes[1]


def test_filters_choose_and_say_what_there_is(dataset, capsys):
    assert denoise(dataset, "--filter", "ses=a", "--filter", "suffix=T1w")[0] == 0
    for options, message in {
        ("--filter", "ses=b"): "--filter must match an image, got ses=b. The images have ses a.",
        ("--filter", "sufix=T1w"): "Did you mean suffix?",
        ("--participant-label", "03"): "--participant-label must name participants",
        ("--pattern", "*.nii"): "--bids must come without --pattern",
    }.items():
        capsys.readouterr()
        assert denoise(dataset, *options)[0] == 2
        assert message in capsys.readouterr().err


def test_results_lie_where_bids_wants_them(dataset, tmp_path, capsys):
    assert denoise(dataset, out=dataset / "results")[0] == 2
    assert "OUT must lie in derivatives/ of IN" in capsys.readouterr().err
    says(tmp_path / "other/dataset_description.json", Name="x", GeneratedBy=[{"Name": "fMRIPrep"}])
    assert denoise(dataset, out=tmp_path / "other")[0] == 2
    assert f"got {tmp_path / 'other'} of fMRIPrep" in capsys.readouterr().err
    assert main(["denoise", "-i", str(dataset / "sub-01"), "-o", str(tmp_path / "o"), "--bids", *FAST]) == 2
    assert "without dataset_description.json" in capsys.readouterr().err
    assert main(["denoise", "-i", str(dataset), "-o", str(tmp_path / "o"), "--filter", "suffix=T1w", *FAST]) == 2
    assert "Add --bids" in capsys.readouterr().err


def test_broken_sidecar_is_refused_before_any_work(dataset, capsys):
    (dataset / "sub-01/anat/sub-01_T1w.json").write_text("{")
    code, out = denoise(dataset)
    assert code == 2
    assert "sub-01_T1w.json must hold JSON" in capsys.readouterr().err
    assert not out.exists()


def test_missing_content_fails_alone(dataset, capsys):
    (dataset / T1).unlink()
    (dataset / T1).symlink_to(".git/annex/none")  # a dataset of DataLad whose files were not fetched
    code, out = denoise(dataset, "--filter", "suffix=T1w")
    assert code == 1
    assert f"path must be an existing file, got {dataset / T1}" in capsys.readouterr().err
    assert names(out) == ["sub-02_ses-a_run-1_desc-denoised_T1w.nii.gz"]


def test_second_run_does_what_is_left(dataset, capsys):
    out = denoise(dataset, "--filter", "suffix=T1w")[1]
    assert denoise(dataset, "--filter", "suffix=T1w")[0] == 2
    before = (out / f"{DENOISED}.nii.gz").stat().st_mtime_ns
    other = out / "sub-02/ses-a/anat/sub-02_ses-a_run-1_desc-denoised_T1w.json"
    other.unlink()  # as a process leaves it that is killed between image and sidecar
    capsys.readouterr()
    assert denoise(dataset, "--filter", "suffix=T1w", "--skip-existing")[0] == 0
    assert other.is_file()
    assert (out / f"{DENOISED}.nii.gz").stat().st_mtime_ns == before


def test_derivatives_keep_what_their_source_was(dataset, tmp_path):
    """A preprocessed image is denoised into another name than the raw one beside it."""
    image(dataset / "sub-01/anat/sub-01_desc-preproc_T1w.nii.gz")
    code, out = denoise(dataset, "--participant-label", "01", "--filter", "suffix=T1w")
    assert code == 0
    assert names(out) == ["sub-01_desc-denoised_T1w.nii.gz", "sub-01_desc-preprocDenoised_T1w.nii.gz"]


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("sub-01_task-rest_bold", ({"sub": "01", "task": "rest"}, "bold")),
        ("T1w", ({}, "T1w")),
        ("sub-01_T1w_copy", None),
        ("sub-01_ses-a b_T1w", None),
        ("sub-_T1w", None),
        ("sub-01_T1w (1)", None),
    ],
)
def test_names_are_split_or_refused(stem, expected):
    assert split_entities(stem) == expected


def test_images_of_a_complex_pair_are_kinds_of_their_own(dataset):
    for part in ("real", "imag", "mag"):
        image(dataset / f"sub-01/dwi/sub-01_part-{part}_dwi.nii.gz")
    kinds = {found.kind for found in find_bids_images(dataset)[0] if found.datatype == "dwi"}
    assert kinds == {"dwi dwi", "dwi dwi real", "dwi dwi imag", "dwi dwi mag"}


def test_bids_validator_finds_no_error(dataset, tmp_path):
    """The validator knows derivatives; https://pypi.org/project/bids-validator-deno, in an environment of its own."""
    validator = shutil.which("bids-validator-deno") or shutil.which(
        "bids-validator-deno", path=Path(sys.executable).parent
    )
    if validator is None:
        pytest.skip("bids-validator-deno is not installed")
    says(dataset / "sub-01/perf/sub-01_m0scan.json", IntendedFor="bids::sub-01/perf/sub-01_asl.nii.gz")
    code, out = denoise(dataset, "--report", "--save-residual", "--save-noise-map")
    assert code == 0

    def errors() -> list[tuple[str, str]]:
        done = subprocess.run([validator, str(out), "--format", "json"], capture_output=True, text=True, check=False)
        issues = json.loads(done.stdout)["issues"]["issues"]
        return [(issue["code"], issue["location"]) for issue in issues if issue["severity"] == "error"]

    assert errors() == []
    (out / "sub-01/dwi/sub-01_dwi.bval").unlink()
    assert errors(), "the validator looks at all this"
