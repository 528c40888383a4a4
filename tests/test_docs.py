# SPDX-License-Identifier: Apache-2.0
"""Every command and every Python block of README and docs, taken from the text and run in order.

Each document runs in a folder of its own, with copies of bundles and configs whose networks are tiny, and with small
images where the text names some. Commands that train get a smaller budget appended. What is not run is named here.
Recipes for clusters are ``bash`` and ``yaml`` blocks, output is a block without a language.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import samples
import tifffile
from conftest import ROOT, phantom
from monai.networks.nets import BasicUNet

from monai_n2v.cli.main import main
from monai_n2v.handlers import write_prior

DOCUMENTS = ["README.md", *(str(p.relative_to(ROOT)) for p in sorted(ROOT.glob("bundles/*/docs/README.md")))]
DOCUMENTS += [str(p.relative_to(ROOT)) for p in sorted(ROOT.glob("docs/**/*.md"))]
DOCUMENTS += ["integrations/slicer/README.md"]
# Pages for everyone: half of the sentences have at most 18 words, none has more than 35.
READ_BY_ALL = ["README.md", "docs/results.md", "docs/index.md", "docs/tutorial.md", "docs/gallery.md"]
READ_BY_ALL += [
    p.relative_to(ROOT).as_posix()
    for folder in ("how-to", "explanation")
    for p in sorted(ROOT.glob(f"docs/{folder}/*.md"))
    if p.name != "architecture.md"  # for who changes the code
]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_RUN = {
    "pip": "installs; .ci/run does",
    "python3 -m venv": "installs; .ci/run does",
    ".": "enters the environment",
    "tensorboard": "serves until it is stopped",
    "mlflow": "serves until it is stopped",
    "OMP_NUM_THREADS=1 python -m pytest": "these tests",
}
STAND_INS = {"FILE": "noisy.nii.gz", "SCHEMA": "SCHEMA.json"}
SMALLER = {'"epoch_length": 100': '"epoch_length": 2', "max_time=120": "max_time=1"}
TINY = {2: [4, 4, 4, 4, 4, 4], 3: [2, 2, 2, 2, 2, 2]}


def blocks_of(document: str) -> list[tuple[str, str]]:
    return BLOCK.findall((ROOT / document).read_text())


def commands_of(block: str) -> list[str]:
    """Lines of a shell block, joined where they go on, cut at ``&&``, variables of the block filled in."""
    variables: dict[str, str] = {}
    commands: list[str] = []
    for line in block.replace("\\\n", " ").splitlines():
        text = re.sub(r"(^|\s+)# .*$", "", line).strip()
        if re.fullmatch(r"[A-Z]\w*=\S+", text):
            name, _, value = text.partition("=")
            variables[name] = value
            continue
        for name, value in variables.items():
            text = re.sub(rf"\${name}\b", value, text)
        commands += [command.strip() for command in text.split(" && ") if command]
    return commands


def reason_not_to_run(command: str) -> str | None:
    return next((why for start, why in NOT_RUN.items() if command == start or command.startswith(start + " ")), None)


def shrink(path: Path, spatial_dims: int | None = None) -> None:
    """Make the network of a config tiny."""
    config = json.loads(path.read_text())
    if isinstance(config.get("features"), list):
        config["features"] = TINY[spatial_dims or config["spatial_dims"]]
    elif "features" in config:
        config["features"] = 4
    if path.name == "train.json":
        config |= {"epochs": 1, "epoch_length": 2, "val_length": 1, "batch_size": 2}
        config["patch_size"] = [16] * config["spatial_dims"]
    path.write_text(json.dumps(config, indent=4) + "\n")


@pytest.fixture
def workspace(tmp_path, monkeypatch, short_epochs):
    """A copy of what a reader has: bundles, configs, and an image wherever the text names one."""
    for folder in ("bundles", "configs", "examples"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("model*.pt", "runs", "dataset"))
    for path in [*tmp_path.glob("bundles/*/configs/*.json"), *tmp_path.glob("configs/*.json")]:
        shrink(path)
    for dims, features in TINY.items():
        network = BasicUNet(dims, 1, 1, features=features, norm=None)
        write_prior(network, tmp_path / "bundles" / f"n2v_denoise_{dims}d" / "models" / "prior.pt", {})
    for k, folder in enumerate(("DIR", "DIR2", "NOISY", "CLEAN", "REPEAT2", "REPEAT3", "FOLDER")):
        (tmp_path / folder).mkdir()
        clean, noisy = phantom((20, 24, 18), seed=k)
        samples.nifti(tmp_path / folder / "a_T1.nii.gz", clean if folder == "CLEAN" else noisy, np.eye(4))
    (tmp_path / "DATASET" / "sub-01" / "anat").mkdir(parents=True)
    (tmp_path / "DATASET" / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    noisy = phantom((20, 24, 18))[1]
    samples.nifti(tmp_path / "DATASET" / "sub-01" / "anat" / "sub-01_T1w.nii.gz", noisy, np.eye(4))
    for name in ("noisy.nii.gz", "other.nii.gz"):
        samples.nifti(tmp_path / name, noisy, np.eye(4))
    samples.nifti(tmp_path / "magnitude.nii.gz", np.abs(noisy), np.eye(4))
    tifffile.imwrite(tmp_path / "cells.tif", noisy[..., 9])
    samples.nifti(tmp_path / "gfactor.nii.gz", np.ones_like(noisy), np.eye(4))
    samples.nifti(
        tmp_path / "dwi.nii.gz", np.stack([phantom((20, 24, 18), seed=k)[1] for k in range(4)], -1), np.eye(4)
    )
    (tmp_path / "dwi.bval").write_text("0 1000 1000 1000\n")
    (tmp_path / "dwi.bvec").write_text("0 1 0 0\n0 0 1 0\n0 0 0 1\n")
    samples.nrrd_file(tmp_path / "scan.nrrd", noisy, np.eye(4))
    shutil.copyfile(ROOT / "tests" / "bundle" / "meta_schema.json", tmp_path / "SCHEMA.json")
    samples.dicom_series(tmp_path / "DICOM_FOLDER", noisy.astype("int16"), np.eye(4))
    monkeypatch.chdir(tmp_path)
    # The environment that the text enters.
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    return tmp_path


def run_monai_n2v(arguments: list[str]) -> None:
    if arguments[0] in ("denoise", "train") and not {"--model", "--fast"} & set(arguments):
        arguments = [*arguments, *(["--max-time", "1"] if "--max-time" in arguments else ["--epochs", "1"])]
    assert main(arguments) == 0, f"monai-n2v {shlex.join(arguments)}"


def run_module(module: str, arguments: list[str], monkeypatch) -> None:
    if "train.json" in " ".join(arguments) and not any("evaluate" in a for a in arguments):
        arguments = [*arguments, "--epochs", "1", "--epoch_length", "2", "--batch_size", "2"]
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a reader sees them and goes on; other tests are strict about them
        code = None
        try:
            runpy.run_module(module, run_name="__main__")
        except SystemExit as end:
            code = end.code
    assert not code, f"python -m {module} {shlex.join(arguments)}"


def run_command(command: str, monkeypatch) -> None:
    while found := re.search(r'"?\$\((.*?)\)"?(?=\s|$)', command):
        output = subprocess.run(["bash", "-c", found[1]], capture_output=True, text=True, check=True).stdout.strip()
        command = command.replace(found[0], shlex.quote(output))
    words = [STAND_INS.get(word, word) for word in shlex.split(command)]
    if words[0] == "monai-n2v":
        run_monai_n2v(words[1:])
    elif words[:2] == ["python", "-m"] and words[2] in ("monai.bundle", "monai_n2v.label"):
        run_module(words[2], words[3:], monkeypatch)
    elif words[:2] == ["python", "-c"]:
        exec(compile(words[2], command, "exec"), {})
    elif words[0] == "python":
        runpy.run_path(words[1], run_name="__main__")
    elif words[0] == "torchrun":
        words = [sys.executable, "-m", "torch.distributed.run", *words[1:], "--epochs", "1", "--epoch_length", "2"]
        said = []
        for _ in range(2):  # it failed once, in dozens of runs, for a reason that was not found
            done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
            said.append(done.stderr)
            if done.returncode == 0:
                return
        pytest.fail("\n".join(said))
    else:
        subprocess.run(words, check=True, capture_output=True)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_blocks_have_a_language_that_is_run_or_exempt(document):
    assert {language for language, _ in blocks_of(document)} <= {"sh", "python", "bash", "yaml", "json", ""}
    assert (ROOT / document).read_text().count("```") == 2 * len(blocks_of(document)), "a block is not closed"


@pytest.mark.slow
@pytest.mark.parametrize("document", [d for d in DOCUMENTS if any(b[0] in ("sh", "python") for b in blocks_of(d))])
def test_commands_and_python_of_a_document_run_in_order(document, workspace, monkeypatch):
    if "bundles/" in document:
        monkeypatch.chdir(workspace / Path(document).parent.parent)
        (workspace / "DIR").rename(Path("DIR").absolute())
    for room in ("monai_n2v.bundle.resources", "monai_n2v.bundle", "monai_n2v"):
        monkeypatch.setattr(f"{room}.find_bundle", lambda name: workspace / "bundles" / name)
    network = BasicUNet(3, 1, 1, TINY[3], norm=None)
    names: dict[str, object] = {"noisy": phantom((20, 24, 18))[1], "global_weights": network.state_dict()}
    n_run = 0
    for language, block in blocks_of(document):
        if language == "python":
            if "(..." not in block:
                for budget, smaller in SMALLER.items():
                    block = block.replace(budget, smaller)
                exec(compile(block, document, "exec"), names)
                n_run += 1
        elif language == "sh":
            for command in commands_of(block):
                if reason_not_to_run(command) is None:
                    run_command(command, monkeypatch)
                    n_run += 1
    assert n_run > 0


def test_commands_are_taken_whole_from_a_block():
    block = """
B=bundles/x
python -m a "['$B/c.json','d']" \\
    --e F    # why
tool -i '*_T1.nii.gz' && other "$(python -c 'print(1)')"

# only a comment
"""
    assert commands_of(block) == [
        "python -m a \"['bundles/x/c.json','d']\"      --e F",
        "tool -i '*_T1.nii.gz'",
        "other \"$(python -c 'print(1)')\"",
    ]
    assert reason_not_to_run("pip install x") is not None
    assert reason_not_to_run("pipx") is None


LINKED = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/**/*.md", "bundles/*/docs/*.md", "examples/**/*.md")
    for path in ROOT.glob(pattern)
)


def anchors_of(text: str) -> set[str]:
    """What headings are called in links, by the rule of GitHub and of the site."""
    headings = re.findall(r"^#+ (.+?)\s*$", re.sub(BLOCK, "", text), re.MULTILINE)
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("document", LINKED)
def test_links_and_pictures_of_a_document_are_there(document):
    path = ROOT / document
    missing = []
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", re.sub(BLOCK, "", path.read_text())):
        linked = path.parent / target if target else path
        if "://" in target or target.startswith("mailto:"):
            continue
        if not linked.exists() or (anchor and anchor not in anchors_of(linked.read_text())):
            missing.append(f"{target}#{anchor}")
    assert not missing


def test_every_page_is_on_the_map():
    index = ROOT / "docs" / "index.md"
    named = {(index.parent / target).resolve() for target in re.findall(r"\]\(([^)#\s]+)", index.read_text())}
    measurements = set(ROOT.glob("docs/measurements/*.md"))  # the results lead to them
    assert set(ROOT.glob("docs/**/*.md")) - named - measurements <= {index}


def sentences_of(document: str) -> list[list[str]]:
    """Sentences of the prose as words: without code blocks, tables, headings and addresses of links."""
    text = re.sub(BLOCK, "\n\n", (ROOT / document).read_text())
    text = re.sub(r"!?\[([^]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"`[^`\n]*`", "code", text)
    text = re.sub(r"^(#+ .*|\|.*)$", "", text, flags=re.MULTILINE)
    text = re.sub(r"^\s*([-*]|\d+\.) ", "\n\n", text, flags=re.MULTILINE)
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
    parts = [
        one for part in paragraphs for one in re.split(r"(?<=[.!?:])[\"*)]* +(?=[\"*(]*(?:[A-Z0-9]|code\b))", part)
    ]
    return [one.split() for one in parts if one]


@pytest.mark.parametrize("document", READ_BY_ALL)
def test_sentences_are_short(document):
    found = sentences_of(document)
    lengths = [len(words) for words in found]
    assert np.median(lengths) <= 18
    assert max(lengths) <= 35, " ".join(max(found, key=len))


@pytest.mark.parametrize("name", ["command-line.md", "keys.md", "python.md"])
def test_reference_is_what_the_code_says(name):
    pages = runpy.run_path(str(ROOT / "docs" / "generate.py"))["PAGES"]
    assert (ROOT / "docs" / "reference" / name).read_text() == pages[name]()
