# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools

import pytest
import torch
from ignite.engine import Engine

from monai_n2v.engines import (
    AnnealedBudget,
    EpochSeeder,
    ModelSaver,
    PrepareN2VBatch,
    ResumableCheckpoints,
    TrainingBar,
)


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=0.5)


def rates_of_a_run(budget: AnnealedBudget, epochs: int, length: int, step=lambda: None) -> tuple[list[float], Engine]:
    rates: list[float] = []

    def update(engine, batch):
        rates.append(budget.optimizer.param_groups[0]["lr"])
        step()

    engine = Engine(update)
    budget.attach(engine)
    engine.run(range(length), max_epochs=epochs, epoch_length=length)
    return rates, engine


def test_annealing_warms_up_stays_and_falls_to_zero():
    rates, _ = rates_of_a_run(AnnealedBudget(optimizer(), n_warmup=4, decay_fraction=0.4), 5, 10)
    assert rates[:4] == [0.125, 0.25, 0.375, 0.5]
    assert rates[4:31] == [0.5] * 27
    assert all(a > b for a, b in itertools.pairwise(rates[30:]))
    assert 0 < rates[-1] < 0.05


@pytest.mark.parametrize("budget", [0.5, 2.0, 5.0, 13.7, 100.0])
def test_max_time_equals_the_run_of_its_epochs(monkeypatch, budget):
    clock = [0.0]
    monkeypatch.setattr("monai_n2v.engines.time.perf_counter", lambda: clock[0])

    def step() -> None:
        clock[0] += 0.1

    timed, engine = rates_of_a_run(AnnealedBudget(optimizer(), max_time=budget), 1, 7, step)
    epochs = engine.state.epoch
    assert epochs == max(2, int(budget / 0.7 + 1e-9))
    assert timed == rates_of_a_run(AnnealedBudget(optimizer()), epochs, 7)[0]


def test_max_time_kept_when_speed_changes(monkeypatch):
    clock, steps = [0.0], [0]
    monkeypatch.setattr("monai_n2v.engines.time.perf_counter", lambda: clock[0])

    def step() -> None:
        steps[0] += 1
        clock[0] += 0.3 if steps[0] < 20 else 0.1

    rates_of_a_run(AnnealedBudget(optimizer(), max_time=60.0), 1, 5, step)
    assert 45 < clock[0] <= 66


def test_max_time_must_be_positive():
    with pytest.raises(ValueError, match="max_time must be above 0"):
        AnnealedBudget(optimizer(), max_time=0)


@pytest.mark.parametrize("with_mask", [True, False])
def test_batch_packed_for_the_loss(with_mask):
    label = torch.rand(2, 3, 4, 4)
    batch = {"image": torch.rand(2, 3, 4, 4), "label": label}
    if with_mask:
        batch["mask"] = torch.zeros(2, 3, 4, 4)
    image, target = PrepareN2VBatch()(batch, device="cpu")
    assert image is batch["image"]
    assert torch.equal(target[:, :3], label)
    assert (target[:, 3:] == (0 if with_mask else 1)).all()
    assert PrepareN2VBatch()({"image": label})[1] is None


def test_epochs_seed_torch_and_loader():
    class Loader(list):
        def set_epoch(self, epoch: int) -> None:
            seen.append(epoch)

    seen: list[int] = []
    draws: list[float] = []
    loader = Loader([0])
    for _ in range(2):
        engine = Engine(lambda e, b: draws.append(torch.rand(1).item()))
        EpochSeeder(loader, seed=3).attach(engine)
        engine.run(loader, max_epochs=2)
    assert seen == [1, 2, 1, 2]
    assert draws[:2] == draws[2:]
    assert draws[0] != draws[1]


def test_model_saved_whole_on_completion_only(tmp_path):
    network, path = torch.nn.Linear(2, 2), tmp_path / "models" / "model.pt"
    engine = Engine(lambda e, b: 1 / 0)
    ModelSaver(network, path).attach(engine)
    with pytest.raises(ZeroDivisionError):
        engine.run([0])
    assert not path.exists()
    engine = Engine(lambda e, b: None)
    ModelSaver(network, path).attach(engine)
    engine.run([0])
    assert torch.load(path, weights_only=True).keys() == network.state_dict().keys()
    assert [p.name for p in path.parent.iterdir()] == ["model.pt"]


def test_resume_needs_a_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="resume must find a checkpoint"):
        ResumableCheckpoints(tmp_path, {"model": torch.nn.Linear(1, 1)}, resume=True)


def test_checkpoints_of_an_earlier_run_go_and_two_stay(tmp_path):
    (tmp_path / "checkpoint_epoch=99.pt").touch()
    network = torch.nn.Linear(1, 1)
    engine = Engine(lambda e, b: None)
    ResumableCheckpoints(tmp_path, {"model": network}).attach(engine)
    engine.run([0], max_epochs=4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint_epoch=3.pt", "checkpoint_epoch=4.pt"]
    state = torch.load(tmp_path / "checkpoint_epoch=4.pt", weights_only=True)
    assert state["trainer"]["iteration"] == 4


def test_latest_checkpoint_is_the_highest_epoch(tmp_path):
    for epoch in (2, 9, 10):
        (tmp_path / f"checkpoint_epoch={epoch}.pt").touch()
    assert ResumableCheckpoints(tmp_path, {}, resume=True).latest == str(tmp_path / "checkpoint_epoch=10.pt")


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
