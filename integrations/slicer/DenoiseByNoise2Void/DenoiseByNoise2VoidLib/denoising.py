# SPDX-License-Identifier: Apache-2.0
"""Denoising of a volume by ``monai-n2v`` in a process of its own. Plain Python: Slicer stands behind one object."""

from __future__ import annotations

import contextlib
import json
import queue
import shutil
import subprocess
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

# NRRD is Slicer's own: it holds every direction of axes, and values of every type.
SUFFIX = ".nrrd"
_PATIENCE = 10  # seconds for a process that was asked to end


class Scene(Protocol):
    """What is asked of Slicer; `scene.SlicerScene` asks it, a fake one in the tests."""

    def python(self) -> str:
        """Slicer's Python interpreter."""

    def launch(self, command: list[str]) -> subprocess.Popen[str]:
        """Start a command; standard error goes to standard output, as text."""

    def save_volume(self, volume: Any, path: Path) -> None:
        """Write a volume to a file."""

    def load_volume(self, path: Path, name: str, like: Any) -> Any:
        """Load a file as a volume, placed as ``like`` is."""

    def name_of(self, volume: Any) -> str:
        """What the volume is called."""

    def show_alike(self, volume: Any, like: Any) -> None:
        """Give a volume the window of another."""

    def show_beside(self, left: Any, right: Any) -> None:
        """Show two volumes in linked slice views beside each other."""


@dataclass(frozen=True)
class Options:
    """How to denoise.

    Attributes:
        adapt: train on this volume for ``seconds`` first; else the pretrained network alone denoises, in seconds.
        seconds: length of the training.
        residual: whether what was removed is loaded, too.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
    """

    adapt: bool = False
    seconds: int = 300
    residual: bool = False
    device: str = "auto"

    def __post_init__(self) -> None:
        """Refuse a training of no time."""
        if self.seconds <= 0:
            raise ValueError(f"Seconds must be above 0, got {self.seconds}. Use for example 300.")


@dataclass
class Outcome:
    """What became of a volume.

    Attributes:
        volume: denoised, as it was loaded.
        residual: what was removed, where that was asked for.
        warnings: what speaks against the result.
        error: what went wrong, in one sentence; empty where all went well.
        canceled: whether it was ended before.
    """

    volume: Any = None
    residual: Any = None
    warnings: list[str] = field(default_factory=list)
    error: str = ""
    canceled: bool = False


class Denoising:
    """One run: a volume goes out, a process works, a volume comes in. Ask `poll` now and then, from Slicer's thread.

    Args:
        scene: Slicer.
        volume: the noisy one.
        options: how.

    Attributes:
        messages: what the process has told so far.
    """

    def __init__(self, scene: Scene, volume: Any, options: Options) -> None:
        self.scene, self.volume, self.options = scene, volume, options
        self.messages: list[str] = []
        self._record: dict[str, Any] = {}
        self._lines: queue.Queue[str] = queue.Queue()
        self._canceled = False
        self._folder = Path(tempfile.mkdtemp(prefix="denoise_n2v_"))
        try:
            scene.save_volume(volume, self._noisy)
            self._process = scene.launch(self.command())
        except BaseException:
            self._remove()
            raise
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def _noisy(self) -> Path:
        return self._folder / f"noisy{SUFFIX}"

    @property
    def _denoised(self) -> Path:
        return self._folder / f"denoised{SUFFIX}"

    @property
    def _residual(self) -> Path:
        return self._folder / f"denoised_residual{SUFFIX}"

    def command(self) -> list[str]:
        """The command line of this run."""
        command = [self.scene.python(), "-m", "monai_n2v.cli", "denoise", "-i", str(self._noisy)]
        command += ["-o", str(self._denoised), "--json", "--device", self.options.device]
        command += ["--max-time", str(self.options.seconds)] if self.options.adapt else ["--fast"]
        return [*command, *(["--save-residual"] if self.options.residual else [])]

    def _read(self) -> None:
        # A thread of its own: reading waits, and Slicer's window must not.
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._lines.put(line.rstrip())

    def poll(self) -> Outcome | None:
        """Take what the process has told; when it has ended, load what it made.

        Returns:
            None while it works.
        """
        ended = self._process.poll() is not None
        if ended:
            self._reader.join()
        self._take_lines()
        if not ended:
            return None
        try:
            return self._outcome()
        finally:
            self._remove()

    def _take_lines(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                line = self._lines.get_nowait()
                if line.startswith("{"):
                    with contextlib.suppress(json.JSONDecodeError):
                        self._record = json.loads(line)
                        continue
                if line:
                    self.messages.append(line)

    def _outcome(self) -> Outcome:
        if self._canceled:
            return Outcome(canceled=True)
        if self._process.returncode != 0 or not self._denoised.is_file():
            told = [line.removeprefix("error: ") for line in self.messages if line.startswith("error: ")]
            last = self.messages[-1] if self.messages else f"it ended with {self._process.returncode} and said nothing"
            return Outcome(error=told[0] if told else last)
        name = self.scene.name_of(self.volume)
        found = Outcome(warnings=list(self._record.get("warnings", [])))
        found.volume = self.scene.load_volume(self._denoised, f"{name} denoised", self.volume)
        self.scene.show_alike(found.volume, self.volume)
        if self.options.residual and self._residual.is_file():
            found.residual = self.scene.load_volume(self._residual, f"{name} residual", self.volume)
        self.scene.show_beside(self.volume, found.volume)
        return found

    def cancel(self) -> None:
        """End the process; `poll` then tells that it was canceled, and nothing is left behind."""
        if self._process.poll() is not None:
            return
        self._canceled = True
        self._process.terminate()  # monai-n2v removes what it has begun
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
