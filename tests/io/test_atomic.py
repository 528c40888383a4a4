# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from monai_n2v.io.atomic import staged


def test_file_appears_whole(tmp_path):
    with staged(tmp_path / "deep" / "x.txt") as place:
        place.write_text("new")
        assert not (tmp_path / "deep" / "x.txt").exists()
    assert (tmp_path / "deep" / "x.txt").read_text() == "new"
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["x.txt"]


def test_files_beside_it_come_along(tmp_path):
    with staged(tmp_path / "x.mhd") as place:
        place.write_text("header")
        place.with_suffix(".raw").write_text("voxels")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.mhd", "x.raw"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_failure_leaves_what_was_there(error, tmp_path):
    (tmp_path / "x.txt").write_text("old")

    def fail() -> None:
        with staged(tmp_path / "x.txt") as place:
            place.write_text("half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert (tmp_path / "x.txt").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


def test_folder_replaces_folder(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "old").touch()
    with staged(tmp_path / "x") as place:
        place.mkdir()
        (place / "new").touch()
    assert [p.name for p in (tmp_path / "x").iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_failed_move_of_a_folder_leaves_the_old_one(tmp_path, monkeypatch):
    import os

    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "old").touch()
    replace, calls = os.replace, []

    def fail_at_second(*args):
        calls.append(args)
        if len(calls) == 2:
            raise OSError("lost")
        replace(*args)

    monkeypatch.setattr(os, "replace", fail_at_second)

    def write() -> None:
        with staged(tmp_path / "x") as place:
            place.mkdir()

    with pytest.raises(OSError, match="lost"):
        write()
    assert [p.name for p in (tmp_path / "x").iterdir()] == ["old"]


def test_link_is_written_through(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "real.txt")
    with staged(tmp_path / "link.txt") as place:
        place.write_text("new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"
