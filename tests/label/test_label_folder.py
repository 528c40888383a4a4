# SPDX-License-Identifier: Apache-2.0
"""What works without MONAI Label: making the folder of an app, and help."""

from __future__ import annotations

import subprocess
import sys

import pytest

from monai_n2v.label.__main__ import main


def test_init_makes_an_app_of_bundles_and_one_import(tmp_path, capsys):
    folder = tmp_path / "apps" / "denoise"
    assert main(["init", str(folder)]) == 0
    assert f"monailabel start_server --app {folder}" in capsys.readouterr().out
    assert sorted(path.name for path in folder.iterdir()) == ["main.py", "model"]
    for name in ("n2v_denoise_2d", "n2v_denoise_3d"):
        assert (folder / "model" / name / "configs" / "train.json").is_file()
        models = folder / "model" / name / "models"
        assert [path.name for path in models.iterdir()] == ["prior.pt"]  # nothing that somebody trained
    compile((folder / "main.py").read_text(), "main.py", "exec")


def test_init_leaves_a_folder_with_something_in_it_alone(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert main(["init", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"DIR must not exist yet or be an empty folder, got {tmp_path}. Name another one.\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("arguments", [["--help"], ["init", "--help"], ["stow", "--help"]])
def test_help_needs_no_monai_label(arguments):
    code = "import sys; sys.modules['monailabel'] = None; from monai_n2v.label.__main__ import main; main(sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "usage: python -m monai_n2v.label" in done.stdout


# As torchvision's own: on import it gives a fake kernel to an operator that its binary part would define.
OTHER_KIND = """
import torch

@torch.library.register_fake("torchvision::nms")
def nms(dets, scores, iou_threshold):
    return dets

@torch.library.register_fake("torchvision::qnms")
def qnms(dets, scores, iou_threshold):
    return dets
"""


@pytest.mark.parametrize(
    ("content", "ending"),
    [(OTHER_KIND, ""), ("", ""), ("raise RuntimeError('anything else')", "RuntimeError: anything else")],
)
def test_torchvision_of_another_kind_than_torch_can_be_imported(tmp_path, content, ending):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(content)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
    code += "from monai_n2v.label.operators import make_torchvision_importable as make\n"
    code += "make(); make(); import torchvision"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip().rpartition("\n")[2] == ending
    assert done.returncode == bool(ending)
