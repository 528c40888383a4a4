# SPDX-License-Identifier: Apache-2.0
"""The module for 3D Slicer, without Slicer: its logic against a scene that records, its panel against stand-ins."""

from __future__ import annotations

import importlib
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
from conftest import phantom

MODULE = Path(__file__).parents[2] / "integrations" / "slicer" / "DenoiseByNoise2Void"
DIRECTION = np.array([[0.0, -1.5, 0], [0.8, 0, 0], [0, 0, 2.0]])


@pytest.fixture
def lib(monkeypatch):
    """The module's plain part."""
    monkeypatch.syspath_prepend(str(MODULE))
    yield importlib.import_module("DenoiseByNoise2VoidLib.denoising")
    for name in [name for name in sys.modules if name.startswith("DenoiseByNoise2Void")]:
        del sys.modules[name]


class FakeScene:
    """Records what it is asked for; writes and reads volumes, arrays here, as NRRD."""

    def __init__(self, script: str | None = None) -> None:
        self.script, self.calls, self.loaded = script, [], {}
        self.command: list[str] = []

    def python(self) -> str:
        return sys.executable

    def launch(self, command):
        self.command = command
        if self.script is not None:
            command = [sys.executable, "-u", "-c", self.script, *command]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def save_volume(self, volume, path):
        import nrrd

        self.calls.append("save")
        header = {"space": "left-posterior-superior", "space directions": DIRECTION, "space origin": [1.0, 2, 3]}
        nrrd.write(str(path), volume, header)

    def load_volume(self, path, name, like):
        import nrrd

        self.calls.append(f"load {name}")
        values, header = nrrd.read(str(path))
        assert np.allclose(header["space directions"], DIRECTION)
        self.loaded[name] = values
        return name

    def name_of(self, volume):
        return "head"

    def show_alike(self, volume, like):
        self.calls.append(f"window of {volume}")

    def show_beside(self, left, right):
        self.calls.append(f"beside {right}")


def finished(run, seconds: float = 120):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = run.poll()
        if found is not None:
            return found
        time.sleep(0.05)
    raise TimeoutError(run.messages)


NOISY = phantom((20, 24, 18))[1]


@pytest.mark.slow
@pytest.mark.parametrize("adapt", [False, True])
def test_volume_is_denoised_by_the_real_command_and_loaded_beside(lib, adapt):
    scene = FakeScene()
    run = lib.Denoising(scene, NOISY, lib.Options(adapt=adapt, seconds=5, residual=True, device="cpu"))
    found = finished(run)
    assert found.error == ""
    assert scene.calls == [
        "save", "load head denoised", "window of head denoised", "load head residual", "beside head denoised",
    ]  # fmt: skip
    denoised, residual = scene.loaded["head denoised"], scene.loaded["head residual"]
    assert denoised.shape == NOISY.shape
    assert np.allclose(denoised + residual, NOISY, atol=1e-3)
    assert residual.std() > 1
    assert isinstance(found.warnings, list)
    assert not run._folder.exists()


FAKE = """
import pathlib, shutil, sys
out = pathlib.Path(sys.argv[sys.argv.index("-o") + 1])
print("Training", file=sys.stderr)
shutil.copyfile(sys.argv[sys.argv.index("-i") + 1], out)
print('{"status": "done", "warnings": ["The residual shows structure."]}')
"""


def test_command_asks_for_what_was_chosen(lib):
    for options, words in (
        (lib.Options(), ["--fast"]),
        (lib.Options(adapt=True, seconds=60), ["--max-time", "60"]),
        (lib.Options(residual=True), ["--fast", "--save-residual"]),
    ):
        scene = FakeScene(FAKE)
        assert finished(lib.Denoising(scene, NOISY, options)).error == ""
        folder = Path(scene.command[scene.command.index("-i") + 1]).parent
        places = ["-i", str(folder / "noisy.nrrd"), "-o", str(folder / "denoised.nrrd")]
        start = [sys.executable, "-m", "monai_n2v.cli", "denoise", *places, "--json", "--device", "auto"]
        assert scene.command == [*start, *words]
        from monai_n2v.cli.options import make_parser

        make_parser().parse_args(scene.command[3:])  # all of them are known there
    with pytest.raises(ValueError, match="Seconds must be above 0"):
        lib.Options(adapt=True, seconds=0)


def test_warnings_and_messages_are_told_and_no_residual_is_loaded_unasked(lib):
    scene = FakeScene(FAKE)
    run = lib.Denoising(scene, NOISY, lib.Options())
    found = finished(run)
    assert found.warnings == ["The residual shows structure."]
    assert run.messages == ["Training"]
    assert found.residual is None
    assert found.volume == "head denoised"


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("print('x'); print('error: image must vary, got the constant 7.'); raise SystemExit(1)", "image must vary"),
        ("raise SystemExit(3)", "it ended with 3 and said nothing"),
        ("print('No module named monai_n2v'); raise SystemExit(1)", "No module named monai_n2v"),
        ("print('{broken')", "{broken"),
    ],
)
def test_failure_is_told_in_one_sentence_and_nothing_is_loaded(lib, script, told):
    scene = FakeScene(script)
    run = lib.Denoising(scene, NOISY, lib.Options())
    found = finished(run)
    assert found.error.startswith(told)
    assert scene.calls == ["save"]
    assert not run._folder.exists()


@pytest.mark.parametrize("obeys", [True, False])
def test_cancel_ends_the_process_and_leaves_nothing(lib, obeys, monkeypatch):
    monkeypatch.setattr(lib, "_PATIENCE", 0.5)
    deaf = "" if obeys else "signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    scene = FakeScene(f"import signal, time; {deaf} print('begun'); time.sleep(600)")
    run = lib.Denoising(scene, NOISY, lib.Options())
    while not run.messages:
        assert run.poll() is None
        time.sleep(0.02)
    run.cancel()
    found = finished(run, 10)
    assert found.canceled
    assert found.error == ""
    assert scene.calls == ["save"]
    assert not run._folder.exists()
    run.cancel()  # once more: nothing to do


def test_volume_that_cannot_be_written_leaves_nothing(lib, monkeypatch, tmp_path):
    monkeypatch.setattr(lib.tempfile, "tempdir", str(tmp_path))
    scene = FakeScene()
    scene.save_volume = MagicMock(side_effect=OSError("disk full"))
    with pytest.raises(OSError, match="disk full"):
        lib.Denoising(scene, NOISY, lib.Options())
    assert list(tmp_path.iterdir()) == []


class Base:
    """Of Slicer's scripted modules, what ours call."""

    def __init__(self, parent=None) -> None:
        self.parent, self.layout = parent, MagicMock()

    def setup(self) -> None:
        pass


@pytest.fixture
def slicer(lib, monkeypatch):
    """Stand-ins for the modules that Slicer brings; a call that they get is on record."""
    found = MagicMock()
    bases = MagicMock(ScriptedLoadableModule=Base, ScriptedLoadableModuleWidget=Base)
    qt = MagicMock(QPushButton=lambda text: MagicMock(text=text))  # else all buttons would be one
    stand_ins = {"slicer": found, "slicer.ScriptedLoadableModule": bases, "qt": qt, "ctk": MagicMock()}
    for name, one in stand_ins.items():
        monkeypatch.setitem(sys.modules, name, one)
    return found


def test_scene_asks_slicer(slicer, lib, tmp_path, monkeypatch):
    scene = importlib.import_module("DenoiseByNoise2VoidLib.scene").SlicerScene()
    volume, other = MagicMock(), MagicMock()
    volume.GetName.return_value = "head"
    scene.save_volume(volume, tmp_path / "a.nrrd")
    slicer.util.saveNode.assert_called_once_with(volume, str(tmp_path / "a.nrrd"), {"useCompression": 0})
    slicer.util.saveNode.return_value = False
    with pytest.raises(OSError, match="head could not be written"):
        scene.save_volume(volume, tmp_path / "a.nrrd")
    loaded = scene.load_volume(tmp_path / "a.nrrd", "head denoised", volume)
    loaded.SetAndObserveTransformNodeID.assert_called_once_with(volume.GetTransformNodeID())
    assert scene.name_of(volume) == "head"
    scene.show_alike(other, volume)
    window = volume.GetDisplayNode()
    other.GetDisplayNode().SetWindowLevel.assert_called_once_with(window.GetWindow(), window.GetLevel())
    scene.show_beside(volume, other)
    assert [call.args[0] for call in slicer.app.layoutManager().sliceWidget.call_args_list] == ["Red", "Yellow"]
    scene.launch(["a", "b"])
    slicer.util.launchConsoleProcess.assert_called_once_with(["a", "b"])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="PythonSlicer must be beside"):
        scene.python()
    (tmp_path / "PythonSlicer").write_text("")
    (tmp_path / "PythonSlicer").chmod(0o755)
    assert scene.python() == str(tmp_path / "PythonSlicer")
    assert scene.missing() == ""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert scene.missing().endswith("Press Install.")
    monkeypatch.setattr(sys, "version_info", (3, 9, 10))
    assert "Take a newer Slicer." in scene.missing()
    scene.install()
    slicer.util.pip_install.assert_called_once_with("monai-n2v")


def test_panel_starts_shows_and_ends_a_run(slicer, lib):
    module = importlib.import_module("DenoiseByNoise2Void")
    about = module.DenoiseByNoise2Void(MagicMock())
    assert about.parent.title == "Denoise by Noise2Void"
    panel = module.DenoiseByNoise2VoidWidget()
    panel.setup()
    panel.scene = FakeScene(FAKE)
    panel.scene.missing = lambda: ""
    panel.selector.currentNode.return_value = NOISY
    panel.seconds.value, panel.residual.checked = 300, False
    panel.on_start(adapt=False)
    assert panel.cancel.enabled
    assert not panel.now.enabled
    while panel.run is not None:
        panel.on_timer()
        time.sleep(0.02)
    assert panel.now.enabled
    assert panel.scene.calls[-1] == "beside head denoised"
    told = [call.args[0] for call in panel.log.appendPlainText.call_args_list]
    assert told == ["Training", "Look closely: The residual shows structure."]
    panel.scene.script = "import time; time.sleep(600)"
    panel.on_start(adapt=True)
    panel.on_cancel()
    assert panel.run is None
    assert panel.log.appendPlainText.call_args.args == ("Canceled.",)
    panel.on_start(adapt=True)
    process = panel.run._process
    panel.cleanup()
    assert process.poll() is not None, "no process outlives Slicer"
    panel.scene.script = "print('error: bad'); raise SystemExit(1)"
    panel.on_start(adapt=False)
    while panel.run is not None:
        panel.on_timer()
        time.sleep(0.02)
    slicer.util.errorDisplay.assert_called_once_with("bad")


def test_cmake_names_every_file():
    listed = (MODULE / "CMakeLists.txt").read_text().replace("${MODULE_NAME}", "DenoiseByNoise2Void")
    for path in MODULE.rglob("*.py"):
        assert str(path.relative_to(MODULE)) in listed
    assert "add_subdirectory(DenoiseByNoise2Void)" in (MODULE.parent / "CMakeLists.txt").read_text()
