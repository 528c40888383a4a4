# SPDX-License-Identifier: Apache-2.0
"""Dockerfile and Apptainer recipe, as far as they can be tried without building an image."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, phantom
from samples import nifti

DOCKERFILE, APPTAINER = ROOT / "Dockerfile", ROOT / "apptainer.def"
INSTALL = re.compile(r"pip install (.*?)\s*(?=;|&&|$)", re.MULTILINE)


def stage(name: str) -> list[tuple[str, str]]:
    """Instructions of a stage and of those it is built on, lines joined, without Docker's flags."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.strip().startswith("#")]
    stages: dict[str, list[tuple[str, str]]] = {"": []}
    found = stages[""]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        word, _, rest = " ".join(line.split()).partition(" ")
        if word == "FROM":
            above, _, label = rest.partition(" AS ")
            found = stages[label] = list(stages.get(above, []))
        elif word:
            found.append((word, re.sub(r"^(--\S+ )+", "", rest)))
    return stages[name]


def installs(text: str) -> list[str]:
    """What is installed, one entry per call of pip."""
    return [" ".join(options.split()) for options in INSTALL.findall(text.replace("\\\n", " "))]


def test_images_run_without_root_and_have_their_entry():
    for name, command in {"program": "monai-n2v", "label": "monailabel"}.items():
        words = dict(stage(name))
        assert words["USER"] == "1000"
        assert json.loads(words["ENTRYPOINT"])[0] == command
    assert "http://127.0.0.1:8000/info/" in dict(stage("label"))["HEALTHCHECK"]


def test_recipes_install_the_same():
    program = installs("\n".join(rest for word, rest in stage("program") if word == "RUN"))
    assert len(program) == 2
    assert installs(APPTAINER.read_text()) == program
    sources = {line.split()[0] for line in APPTAINER.read_text().splitlines() if line.endswith(" /src/")}
    assert {"monai_n2v", "bundles", "configs", "pyproject.toml", "README.md", "LICENSE", "constraints.txt"} <= sources
    assert all((ROOT / source).exists() for source in sources)


def test_label_image_installs_what_ci_tries():
    label = installs("\n".join(rest for word, rest in stage("label") if word == "RUN"))
    tried = installs((ROOT / ".ci" / "run").read_text().replace("--quiet ", ""))
    assert [line for line in label if "--index-url" not in line] == [
        line for line in tried if "-c constraints-label" in line
    ]


def test_context_leaves_trained_networks_out():
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    assert "bundles/*/models/*" in rules
    assert rules.index("!bundles/*/models/prior.pt") > rules.index("bundles/*/models/*")
    assert ".git" in rules


def test_hadolint_finds_nothing():
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    hadolint = shutil.which("hadolint", path=path)
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([hadolint, "--no-color", DOCKERFILE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert not done.stdout


def _context(folder: Path) -> Path:
    """A copy of what Docker would send to the build."""
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]

    def is_sent(name: str) -> bool:
        sent = True
        for rule in rules:
            parts = [name, *(parent.as_posix() for parent in Path(name).parents)]
            plain = rule.removeprefix("!").removeprefix("**/")
            names = [Path(part).name for part in parts] if rule.startswith("**/") else parts
            if any(fnmatch.fnmatch(part, plain) for part in names):
                sent = rule.startswith("!")
        return sent

    def left_out(place: str, names: list[str]) -> list[str]:
        return [name for name in names if not is_sent((Path(place) / name).relative_to(ROOT).as_posix())]

    return Path(shutil.copytree(ROOT, folder, ignore=left_out))


@pytest.mark.slow
def test_install_lines_make_a_program_that_denoises(tmp_path):
    """With CUDA's argument, since torch's own index is not reached everywhere."""
    context, venv, data = _context(tmp_path / "src"), tmp_path / "venv", tmp_path / "data"
    data.mkdir()
    nifti(data / "noisy.nii.gz", phantom((16, 18, 12))[1], np.eye(4))
    paths = [str(venv / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
    known = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    env = {**known, "DEVICE": "cuda", "VIRTUAL_ENV": str(venv), "PATH": os.pathsep.join(paths), "HOME": str(tmp_path)}
    entry: list[str] = []
    for word, rest in stage("program"):
        if word == "RUN":
            done = subprocess.run(
                ["sh", "-ec", rest], cwd=context, env=env, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{rest}\n{done.stderr[-3000:]}"
        elif word == "ENTRYPOINT":
            entry = json.loads(rest)
    shutil.rmtree(context)
    options = ["-i", "noisy.nii.gz", "-o", "denoised.nii.gz", "--fast", "--device", "cpu"]
    command = [str(venv / "bin" / entry[0]), "denoise", *options]
    done = subprocess.run(command, cwd=data, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (data / "denoised.nii.gz").is_file()
