# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
import subprocess
import sys
import time

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


class Clock:
    """A clock that steps move: each by what `durations` says of it."""

    def __init__(self, monkeypatch, durations) -> None:
        self.now, self.durations = 100.0, durations
        self.ends: list[float] = []
        monkeypatch.setattr("monai_n2v.handlers.training.time.perf_counter", lambda: self.now)

    def step(self) -> None:
        self.now += self.durations(len(self.ends))
        self.ends.append(self.now - 100)


# Seconds of the steps by their number.
MACHINES = {
    "still": lambda n: 0.1,
    "slow to start": lambda n: 3.0 if n == 0 else 0.1,
    "busy from half time": lambda n: 0.1 if n < 100 else 0.45,
    "busy until half time": lambda n: 0.45 if n < 20 else 0.1,
    "uneven": lambda n: 0.05 + 0.4 * ((n * n) % 7 == 2),
    "stalled once": lambda n: 12.0 if n == 100 else 0.1,
}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("budget", [0.05, 0.5, 4.0, 20.0, 100.0])
def test_max_time_ends_at_the_limit_and_its_schedule_repeats_it(monkeypatch, machine, budget):
    clock = Clock(monkeypatch, MACHINES[machine])
    timed, engine = rates_of_a_run(AnnealedBudget(optimizer(), max_time=budget), 1, 7, clock.step)
    ends, schedule = clock.ends, engine.state.schedule
    before_last = ends[-2] if len(ends) > 1 else 0
    assert len(ends) == 1 or before_last < budget + 1e-9, "a step began behind the limit"
    if len(ends) > 2:
        fastest = min(b - a for a, b in itertools.pairwise(ends))
        assert ends[-1] > budget - fastest - 1e-9, "one more step fitted"
    assert engine.state.iteration == len(ends) == schedule[-1]
    again, repeated = rates_of_a_run(AnnealedBudget(optimizer(), schedule=schedule), engine.state.epoch, 7)
    assert again == timed
    assert repeated.state.epoch == engine.state.epoch == -(-len(ends) // 7)
    assert not hasattr(repeated.state, "schedule")


@pytest.mark.parametrize("machine", MACHINES)
def test_rate_falls_by_the_clock(monkeypatch, machine):
    clock = Clock(monkeypatch, MACHINES[machine])
    budget = AnnealedBudget(optimizer(), max_time=60.0, n_warmup=1, decay_fraction=0.4)
    timed, _ = rates_of_a_run(budget, 1, 10, clock.step)
    for rate, start in zip(timed, [0.0, *clock.ends]):
        assert rate == pytest.approx(0.5 * min(1, (60 - start) / 24), abs=0.51 * 0.5 / 32)
    assert all(a >= b for a, b in itertools.pairwise(timed))


def test_epoch_that_the_limit_cuts_ends_as_others_do(monkeypatch):
    clock, ended = Clock(monkeypatch, lambda n: 0.1), []
    engine = Engine(lambda engine, batch: clock.step())
    AnnealedBudget(optimizer(), max_time=2.35).attach(engine)
    for event in (Events.EPOCH_COMPLETED, Events.COMPLETED):
        engine.add_event_handler(event, lambda engine, name: ended.append((name, engine.state.iteration)), event.name)
    engine.run(range(10))
    assert ended == [*(("EPOCH_COMPLETED", n) for n in (10, 20, 23)), ("COMPLETED", 23)]
    assert (engine.state.epoch, engine.state.max_epochs) == (3, 3)


@pytest.mark.parametrize("schedule", [[], [0], [5, 3], [-1, 4], [1.5, 3], "12", 7])
def test_schedule_must_be_rising_steps(schedule):
    with pytest.raises(ValueError, match="schedule must be rising numbers of steps, got"):
        AnnealedBudget(optimizer(), schedule=schedule)


def test_schedule_must_fit_epochs_and_stand_without_a_time():
    with pytest.raises(ValueError, match="epochs must be 3 for a schedule of 25 steps, got 4"):
        rates_of_a_run(AnnealedBudget(optimizer(), schedule=[12, 25]), 4, 10)
    with pytest.raises(ValueError, match="schedule must stand alone, got max_time 5 too"):
        AnnealedBudget(optimizer(), max_time=5.0, schedule=[12, 25])


@pytest.mark.slow
def test_max_time_holds_though_the_machine_becomes_busy():
    network, seconds, ends = torch.nn.Conv2d(1, 64, 9, padding=4), 6.0, [0.0]
    image = torch.rand(4, 1, 128, 128)
    adam = torch.optim.Adam(network.parameters(), lr=0.5)
    busy: list[subprocess.Popen[bytes]] = []

    def update(engine, batch):
        if not busy and time.perf_counter() - started > seconds / 2:
            busy.extend(subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3))
        adam.zero_grad()
        network(image).square().mean().backward()
        adam.step()
        ends.append(time.perf_counter() - started)

    engine = Engine(update)
    budget = AnnealedBudget(adam, max_time=seconds)
    budget.attach(engine)
    started = time.perf_counter()
    try:
        engine.run(range(10))
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert len(busy) == 3
    assert ends[-2] < seconds, "a step began behind the limit"
    fastest = min(b - a for a, b in itertools.pairwise(ends))
    assert ends[-1] > seconds - 3 * fastest
    assert adam.param_groups[0]["lr"] < 0.5 / 8
    assert engine.state.schedule[-1] == engine.state.iteration == len(ends) - 1


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


def test_budget_of_a_resumed_run_counts_its_own_seconds(monkeypatch):
    clock = Clock(monkeypatch, lambda n: 0.1)
    budget = AnnealedBudget(optimizer(), max_time=100.0)
    engine = Engine(lambda engine, batch: clock.step())
    budget.attach(engine)
    engine.load_state_dict({"epoch_length": 10, "max_epochs": 10**6, "iteration": 200})
    engine.run(range(10))
    assert clock.ends[-1] == pytest.approx(100.0, abs=0.11)
    assert engine.state.iteration == pytest.approx(1200, abs=1)
