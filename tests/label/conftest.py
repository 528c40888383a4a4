# SPDX-License-Identifier: Apache-2.0
"""Apps to test: one that nothing was trained in, one that was.

MONAI Label wants an environment of its own (``constraints-label.txt``); without it these tests are skipped.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from label.serving import FEATURES, Server, make_small, make_studies

try:
    import monailabel.interfaces.app  # noqa: F401
except (ImportError, RuntimeError) as error:  # RuntimeError: torch and torchvision of different builds
    MISSING = f"MONAI Label cannot be imported: {error}"
else:
    MISSING = ""


def pytest_report_header() -> str:
    return MISSING or "MONAI Label: importable"


def pytest_collection_modifyitems(items) -> None:
    """Without MONAI Label only what must work without it is tested: its pydicom and this package's do not agree.

    The stage of `.ci/run` for it makes sure first that it can be imported.
    """
    here = Path(__file__).parent
    for item in items:
        if MISSING and item.path.parent == here and item.path.name != "test_label_folder.py":
            item.add_marker(pytest.mark.skip(reason=MISSING))


@pytest.fixture(scope="session")
def small_app(tmp_path_factory) -> Path:
    """An app as ``init`` makes it, with small networks; to be copied before something is trained in it."""
    from monai_n2v.label.__main__ import main

    folder = tmp_path_factory.mktemp("app") / "app"
    assert main(["init", str(folder)]) == 0
    make_small(folder)
    return folder


@pytest.fixture
def server(small_app, tmp_path):
    """An app that nothing was trained in, and three noisy phantoms."""
    app_dir = tmp_path / "app"
    shutil.copytree(small_app, app_dir)
    return Server(app_dir, make_studies(tmp_path / "studies"))


@pytest.fixture(scope="session")
def trained_app(small_app, tmp_path_factory) -> Path:
    """An app whose networks were trained on three phantoms, through its own interface."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(small_app, folder / "app")
    server = Server(folder / "app", make_studies(folder / "studies"))
    for name in FEATURES:
        answer = server.train(name, max_epochs=25, device="cpu")
        assert answer.status_code == 200, answer.text
    return folder / "app"


@pytest.fixture
def trained(trained_app, tmp_path):
    """A trained app of one's own, and the phantoms it was trained on."""
    app_dir = tmp_path / "app"
    shutil.copytree(trained_app, app_dir)
    return Server(app_dir, make_studies(tmp_path / "studies"))
