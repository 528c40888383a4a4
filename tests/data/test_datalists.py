# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
import samples
import torch
from conftest import phantom
from monai.data import Dataset, MetaTensor
from monai.transforms import Compose, Transform

from monai_n2v.data.datalists import find_pairs, find_scored_images, make_dataset
from monai_n2v.transforms.axes import ShortestAxisLastd
from monai_n2v.transforms.components import PrincipalComponentsd
from monai_n2v.transforms.files import LoadNoisyd
from monai_n2v.transforms.intensity import StandardizeIntensityd


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


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def test_partners_share_path_and_stem(tmp_path):
    touch(tmp_path / "noisy" / "a" / "x.nii.gz", tmp_path / "noisy" / "b.png", tmp_path / "clean" / "b.tif")
    touch(tmp_path / "clean" / "a" / "x.mha", tmp_path / "again" / "a" / "x.nii.gz", tmp_path / "again" / "b.png")
    touch(tmp_path / "again" / "unused.png")
    found = find_scored_images(tmp_path / "noisy", tmp_path / "clean", str(tmp_path / "again"))
    below = [{key: str(Path(path).relative_to(tmp_path)) for key, path in item.items()} for item in found]
    assert below == [
        {"image": "noisy/a/x.nii.gz", "clean": "clean/a/x.mha", "repeat_0": "again/a/x.nii.gz"},
        {"image": "noisy/b.png", "clean": "clean/b.tif", "repeat_0": "again/b.png"},
    ]
    assert find_scored_images(tmp_path / "noisy") == [{"image": item["image"]} for item in found]


def test_dicom_series_are_partners_by_folder(tmp_path):
    for name in ("noisy", "clean"):
        samples.dicom_series(tmp_path / name / "s.1", np.ones((8, 8, 2), dtype=np.int16), samples.oblique_affine())
    assert find_scored_images(tmp_path / "noisy", tmp_path / "clean") == [
        {"image": str(tmp_path / "noisy" / "s.1"), "clean": str(tmp_path / "clean" / "s.1")}
    ]


def test_references_below_the_images_are_no_images(tmp_path):
    touch(tmp_path / "x.png", tmp_path / "clean" / "x.png", tmp_path / "denoised" / "x_denoised.png")
    found = find_scored_images(tmp_path, tmp_path / "clean", exclude=tmp_path / "denoised")
    assert found == [{"image": str(tmp_path / "x.png"), "clean": str(tmp_path / "clean" / "x.png")}]


@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        (
            ["clean/y.png"],
            FileNotFoundError,
            r"clean must hold a reference of every image, got none for .*noisy.x\.png",
        ),
        (["clean/x.tif", "clean/x.mha"], ValueError, r"got x\.mha and x\.tif for .*noisy.x\.png"),
        (["clean/sub/x.png"], FileNotFoundError, r"got none for .*noisy.x\.png"),
    ],
)
def test_missing_and_ambiguous_partners_named(files, error, message, tmp_path):
    touch(tmp_path / "noisy" / "x.png", *(tmp_path / name for name in files))
    with pytest.raises(error, match=message):
        find_scored_images(tmp_path / "noisy", tmp_path / "clean")


@pytest.mark.parametrize(
    ("options", "name"), [({"clean_dir": "."}, "clean_dir"), ({"repeat_dirs": ["."]}, "repeat_dirs")]
)
def test_images_are_not_their_own_references(options, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"{name} must be another folder"):
        find_scored_images(tmp_path, **options)


def test_no_images_inside_a_label_server_are_those_of_its_studies(tmp_path, monkeypatch):
    for name in ("b.nii.gz", "a.nii.gz", "a_denoised.nii.gz", "labels/final/a.nii.gz"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.float32), np.eye(4)), tmp_path / name)
    objects = {name: {"image": {"ext": ".nii.gz", "info": {}}} for name in ("a", "b", "a_denoised")}
    (tmp_path / "datastore_v2.json").write_text(json.dumps({"labels_dir": "labels", "objects": objects}))
    assert len(make_dataset([])) == 0
    monkeypatch.setenv("MONAI_LABEL_STUDIES", str(tmp_path))
    assert [item["image"] for item in make_dataset([])] == [str(tmp_path / name) for name in ("a.nii.gz", "b.nii.gz")]
    assert len(make_dataset([{"image": "mine"}])) == 1
    monkeypatch.setenv("MONAI_LABEL_STUDIES", "http://127.0.0.1:8042/dicom-web")
    assert len(make_dataset([])) == 0


def test_cached_dataset_keeps_images_with_their_metadata(tmp_path):
    nibabel.save(nibabel.Nifti1Image(phantom((9, 8, 7))[1], np.diag([1, 2, 3, 1])), tmp_path / "a.nii")
    items = []
    for _ in range(2):
        transform = Compose([LoadNoisyd("image"), StandardizeIntensityd("image")])
        dataset = make_dataset([{"image": str(tmp_path / "a.nii")}], transform, tmp_path / "cache")
        items.append(dataset[0]["image"])
        assert len(list((tmp_path / "cache").iterdir())) == 1
    assert torch.equal(items[0].as_tensor(), items[1].as_tensor())
    assert items[1].pixdim.tolist() == [1.0, 2.0, 3.0]
    assert np.array_equal(items[0].meta["intensity_std"], items[1].meta["intensity_std"])
    assert type(make_dataset([], None)) is Dataset


def cached(paths, cache_dir) -> torch.Tensor:
    return make_dataset([{"image": str(path)} for path in paths], Compose([LoadNoisyd("image")]), cache_dir)[0]["image"]


def test_cached_copy_runs_nothing(tmp_path):
    noisy = np.moveaxis([phantom((20, 18, 16), seed=k)[1] for k in range(3)], 0, -1)
    noisy[:6], noisy[12, 9, 9] = -1000, 1e5  # padding and an outlier are noted in the metadata
    nibabel.save(nibabel.Nifti1Image(noisy.astype(np.float32), np.eye(4)), tmp_path / "a.nii")
    steps = [LoadNoisyd("image"), ShortestAxisLastd("image", 2), StandardizeIntensityd("image")]
    transform = Compose([*steps, PrincipalComponentsd("image", "together")])

    def read() -> MetaTensor:
        return make_dataset([{"image": str(tmp_path / "a.nii")}], transform, tmp_path / "cache")[0]["image"]

    first = read()
    (copy,) = (tmp_path / "cache").iterdir()
    made = copy.stat().st_mtime_ns
    again = read()  # without a warning, which is an error here
    assert copy.stat().st_mtime_ns == made, "the copy was read"
    assert first.meta.keys() == again.meta.keys() >= {"padding", "outliers", "components", "intensity_std"}
    assert all(np.array_equal(first.meta[key], again.meta[key]) for key in ("padding", "outliers", "components"))
    torch.save({"image": _Touch(tmp_path / "mark")}, copy)
    with pytest.warns(UserWarning, match="Corrupt cache file detected"):
        third = read()
    assert not (tmp_path / "mark").exists()
    assert torch.equal(third.as_tensor(), first.as_tensor())


class _Touch:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_cached_copies_belong_to_files_not_to_relative_paths(tmp_path, monkeypatch):
    for value, project in enumerate(("first", "second")):
        (tmp_path / project / "noisy").mkdir(parents=True)
        np.save(tmp_path / project / "noisy" / "a.npy", np.full((8, 8), value, dtype=np.float32))
    for value, project in enumerate(("first", "second")):
        monkeypatch.chdir(tmp_path / project)
        for path in ("noisy/a.npy", "./noisy/../noisy/a.npy", tmp_path / project / "noisy" / "a.npy"):
            assert (cached([path], tmp_path / "cache") == value).all()
        assert len(list((tmp_path / "cache").iterdir())) == value + 1, "one copy per file, however it is named"


def test_changed_files_are_read_again(tmp_path):
    path = tmp_path / "a.npy"
    for value, n in [(0, 8), (1, 8), (2, 9)]:
        np.save(path, np.full((n, n), value, dtype=np.float32))
        os.utime(path, ns=(value * 10**9, value * 10**9))
        assert (cached([path], tmp_path / "cache") == value).all()
    os.utime(path, ns=(0, 0))  # as old as the first, but larger
    assert (cached([path], tmp_path / "cache") == 2).all()


def test_changed_voxels_of_an_image_in_two_files_are_read_again(tmp_path):
    text = "ObjectType = Image\nNDims = 3\nDimSize = 8 8 8\nElementType = MET_FLOAT\nElementDataFile = b.raw\n"
    (tmp_path / "a.mhd").write_text(text)
    for value in (0, 1):
        (tmp_path / "b.raw").write_bytes(np.full((8, 8, 8), value, dtype=np.float32).tobytes())
        os.utime(tmp_path / "b.raw", ns=(value * 10**9, value * 10**9))
        assert (cached([tmp_path / "a.mhd"], tmp_path / "cache") == value).all()


def test_changed_slices_of_a_series_are_read_again(tmp_path):
    for value in (1, 2):
        data = np.full((8, 8, 2), value, dtype=np.int16)
        for path in samples.dicom_series(tmp_path / "series", data, samples.oblique_affine()) or []:
            os.utime(path, ns=(value * 10**9, value * 10**9))
        assert (cached([tmp_path / "series"], tmp_path / "cache") == value).all()
    assert len(list((tmp_path / "cache").iterdir())) == 2


class Recorded(Transform):
    """Tells how often it was called."""

    n_calls = 0

    def __call__(self, item):
        Recorded.n_calls += 1
        return item


def test_files_in_lists_are_looked_at_and_other_texts_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr(Recorded, "n_calls", 0)
    path = tmp_path / "a.npy"
    item = {"image": [str(path)], "name": "x" * 5000, "count": 3}
    for n in (3, 4):
        np.save(path, np.zeros(n))
        for _ in range(2):
            copy = make_dataset([item], Compose([Recorded()]), tmp_path / "cache")[0]
        assert copy["name"] == item["name"]
        assert Recorded.n_calls == n - 2
