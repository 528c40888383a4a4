# SPDX-License-Identifier: Apache-2.0
"""Files that MONAI Label has stored for a client."""

import re
import tempfile
from pathlib import Path
from typing import Any


def is_upload(path: Path) -> bool:
    """Whether MONAI Label has stored the file for a client, under a name that nobody can guess."""
    return path.parent == Path(tempfile.gettempdir()) and re.fullmatch(r"tmp\w{8}(\..*)?", path.name) is not None


def remove_upload(image: Any) -> None:
    """Remove a file that MONAI Label has stored for a client: after a refusal it would leave it, a patient's image."""
    path = Path(str(image))
    if is_upload(path) and path.is_file():
        path.unlink(missing_ok=True)
