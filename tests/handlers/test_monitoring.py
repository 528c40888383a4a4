# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import phantom
from ignite.engine import Engine

from monai_n2v.handlers.monitoring import ImagePanel, SettingsRecord, TrainingBar, WeightHistograms


@pytest.mark.parametrize("max_time", [None, 5.0])
def test_bar_runs_and_closes(max_time, capsys):
    engine = Engine(lambda e, b: {"loss": torch.tensor(0.25)})
    bar = TrainingBar(max_time)
    bar.attach(engine)
    engine.run(range(3), max_epochs=2)
    assert "training" in capsys.readouterr().err
    assert bar._bar.disable, "not closed"
    failing = Engine(lambda e, b: 1 / 0)
    TrainingBar(max_time).attach(failing)
    with pytest.raises(ZeroDivisionError):
        failing.run([0])


class Writer:
    """What a SummaryWriter would be given."""

    def __init__(self) -> None:
        self.images: list[tuple[str, np.ndarray, int]] = []
        self.histograms: list[tuple[str, int]] = []

    def add_image(self, tag, image, step, dataformats):
        assert dataformats == "HW"
        self.images.append((tag, np.asarray(image), step))

    def add_histogram(self, tag, values, step):
        self.histograms.append((tag, step))


@pytest.mark.parametrize("shape", [(20, 24), (20, 24, 9)])
def test_panel_shows_noisy_denoised_and_removed_of_the_first_batch(shape):
    clean, noisy = phantom(shape)
    label, pred = (torch.from_numpy(image).expand(6, 1, *shape) for image in (noisy, clean))
    writer = Writer()
    engine = Engine(lambda e, b: {"pred": pred if e.state.iteration % 3 == 1 else 0 * pred})
    ImagePanel(writer, n_patches=2).attach(engine)
    engine.run([{"label": label, "mask": label > 0}] * 3, max_epochs=2)
    assert [step for _, _, step in writer.images] == [1, 2]
    panel = writer.images[0][1]
    assert panel.shape == (2 * 20, 3 * 24)
    assert 0 <= panel.min() <= panel.max() <= 1
    parts = [panel[:20, k * 24 : (k + 1) * 24].ravel() for k in range(3)]
    middle = [image[..., 4].ravel() if image.ndim == 3 else image.ravel() for image in (noisy, clean)]
    assert np.corrcoef(parts[0], middle[0])[0, 1] > 0.98
    assert np.corrcoef(parts[1], middle[1])[0, 1] > 0.98
    assert np.corrcoef(parts[2], middle[0] - middle[1])[0, 1] > 0.98
    assert parts[2].mean() == pytest.approx(0.5, abs=0.02), "zero must be the middle gray"


def test_panel_of_constant_patches_is_finite():
    writer = Writer()
    engine = Engine(lambda e, b: {"pred": torch.ones(1, 1, 8, 8)})
    ImagePanel(writer).attach(engine)
    engine.run([{"image": torch.ones(1, 1, 8, 8), "label": torch.ones(1, 1, 8, 8)}])
    assert np.isfinite(writer.images[0][1]).all()


@pytest.mark.parametrize("enabled", [False, True])
def test_histograms_are_written_only_where_asked(enabled):
    writer = Writer()
    engine = Engine(lambda e, b: None)
    WeightHistograms(writer, torch.nn.Linear(2, 2), enabled).attach(engine)
    engine.run([0], max_epochs=2)
    assert writer.histograms == ([("weight", 1), ("bias", 1), ("weight", 2), ("bias", 2)] if enabled else [])


def test_settings_are_recorded_when_the_run_starts(tmp_path):
    engine = Engine(lambda e, b: None)
    settings = {"lr": 0.5, "device": torch.device("cpu"), "footprint": None}
    SettingsRecord(tmp_path / "run", settings).attach(engine)
    engine.run([0], max_epochs=3)
    record = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert record["settings"] == {"lr": 0.5, "device": "cpu", "footprint": None}
    assert record["max_epochs"] == 3
    assert record["versions"]["torch"] == torch.__version__


def test_panel_of_another_scheme_shows_the_noisy_image_not_the_target():
    clean, noisy = (torch.from_numpy(image)[None, None] for image in phantom((20, 24)))
    writer = Writer()
    engine = Engine(lambda e, b: {"pred": clean})
    ImagePanel(writer).attach(engine)
    engine.run([{"image": noisy, "label": clean}])
    panel = writer.images[0][1]
    assert np.corrcoef(panel[:, :24].ravel(), noisy.numpy().ravel())[0, 1] > 0.98
    assert np.corrcoef(panel[:, 48:].ravel(), (noisy - clean).numpy().ravel())[0, 1] > 0.98
