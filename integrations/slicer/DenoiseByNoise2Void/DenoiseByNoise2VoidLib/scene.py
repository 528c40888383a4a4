# SPDX-License-Identifier: Apache-2.0
"""Everything that is asked of 3D Slicer, in one object: nothing else of this module imports ``slicer``."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import slicer

PACKAGE = "monai-n2v"
_OLDEST = (3, 10)  # Python of monai_n2v


class SlicerScene:
    """3D Slicer, as `denoising.Denoising` speaks to it."""

    def python(self) -> str:
        """Slicer's Python interpreter, which sets up its own environment.

        Raises:
            FileNotFoundError: where there is none.
        """
        found = shutil.which("PythonSlicer")
        if found is None:
            raise FileNotFoundError("PythonSlicer must be beside Slicer's program, got none. Install Slicer anew.")
        return found

    def launch(self, command: list[str]) -> subprocess.Popen[str]:
        """Start a command; its standard error goes to standard output, as text."""
        process: subprocess.Popen[str] = slicer.util.launchConsoleProcess(command)
        return process

    def save_volume(self, volume: Any, path: Path) -> None:
        """Write a volume to a file, uncompressed: it is read again at once."""
        if not slicer.util.saveNode(volume, str(path), {"useCompression": 0}):
            raise OSError(f"{volume.GetName()} could not be written to {path}. Is the disk full?")

    def load_volume(self, path: Path, name: str, like: Any) -> Any:
        """Load a file as a volume; it moves as ``like`` does."""
        volume = slicer.util.loadVolume(str(path), {"name": name, "show": False})
        volume.SetAndObserveTransformNodeID(like.GetTransformNodeID())
        # The file is removed: saving the scene is to ask for a place of its own.
        volume.SetAndObserveStorageNodeID(None)
        return volume

    def name_of(self, volume: Any) -> str:
        """What the volume is called."""
        return str(volume.GetName())

    def show_alike(self, volume: Any, like: Any) -> None:
        """Give a volume the window of another."""
        volume.CreateDefaultDisplayNodes()
        display, model = volume.GetDisplayNode(), like.GetDisplayNode()
        if model is None:
            return
        display.SetAutoWindowLevel(False)
        display.SetWindowLevel(model.GetWindow(), model.GetLevel())
        display.SetAndObserveColorNodeID(model.GetColorNodeID())

    def show_beside(self, left: Any, right: Any) -> None:
        """Show two volumes in linked slice views beside each other."""
        layout = slicer.app.layoutManager()
        layout.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutSideBySideView)
        for name, volume in (("Red", left), ("Yellow", right)):
            logic = layout.sliceWidget(name).sliceLogic()
            logic.GetSliceCompositeNode().SetBackgroundVolumeID(volume.GetID())
            logic.GetSliceCompositeNode().SetLinkedControl(True)
            logic.GetSliceNode().SetOrientationToAxial()
        slicer.util.resetSliceViews()

    def missing(self) -> str:
        """Why denoising cannot start; empty where it can."""
        if sys.version_info < _OLDEST:
            return (
                f"{PACKAGE} must have Python {'.'.join(map(str, _OLDEST))} or newer, got {sys.version.split()[0]} in "
                "this Slicer. Take a newer Slicer."
            )
        if importlib.util.find_spec("monai_n2v") is None:
            return f"{PACKAGE} must be installed in Slicer's Python, got none. Press Install."
        return ""

    def install(self, package: str = PACKAGE) -> None:
        """Install the package into Slicer's Python; PyTorch is as large as 2 GB."""
        slicer.util.pip_install(package)
        importlib.invalidate_caches()
