# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from monai_n2v.pairs import find_pairs


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    for name in ("noisy/b.nii.gz", "noisy/sub/a.png", "clean/b.nii", "clean/sub/a.tif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path / "noisy", tmp_path / "clean"


def test_pairs_share_their_relative_path_whatever_the_suffix(folders):
    noisy, clean = folders
    assert find_pairs(noisy, clean) == [
        {"image": str(noisy / "b.nii.gz"), "label": str(clean / "b.nii")},
        {"image": str(noisy / "sub" / "a.png"), "label": str(clean / "sub" / "a.tif")},
    ]
    assert len(find_pairs(str(noisy), str(clean), exclude=noisy / "none")) == 2


@pytest.mark.parametrize("alone", ["noisy/sub/x.nii", "clean/x.png"])
def test_image_without_partner_is_named(alone, folders, tmp_path):
    (tmp_path / alone).touch()
    with pytest.raises(FileNotFoundError, match=f"got {tmp_path / alone} without a partner"):
        find_pairs(*folders)


def test_two_images_of_one_name_refused(folders):
    (folders[1] / "b.mha").touch()
    with pytest.raises(ValueError, match="target_dir must hold one image per name"):
        find_pairs(*folders)


@pytest.mark.parametrize(
    ("target", "message"), [("", "target_dir must be a folder"), ("x", "target_dir must be an ex")]
)
def test_missing_target_folder_named(target, message, folders, tmp_path):
    with pytest.raises(FileNotFoundError, match=message):
        find_pairs(folders[0], tmp_path / target if target else "")
