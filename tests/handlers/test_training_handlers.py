# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools

import pytest
import torch
from ignite.engine import Engine, Events
from ignite.metrics import Average
from monai.engines import IterationEvents

from monai_n2v.handlers.training import (
    AnnealedBudget,
    EpochSeeder,
    GradientClipper,
    LossGuard,
    PrepareN2VBatch,
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
    monkeypatch.setattr("monai_n2v.handlers.training.time.perf_counter", lambda: clock[0])

    def step() -> None:
        clock[0] += 0.1

    timed, engine = rates_of_a_run(AnnealedBudget(optimizer(), max_time=budget), 1, 7, step)
    epochs = engine.state.epoch
    assert epochs == max(2, int(budget / 0.7 + 1e-9))
    assert timed == rates_of_a_run(AnnealedBudget(optimizer()), epochs, 7)[0]


def test_max_time_kept_when_speed_changes(monkeypatch):
    clock, steps = [0.0], [0]
    monkeypatch.setattr("monai_n2v.handlers.training.time.perf_counter", lambda: clock[0])

    def step() -> None:
        steps[0] += 1
        clock[0] += 0.3 if steps[0] < 20 else 0.1

    rates_of_a_run(AnnealedBudget(optimizer(), max_time=60.0), 1, 5, step)
    assert 45 < clock[0] <= 66


def test_max_time_must_be_positive():
    with pytest.raises(ValueError, match="max_time must be above 0"):
        AnnealedBudget(optimizer(), max_time=0)


@pytest.mark.parametrize("part", [0, -1, 1.5])
def test_decay_is_a_part_of_the_run(part):
    with pytest.raises(ValueError, match="decay_fraction must be above 0 and at most 1"):
        AnnealedBudget(optimizer(), decay_fraction=part)


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


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_diverged_training_stops_after_its_epoch_and_says_how_to_go_on(bad):
    losses = iter([1.0, 1.0, 1.0, bad, 1.0, 1.0])
    epochs: list[int] = []
    engine = Engine(lambda e, b: next(losses))
    Average().attach(engine, "train_loss")
    LossGuard().attach(engine)
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda e: epochs.append(e.state.epoch))
    with pytest.raises(FloatingPointError, match=r"loss must be finite, got (nan|inf) in epoch 2.*lower lr"):
        engine.run(range(2), max_epochs=3)
    assert epochs == [1], "a handler after the guard saw the diverged epoch"


@pytest.mark.parametrize(("max_norm", "norm"), [(None, 10.0), (0.5, 0.5), (50.0, 10.0)])
def test_gradient_is_scaled_down_to_the_largest_norm(max_norm, norm):
    network = torch.nn.Linear(2, 1, bias=False)
    seen: list[float] = []

    def update(engine, batch):
        network.weight.grad = torch.tensor([[6.0, 8.0]])
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
        seen.append(network.weight.grad.norm().item())

    engine = Engine(update)
    engine.register_events(*IterationEvents)
    GradientClipper(network, max_norm).attach(engine)
    engine.run([0])
    assert seen == [pytest.approx(norm, rel=1e-4)]


def test_norm_must_be_positive():
    with pytest.raises(ValueError, match="grad_clip must be above 0, got 0"):
        GradientClipper(torch.nn.Linear(1, 1), 0)


def test_budget_of_a_resumed_run_counts_its_own_epochs(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("monai_n2v.handlers.training.time.perf_counter", lambda: clock[0])
    budget = AnnealedBudget(optimizer(), max_time=100.0)

    def step(engine, batch):
        clock[0] += 0.1

    engine = Engine(step)
    budget.attach(engine)
    engine.load_state_dict({"epoch_length": 10, "max_epochs": 10**6, "iteration": 200})
    engine.run(range(10))
    assert clock[0] == pytest.approx(100.0, abs=1.5)
    assert engine.state.epoch == pytest.approx(120, abs=2)
