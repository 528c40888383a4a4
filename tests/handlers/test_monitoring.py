# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import phantom
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser

from monai_n2v.handlers.monitoring import ImagePanel, RunRecord, TrainingBar
from monai_n2v.handlers.training import AnnealedBudget


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


def test_bar_shows_the_error_of_a_handler_that_failed_at_the_start():
    engine = Engine(lambda e, b: None)
    engine.add_event_handler(Events.STARTED, lambda: 1 / 0)
    TrainingBar().attach(engine)
    with pytest.raises(ZeroDivisionError):
        engine.run([0])


class Writer:
    """What a SummaryWriter would be given."""

    def __init__(self) -> None:
        self.images: list[tuple[str, np.ndarray, int]] = []

    def add_image(self, tag, image, step, dataformats):
        assert dataformats == "HW"
        self.images.append((tag, np.asarray(image), step))


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


def test_record_holds_the_config_and_what_ran_it(tmp_path):
    config = {
        "lr": 0.5,
        "device": torch.device("cpu"),
        "twice": "$2 * @lr",
        "record": {"_target_": "monai_n2v.handlers.RunRecord", "folder": str(tmp_path / "run")},
    }
    engine = Engine(lambda e, b: None)
    ConfigParser({"_meta_": {"version": "0.1"}, **config}).get_parsed_content("record").attach(engine)
    assert not (tmp_path / "run").exists(), "written when the run starts"
    engine.run([0], max_epochs=3)
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    meta = record.pop("_meta_")
    assert record == {**config, "device": "cpu"}
    assert meta["version"] == "0.1"
    assert meta["run"]["versions"]["torch"] == torch.__version__
    assert meta["run"]["command"] == sys.argv
    assert meta["run"]["folder"] == str(Path.cwd())
    assert meta["run"]["n_processes"] == 1


def test_record_has_the_schedule_in_place_of_a_time(tmp_path):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    record = {"_target_": "monai_n2v.handlers.RunRecord", "folder": str(tmp_path)}
    engine = Engine(lambda e, b: None)
    config = {"max_time": 0.05, "epochs": 9, "schedule": None, "record": record}
    ConfigParser(config).get_parsed_content("record").attach(engine)
    AnnealedBudget(optimizer, config["max_time"]).attach(engine)
    engine.run(range(10))
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["max_time"] is None
    assert written["epochs"] == engine.state.epoch
    assert written["schedule"] == engine.state.schedule
    assert written["_meta_"]["run"]["command"] == sys.argv


def test_record_without_a_config_holds_what_ran(tmp_path):
    engine = Engine(lambda e, b: None)
    RunRecord(tmp_path).attach(engine)
    engine.run([0])
    assert json.loads((tmp_path / "config.json").read_text()).keys() == {"_meta_"}


def test_panel_of_another_scheme_shows_the_noisy_image_not_the_target():
    clean, noisy = (torch.from_numpy(image)[None, None] for image in phantom((20, 24)))
    writer = Writer()
    engine = Engine(lambda e, b: {"pred": clean})
    ImagePanel(writer).attach(engine)
    engine.run([{"image": noisy, "label": clean}])
    panel = writer.images[0][1]
    assert np.corrcoef(panel[:, :24].ravel(), noisy.numpy().ravel())[0, 1] > 0.98
    assert np.corrcoef(panel[:, 48:].ravel(), (noisy - clean).numpy().ravel())[0, 1] > 0.98
