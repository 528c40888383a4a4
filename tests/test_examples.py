# SPDX-License-Identifier: Apache-2.0
"""The notebook in ``examples/``: kept without outputs, its code cells run in order."""

from __future__ import annotations

import json
import re
import runpy

import matplotlib
import nibabel
import numpy as np
import pytest
from conftest import ROOT

QUICKSTART = ROOT / "examples" / "quickstart.ipynb"
SCRIPT = ROOT / "examples" / "noisy_brain.py"


def cells(kind: str) -> list[dict]:
    return [cell for cell in json.loads(QUICKSTART.read_text())["cells"] if cell["cell_type"] == kind]


def test_notebook_has_no_outputs_and_its_links_are_there():
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells("code"))
    text = "".join("".join(cell["source"]) for cell in cells("markdown"))
    targets = re.findall(r"\]\(([^)#]+)", text)
    assert targets
    assert all((QUICKSTART.parent / target).is_file() for target in targets)


def test_noisy_brain_is_noisier_than_its_scan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = runpy.run_path(str(SCRIPT))
    noisy = nibabel.load("noisy_brain.nii.gz")
    assert noisy.shape == (128, 96, 24)
    assert noisy.header.get_zooms() == told["source"].header.get_zooms()[:3]
    inside = told["scan"] > np.percentile(told["scan"], 80)
    assert np.std((noisy.get_fdata() - told["scan"])[inside]) == pytest.approx(told["sigma"], rel=0.05)


@pytest.mark.slow
def test_cells_of_the_notebook_run_in_order_and_denoise(monkeypatch):
    matplotlib.use("Agg")
    names: dict = {}
    for cell in cells("code"):
        exec(compile("".join(cell["source"]), str(QUICKSTART), "exec"), names)
    assert names["psnr"](names["denoised"]) > names["psnr"](names["noisy"]) + 2
