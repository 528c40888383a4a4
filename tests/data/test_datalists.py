# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from monai_n2v.data.datalists import find_pairs


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
    with pytest.raises(FileNotFoundError, match=f"got none for {tmp_path / alone}"):
        find_pairs(*folders)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("clean/b.mha", r"clean must hold one reference of every image, got b\.mha and b\.nii for"),
        ("clean/b.nii.gz", r"clean must hold one reference of every image, got b\.nii and b\.nii\.gz for"),
        ("noisy/b.mha", "dataset_dir must hold one image per name"),
    ],
)
def test_two_images_of_one_name_refused(name, message, folders, tmp_path):
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=message):
        find_pairs(*folders)


def test_images_are_not_their_own_targets(folders, monkeypatch):
    monkeypatch.chdir(folders[0])
    with pytest.raises(ValueError, match="target_dir must be another folder than dataset_dir"):
        find_pairs(folders[0], ".")


@pytest.mark.parametrize(("inner", "outer"), [("clean", "noisy"), ("noisy", "clean")])
def test_folder_inside_the_other_holds_none_of_its_images(inner, outer, folders, tmp_path):
    (tmp_path / inner).rename(tmp_path / outer / inner)
    by_name = {outer: tmp_path / outer, inner: tmp_path / outer / inner}
    pairs = find_pairs(by_name["noisy"], by_name["clean"])
    assert [pair["image"] for pair in pairs] == [str(by_name["noisy"] / name) for name in ("b.nii.gz", "sub/a.png")]
    assert [pair["label"] for pair in pairs] == [str(by_name["clean"] / name) for name in ("b.nii", "sub/a.tif")]


def test_folder_without_images_of_its_own_named(folders, tmp_path):
    (tmp_path / "all").mkdir()
    (tmp_path / "clean").rename(tmp_path / "all" / "clean")
    with pytest.raises(FileNotFoundError, match="dataset_dir must hold images, got none of its own"):
        find_pairs(tmp_path / "all", tmp_path / "all" / "clean")


@pytest.mark.parametrize(
    ("target", "message"), [("", "target_dir must be a folder"), ("x", "target_dir must be an ex")]
)
def test_missing_target_folder_named(target, message, folders, tmp_path):
    with pytest.raises(FileNotFoundError, match=message):
        find_pairs(folders[0], tmp_path / target if target else "")
