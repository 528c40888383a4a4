# SPDX-License-Identifier: Apache-2.0
"""Run MONAI Label's own tests of its HTTP interface, as its wheel ships them, against our app.

``python tests/label/upstream.py [options of pytest]`` runs the files that ask nothing of a certain app. Their base
class names a sample app, a data set from the internet and its models; here it gets our app with a segmenter of one
threshold, and two phantoms called as theirs. The installed files stay as they are.
"""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import sys
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
from serving import AFFINE, add_segmenter, phantom_3d

from monai_n2v.label.__main__ import make_app

FILES = ("activelearning", "batch_infer", "datastore", "info", "logs", "proxy", "session")
N_TESTS = 25  # of these files in 0.8.5; fewer would mean that the others were not found


def installed() -> Path:
    """The tests' folder of the wheel."""
    spec = importlib.util.find_spec("monailabel")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("monailabel must be installed, got none. See constraints-label.txt.")
    return Path(spec.origin).parents[1] / "tests"


def make_studies(folder: Path) -> None:
    """Phantoms and labels by the names that the tests ask for."""
    (folder / "labels" / "final").mkdir(parents=True)
    for number in (3, 9):
        noisy = phantom_3d(number)[1]
        nibabel.save(nibabel.Nifti1Image(noisy, AFFINE), folder / f"spleen_{number}.nii.gz")
    label = (phantom_3d(3)[0] == 600).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(label, AFFINE), folder / "labels" / "final" / "spleen_3.nii.gz")


class OurApp:
    """Plugin of pytest: the tests' base class, pointed to our app."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.n_passed = 0
        add_segmenter(make_app(folder / "app"))  # without labels MONAI Label calls an app incomplete
        make_studies(folder / "data" / "studies")

    def pytest_configure(self, config) -> None:
        """As the tests import it, before they are collected."""
        sys.path.insert(0, str(installed()))
        context = importlib.import_module("unit.endpoints.context")
        suite, folder = context.BasicEndpointTestSuite, self.folder
        suite.app_dir, suite.data_dir = str(folder / "app"), str(folder / "data")
        suite.studies = str(folder / "data" / "studies")

        def start(cls) -> None:
            all_models = {"models": ""}  # instead of the sample app's
            cls.client = context.create_client(cls.app_dir, cls.studies, cls.data_dir, all_models)

        suite.setUpClass = classmethod(start)

    def pytest_runtest_logreport(self, report) -> None:
        self.n_passed += report.when == "call" and report.passed


def main(options: list[str]) -> int:
    folder = Path(tempfile.mkdtemp())
    try:
        plugin = OurApp(folder)
        files = [str(installed() / "unit" / "endpoints" / f"test_{name}.py") for name in FILES]
        # Nothing is left in the installed folder, and our own pytest settings are for our tests.
        quiet = ["-p", "no:cacheprovider", f"--rootdir={installed()}", "-c", "/dev/null", "-W", "default"]
        code = int(pytest.main([*quiet, *files, *options], plugins=[plugin]))
    finally:
        shutil.rmtree(folder)
    if code == 0 and not options and plugin.n_passed != N_TESTS:
        raise SystemExit(f"{N_TESTS} tests must pass, got {plugin.n_passed}. Look at what the wheel ships.")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
