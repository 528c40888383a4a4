# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from samples import dicom_series

from monai_n2v.io.atomic import staged
from monai_n2v.io.images import read_volume, save_volume


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


def mode(path) -> int:
    return path.stat().st_mode & 0o777


@pytest.fixture
def _open_to_all():
    before = os.umask(0o022)
    yield
    os.umask(before)


def write(path, **options) -> None:
    with staged(path, **options) as place:
        assert place.parent.parent.parent.stat().st_mode & 0o077 == 0, "what is passing is the user's alone"
        place.write_text("new")


@pytest.mark.usefixtures("_open_to_all")
def test_file_is_no_more_readable_than_the_one_it_replaces(tmp_path):
    (tmp_path / "x.txt").touch(mode=0o600)
    write(tmp_path / "x.txt")
    write(tmp_path / "new.txt")
    assert mode(tmp_path / "x.txt") == 0o600
    assert mode(tmp_path / "new.txt") == 0o644


@pytest.mark.usefixtures("_open_to_all")
@pytest.mark.parametrize(
    ("file_mode", "folder_mode", "allowed"),
    [(0o644, 0o755, 0o644), (0o600, 0o755, 0o600), (0o644, 0o700, 0o600), (0o644, 0o750, 0o640), (0o440, 0o755, 0o640)],
)
def test_result_is_no_more_readable_than_its_source(file_mode, folder_mode, allowed, tmp_path):
    private = tmp_path / "private"
    private.mkdir()
    np.save(private / "in.npy", np.eye(9))
    (private / "in.npy").chmod(file_mode)
    private.chmod(folder_mode)
    volume = read_volume(private / "in.npy")
    save_volume(volume.data, volume, tmp_path / "out.npy")
    assert mode(tmp_path / "out.npy") == allowed


@pytest.mark.usefixtures("_open_to_all")
def test_series_of_a_private_folder_stays_private(tmp_path):
    (tmp_path / "private").mkdir(mode=0o700)
    dicom_series(tmp_path / "private" / "in", np.zeros((9, 8, 3), np.uint16) + np.arange(3, dtype=np.uint16), np.eye(4))
    (tmp_path / "private" / "in").chmod(0o700)
    volume = read_volume(tmp_path / "private" / "in")
    save_volume(volume.data, volume, tmp_path / "out")
    assert mode(tmp_path / "out") == 0o700
    assert {mode(path) for path in (tmp_path / "out").iterdir()} == {0o600}


def test_what_a_killed_process_left_is_swept_and_nothing_else(tmp_path):
    text = (
        "import os, signal, sys; from pathlib import Path; from monai_n2v.io.atomic import staged\n"
        "with staged(Path(sys.argv[1]) / 'x.txt') as place:\n"
        "    place.write_text('half'); print('ready', flush=True); signal.pause()\n"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", text, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        assert all(process.stdout.readline() == "ready\n" for process in started)
        started[0].kill()
        started[0].wait()
        assert len(list(tmp_path.iterdir())) == 2
        write(tmp_path / "y.txt")
        assert len(list(tmp_path.iterdir())) == 2, "that of the living one, and the new file"
    finally:
        for process in started:
            process.kill()
            process.wait()
            process.stdout.close()
    write(tmp_path / "y.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["y.txt"]


@pytest.mark.parametrize("made", [[], ["files"], ["files", "lock"], ["files", "files/new", "lock"]])
def test_process_killed_at_any_moment_leaves_nothing_for_good(made, tmp_path):
    left = tmp_path / ".monai_n2v_left"
    left.mkdir()
    for name in made:
        (left / name).touch() if name == "lock" else (left / name).mkdir()
    write(tmp_path / "x.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["x.txt"]


def test_processes_that_write_into_one_folder_do_not_sweep_each_other(tmp_path):
    text = (
        "import sys; from pathlib import Path; from monai_n2v.io.atomic import staged\n"
        "for number in range(200):\n"
        "    with staged(Path(sys.argv[1]) / sys.argv[2]) as place:\n"
        "        place.write_text(str(number))\n"
    )
    started = [subprocess.Popen([sys.executable, "-c", text, str(tmp_path), name]) for name in "abc"]
    assert [process.wait(120) for process in started] == [0, 0, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]
    assert {path.read_text() for path in tmp_path.iterdir()} == {"199"}


def test_longest_name_is_written(tmp_path):
    name = "x" * (os.pathconf(tmp_path, "PC_NAME_MAX") - 4) + ".txt"
    write(tmp_path / name)
    assert (tmp_path / name).read_text() == "new"


@pytest.mark.parametrize("free", [0, 1 << 30])
def test_full_disk_is_called_so_whatever_a_library_says(free, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)

    def fail() -> None:
        with staged(tmp_path / "x.pt"):
            raise RuntimeError("enforce fail at inline_container.cc")

    with pytest.raises(RuntimeError if free else OSError, match="enforce fail" if free else "No space left .*x.pt"):
        fail()
    assert list(tmp_path.iterdir()) == []
