# SPDX-License-Identifier: Apache-2.0
"""Files and folders that appear whole or not at all, no more readable than what they come from."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Of the folders that are worked in; no part of a user's names, which may be as long as the file system allows.
_PREFIX = ".monai_n2v_"
_LOCK = "lock"
_SWEPT = "_swept"
_LITTLE = 1 << 20  # bytes: a disk is full
_OTHERS = 0o077  # the bits of group and others


@contextlib.contextmanager
def scratch(folder: Path | None = None) -> Iterator[Path]:
    """Give a folder for passing files, for this user alone, and remove it in the end.

    What a process left that was killed is removed by the next one that works beside it.

    Args:
        folder: where; by default that of the system for temporary files.

    Yields:
        the folder.
    """
    place = Path(tempfile.gettempdir()) if folder is None else folder
    with contextlib.suppress(OSError):
        _sweep(place)
    work, lock = _own_folder(place)
    try:
        yield Path(work.name) / "files"
    finally:
        work.cleanup()
        os.close(lock)


def _own_folder(place: Path) -> tuple["tempfile.TemporaryDirectory[str]", int]:
    """Make a folder and lock it. Until it is locked another process may take it for a left one: then again."""
    while True:
        work = tempfile.TemporaryDirectory(prefix=_PREFIX, dir=place, ignore_cleanup_errors=True)
        with contextlib.suppress(FileNotFoundError):
            (Path(work.name) / "files").mkdir()
            lock = os.open(Path(work.name) / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            if _take(lock) is not False and Path(work.name, "files").is_dir():
                return work, lock
            os.close(lock)
        work.cleanup()


def _take(lock: int) -> bool | None:
    """Lock a file for as long as this process lives; False where another one has it, None where locks are unknown."""
    try:
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # Windows, some file systems of networks
        return None
    return True


def _sweep(place: Path) -> None:
    """Remove the folders of processes that are no more: those let go of their lock."""
    for left in place.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            lock = os.open(left / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                if _take(lock):
                    # Moved first, as a whole: an owner that was about to lock it must find all or nothing.
                    shutil.rmtree(left.rename(f"{left}{_SWEPT}"), ignore_errors=True)
            finally:
                os.close(lock)


@contextlib.contextmanager
def staged(path: str | Path, readers: int = 0o777) -> Iterator[Path]:
    """Write beside the place of a file or folder, under the same name; move there when all went well.

    Files written next to it, such as the voxels of a two-file format, move along. What stood at ``path`` is replaced;
    who could not read that, can read nothing of the new.

    Args:
        path: of the file or folder to be; its parent is made.
        readers: permissions that its files may have at most, see `readers_of`.

    Yields:
        where to write it.

    Raises:
        OSError: where it cannot be written; then nothing is left behind, and what stood there stays.
    """
    path = Path(os.path.realpath(path))  # of a link, what it points to
    path.parent.mkdir(parents=True, exist_ok=True)
    with scratch(path.parent) as work:
        stage, replaced = work / "new", work / "old"
        stage.mkdir()
        replaced.mkdir()
        try:
            yield stage / path.name
        except Exception as error:
            # Libraries say it in words of their own, such as "enforce fail at inline_container.cc".
            if isinstance(error, OSError) or shutil.disk_usage(path.parent).free > _LITTLE:
                raise
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        # The named file may refer to the others: it comes last.
        for part in sorted(stage.iterdir(), key=lambda p: (p.name == path.name, p.name)):
            target = path.parent / part.name
            _restrict(part, readers & (readers_of(target) if target.exists() else 0o777))
            old = replaced / part.name
            if target.is_dir():  # a folder can only be moved to where none is
                os.replace(target, old)
            try:
                os.replace(part, target)
            except BaseException:
                if old.exists():
                    os.replace(old, target)
                raise


def readers_of(path: str | Path) -> int:
    """Who may read a file where it lies: its own permissions, less those that its folder takes away.

    Args:
        path: of a file or folder.

    Returns:
        permissions, always with those of the owner.
    """
    mode, above = Path(path).stat().st_mode, Path(path).absolute().parent.stat().st_mode
    for shift in (0, 3):  # others, group: without their right to enter the folder they have none
        if not above >> shift & 1:
            mode &= ~(0o7 << shift)
    return 0o700 | mode & _OTHERS


def _restrict(part: Path, readers: int) -> None:
    """Take permissions of group and others away; a folder is entered by those who may read."""
    for one in [part, *part.rglob("*")] if part.is_dir() else [part]:
        mode = one.stat().st_mode & 0o777
        allowed = readers | (readers & 0o044) >> 2 if one.is_dir() else readers
        if mode & _OTHERS & ~allowed:
            one.chmod(mode & (allowed | 0o700))
