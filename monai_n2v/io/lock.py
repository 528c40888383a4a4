# SPDX-License-Identifier: Apache-2.0
"""One training at a time in a folder: a file that names the process, which another one looks for."""

import contextlib
import json
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LOCK = ".monai_n2v.lock"


class Lock:
    """Hold a folder for this process, until `release` or the end of the process.

    A file tells process, its start and machine. One of a process that is no more counts for nothing, so that a killed
    training leaves nothing to clear away. Of another machine's processes nobody can tell: they count as alive. Within
    a process a lock may be taken again; the first one holds it.

    Args:
        folder: made if missing.

    Raises:
        FileExistsError: where another process has it.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK
        self._made = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        mine = _this_process()
        self._owns = False
        for _ in range(3):  # others may look at the same left file
            try:
                with self.path.open("x") as file:
                    json.dump(mine, file)
            except FileExistsError:
                other = _read(self.path)
                if other == mine:
                    return
                if _lives(other):
                    raise FileExistsError(
                        f"output must be free of other trainings, got process {other['pid']} at work in {folder}. "
                        f"Wait for its end, or choose another folder; if there is none, remove {self.path}."
                    ) from None
                self.path.unlink(missing_ok=True)
            else:
                self._owns = True
                return

    def release(self) -> None:
        """Let the folder go; one that was made for the lock alone is removed."""
        if self._owns:
            self._owns = False
            with contextlib.suppress(OSError):
                self.path.unlink()
                if self._made:
                    self.path.parent.rmdir()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder; see `Lock`."""
    lock = Lock(folder)
    try:
        yield
    finally:
        lock.release()


def _this_process() -> dict[str, Any]:
    import psutil

    return {"pid": os.getpid(), "started": psutil.Process().create_time(), "machine": platform.node()}


def _read(path: Path) -> dict[str, Any]:
    """What a lock tells; nothing of one that is damaged, or just being written."""
    try:
        if not path.stat().st_size:
            time.sleep(0.2)
        found = json.loads(path.read_text())
        return {"pid": int(found["pid"]), "started": float(found["started"]), "machine": str(found["machine"])}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _lives(process: dict[str, Any]) -> bool:
    import psutil

    if not process:
        return False
    if process["machine"] != platform.node():
        return True
    try:
        # A number is given again; then another process has it, of another start.
        return bool(abs(psutil.Process(process["pid"]).create_time() - process["started"]) < 1)
    except psutil.Error:
        return False
