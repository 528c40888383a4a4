# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import laws
import pytest
import torch
from ignite.engine import Engine

from monai_n2v.handlers.checkpoints import (
    BestModelSaver,
    ModelSaver,
    ResumableCheckpoints,
    load_weights,
    require_checkpoint,
)
from monai_n2v.handlers.weight_average import AveragedWeights
from monai_n2v.networks import N2VUNet


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
        torch.save({"trainer": {}}, tmp_path / f"checkpoint_epoch={epoch}.pt")
    assert ResumableCheckpoints(tmp_path, {}, resume=True).latest == str(tmp_path / "checkpoint_epoch=10.pt")


@pytest.mark.parametrize("kind", ["damaged", "of another program", "of another training"])
def test_foreign_checkpoint_refused_in_one_sentence(kind, tmp_path):
    path = tmp_path / "checkpoint_epoch=7.pt"
    if kind == "damaged":
        torch.save({"trainer": {}, "model": {"w": torch.rand(99)}}, path)
        path.write_bytes(path.read_bytes()[:-200])
    elif kind == "of another program":
        torch.save({"trainer": Engine(lambda e, b: None).state}, path)
    else:
        torch.save({"trainer": {}, "scaler": {}}, path)
    with pytest.raises(ValueError, match=r"resume must find a .*checkpoint") as caught:
        ResumableCheckpoints(tmp_path, {"model": torch.nn.Linear(1, 1)}, resume=True)
    assert str(path) in str(caught.value)


class Counter(torch.nn.Module):
    """A network whose weight and buffer count its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.register_buffer("mean", torch.zeros(1))

    def step(self, engine, batch):
        with torch.no_grad():
            self.weight += 1
            self.mean += 1


def test_average_follows_weights_and_buffers_with_delay():
    network = Counter()
    averaged = AveragedWeights(network, decay=0.9)
    engine = Engine(network.step)
    averaged.attach(engine)
    engine.run(range(200))
    # Of a sequence that grows by 1 per step, an average over 1 / 0.1 steps lags (1 - 0.1) / 0.1 behind.
    assert network.weight.item() == 200
    assert averaged.network.weight.item() == pytest.approx(191, abs=0.01)
    assert averaged.network.mean.item() == pytest.approx(191, abs=0.01)


def test_average_soon_forgets_the_random_start():
    network = Counter()
    torch.nn.init.constant_(network.weight, 1e3)
    averaged = AveragedWeights(network, decay=0.999)

    def step(engine, batch):
        with torch.no_grad():
            network.weight.zero_()

    engine = Engine(step)
    averaged.attach(engine)
    engine.run(range(300))
    assert averaged.network.weight.item() < 1e-6


def test_without_average_the_network_itself_is_saved():
    network = Counter()
    averaged = AveragedWeights(network)
    assert averaged.network is network
    assert averaged.state_dict() == {}
    with pytest.raises(ValueError, match=r"ema must be in \[0, 1\)"):
        AveragedWeights(network, 1.0)


def test_average_goes_on_after_a_resume():
    whole, part, rest = (Counter() for _ in range(3))
    averages = [AveragedWeights(network, decay=0.95) for network in (whole, part, rest)]
    engines = [Engine(network.step) for network in (whole, part, rest)]
    for average, engine in zip(averages, engines):
        average.attach(engine)
    engines[0].run(range(5), max_epochs=6)
    engines[1].run(range(5), max_epochs=4)
    rest.load_state_dict(part.state_dict())
    averages[2].load_state_dict(averages[1].state_dict())
    engines[2].load_state_dict({**engines[1].state_dict(), "max_epochs": 6})
    engines[2].run(range(5))
    laws.states_are_equal(averages[0].network.state_dict(), averages[2].network.state_dict())


def test_best_weights_are_those_of_the_lowest_validation(tmp_path):
    network, path = Counter(), tmp_path / "models" / "model_best.pt"
    saver = BestModelSaver(network, path)
    evaluator = Engine(lambda e, b: None)
    saver.attach(evaluator)
    for loss in (3.0, 1.0, 2.0):
        network.step(None, None)
        evaluator.state.metrics["val_loss"] = loss
        evaluator.run([0])
    assert torch.load(path, weights_only=True)["weight"].item() == 2

    resumed = BestModelSaver(network, path)
    resumed.load_state_dict(saver.state_dict())
    resumed.attach(evaluator)
    evaluator.state.metrics["val_loss"] = 1.5
    evaluator.run([0])
    assert torch.load(path, weights_only=True)["weight"].item() == 2, "a worse network after a resume replaced the best"


@pytest.mark.parametrize("kind", ["text", "truncated", "checkpoint", "code"])
def test_weights_of_another_kind_refused_in_one_sentence(kind, tmp_path):
    path = tmp_path / "model.pt"
    if kind == "text":
        path.write_text("not weights")
    elif kind == "truncated":
        torch.save({"w": torch.rand(99)}, path)
        path.write_bytes(path.read_bytes()[:-200])
    elif kind == "checkpoint":
        torch.save({"model": {"w": torch.rand(1)}, "trainer": {}}, path)
    else:
        torch.save(torch.nn.Linear(1, 1), path)
    with pytest.raises(ValueError, match="ckpt_path must") as caught:
        load_weights(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_must_fit_the_network(tmp_path):
    path = tmp_path / "model.pt"
    torch.save(N2VUNet(2, features=4).state_dict(), path)
    assert require_checkpoint(path, N2VUNet(2, features=4)) == str(path)
    with pytest.raises(ValueError, match=r"the network its bundle configures, got weights of another \([0-9]+ names"):
        require_checkpoint(path, N2VUNet(2, features=8))
    with pytest.raises(ValueError, match="weights of a 3D network, got those of a 2D network"):
        require_checkpoint(path, N2VUNet(3, features=4))
    with pytest.raises(FileNotFoundError, match=r"Run train\.json first"):
        require_checkpoint(tmp_path / "none.pt")


def run_of(folder, epochs: int, resume: bool = False, length: int = 2, network=None, averaged=None) -> Engine:
    network = network or torch.nn.Linear(1, 1)
    engine = Engine(lambda e, b: None)
    engine.state.epoch_length, engine.state.max_epochs = length, epochs
    objects = {"model": network} | ({} if averaged is None else {"averaged": averaged})
    if averaged is not None:
        averaged.attach(engine)
    ResumableCheckpoints(folder, objects, resume).attach(engine)
    engine.run(range(length))
    return engine


def test_run_interrupted_in_its_first_epoch_never_goes_on_from_an_earlier_run(tmp_path):
    run_of(tmp_path, 3)
    engine = Engine(lambda e, b: 1 / 0)
    ResumableCheckpoints(tmp_path, {"model": torch.nn.Linear(1, 1)}).attach(engine)
    with pytest.raises(ZeroDivisionError):
        engine.run([0])
    with pytest.raises(FileNotFoundError, match="resume must find a checkpoint"):
        run_of(tmp_path, 3, resume=True)
    assert len(list(tmp_path.glob("*.old"))) == 2, "what the earlier run left is still there"
    run_of(tmp_path, 1)  # a run that completes replaces the earlier one
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint_epoch=1.pt"]


def test_resume_below_the_epochs_done_is_refused_in_one_sentence(tmp_path):
    run_of(tmp_path, 3)
    with pytest.raises(ValueError, match=r"^epochs must be at least the 3 that the training has done, got 2\. Ask for"):
        run_of(tmp_path, 2, resume=True)
    assert run_of(tmp_path, 4, resume=True).state.epoch == 4


def test_resume_with_other_settings_refused(tmp_path):
    network = Counter()
    run_of(tmp_path, 2, network=network, averaged=AveragedWeights(network))
    with pytest.raises(ValueError, match="epoch_length must stay 2 when a training is resumed, got 3"):
        run_of(tmp_path, 4, True, 3, network, AveragedWeights(network))
    with pytest.raises(ValueError, match="ema must stay on or off"):
        run_of(tmp_path, 4, True, 2, network, AveragedWeights(network, 0.9))
    other = torch.nn.Linear(2, 3)
    with pytest.raises(ValueError, match=r"weights of the network that train.json configures"):
        run_of(tmp_path, 4, True, 2, other, AveragedWeights(other))
    assert run_of(tmp_path, 4, True, 2, network, AveragedWeights(network)).state.epoch == 4
