# SPDX-License-Identifier: Apache-2.0
"""Files and folders that appear whole or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def staged(path: str | Path) -> Iterator[Path]:
    """Write beside the place of a file or folder, under the same name; move there when all went well.

    Files written next to it, such as the voxels of a two-file format, move along. What stood at ``path`` is replaced.

    Args:
        path: of the file or folder to be; its parent is made.

    Yields:
        where to write it.

    Raises:
        OSError: where it cannot be written; then nothing is left behind, and what stood there stays.
    """
    path = Path(os.path.realpath(path))  # of a link, what it points to
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as work:
        stage, replaced = Path(work) / "new", Path(work) / "old"
        stage.mkdir()
        replaced.mkdir()
        yield stage / path.name
        # The named file may refer to the others: it comes last.
        for part in sorted(stage.iterdir(), key=lambda p: (p.name == path.name, p.name)):
            target = path.parent / part.name
            old = replaced / part.name
            if target.is_dir():  # a folder can only be moved to where none is
                os.replace(target, old)
            try:
                os.replace(part, target)
            except BaseException:
                if old.exists():
                    os.replace(old, target)
                raise
