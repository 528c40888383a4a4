# SPDX-License-Identifier: Apache-2.0
"""3D Slicer's module "Denoise by Noise2Void": the buttons. `DenoiseByNoise2VoidLib` does the work."""

from __future__ import annotations

import ctk
import qt
import slicer
from DenoiseByNoise2VoidLib.denoising import Denoising, Options
from DenoiseByNoise2VoidLib.scene import PACKAGE, SlicerScene
from slicer.ScriptedLoadableModule import ScriptedLoadableModule, ScriptedLoadableModuleWidget

_INTERVAL = 300  # milliseconds between two looks at the process


class DenoiseByNoise2Void(ScriptedLoadableModule):
    """What Slicer lists."""

    def __init__(self, parent) -> None:  # noqa: ANN001 - of Slicer
        super().__init__(parent)
        self.parent.title = "Denoise by Noise2Void"
        self.parent.categories = ["Filtering.Denoising"]
        self.parent.dependencies = []
        self.parent.contributors = ["The monai_n2v developers"]
        self.parent.helpText = (
            "Denoises a volume by a network that has learned from noisy images alone. <b>Denoise now</b> takes the "
            "pretrained network, in seconds. <b>Adapt and denoise</b> trains it on this volume first, which takes "
            "minutes. Look at the residual: it must show noise alone, no anatomy. Research only, not for diagnosis."
        )
        self.parent.acknowledgementText = "Noise2Void: Krull, Buchholz and Jug, CVPR 2019. Built on MONAI."


class DenoiseByNoise2VoidWidget(ScriptedLoadableModuleWidget):
    """The panel of the module."""

    def setup(self) -> None:
        """Build it."""
        super().setup()
        self.scene, self.run = SlicerScene(), None
        self.timer = qt.QTimer()
        self.timer.setInterval(_INTERVAL)
        self.timer.connect("timeout()", self.on_timer)
        box = ctk.ctkCollapsibleButton()
        box.text = "Denoise"
        self.layout.addWidget(box)
        form = qt.QFormLayout(box)
        self.selector = slicer.qMRMLNodeComboBox()
        self.selector.nodeTypes = ["vtkMRMLScalarVolumeNode"]
        self.selector.showChildNodeTypes = False  # label maps
        self.selector.addEnabled = self.selector.removeEnabled = False
        self.selector.noneEnabled = False
        self.selector.setMRMLScene(slicer.mrmlScene)
        self.selector.connect("currentNodeChanged(vtkMRMLNode*)", lambda _: self.update())
        form.addRow("Volume:", self.selector)
        self.seconds = qt.QSpinBox()
        self.seconds.setRange(10, 36000)
        self.seconds.setValue(300)
        form.addRow("Seconds to adapt:", self.seconds)
        self.residual = qt.QCheckBox()
        form.addRow("Load the residual:", self.residual)
        self.install = self._button(form, "Install", self.on_install)
        self.now = self._button(form, "Denoise now", lambda: self.on_start(adapt=False))
        self.adapt = self._button(form, "Adapt and denoise", lambda: self.on_start(adapt=True))
        self.cancel = self._button(form, "Cancel", self.on_cancel)
        self.log = qt.QPlainTextEdit()
        self.log.readOnly = True
        form.addRow(self.log)
        self.layout.addStretch(1)
        self.update()

    def _button(self, form, text: str, action) -> qt.QPushButton:  # noqa: ANN001 - of Qt
        button = qt.QPushButton(text)
        button.connect("clicked()", action)
        form.addRow(button)
        return button

    def update(self) -> None:
        """Enable what can be pressed now."""
        missing, runs = self.scene.missing(), self.run is not None
        self.install.visible = bool(missing)
        for button in (self.now, self.adapt):
            button.enabled = not missing and not runs and self.selector.currentNode() is not None
        self.cancel.enabled = runs
        if missing:
            self.log.setPlainText(missing)

    def on_install(self) -> None:
        """Install the package, after asking."""
        if slicer.util.confirmOkCancelDisplay(
            f"Install {PACKAGE} and PyTorch into Slicer's Python? This loads up to 2 GB."
        ):
            with slicer.util.tryWithErrorDisplay("The installation failed.", waitCursor=True):
                self.scene.install()
                self.log.setPlainText("")
        self.update()

    def on_start(self, adapt: bool) -> None:
        """Start a run."""
        options = Options(adapt, self.seconds.value, self.residual.checked)
        self.log.setPlainText("Research only, not for diagnosis.")
        with slicer.util.tryWithErrorDisplay("Denoising could not start."):
            self.run = Denoising(self.scene, self.selector.currentNode(), options)
            self.timer.start()
        self.update()

    def on_timer(self) -> None:
        """Look at the run."""
        n_told = len(self.run.messages)
        found = None
        with slicer.util.tryWithErrorDisplay("The result could not be loaded."):
            try:
                found = self.run.poll()
            except BaseException:
                self._end()
                raise
        for message in self.run.messages[n_told:] if self.run is not None else ():
            self.log.appendPlainText(message)
        if found is None:
            return
        for warning in found.warnings:
            self.log.appendPlainText(f"Look closely: {warning}")
        self._end()
        if found.canceled:
            self.log.appendPlainText("Canceled.")
        elif found.error:
            slicer.util.errorDisplay(found.error)

    def _end(self) -> None:
        self.timer.stop()
        self.run = None
        self.update()

    def on_cancel(self) -> None:
        """End the run."""
        if self.run is not None:
            self.run.cancel()
            self.on_timer()

    def cleanup(self) -> None:
        """Leave no process behind when Slicer closes."""
        self.timer.stop()
        if self.run is not None:
            self.run.cancel()
            self.run.poll()
            self.run = None
