# SPDX-License-Identifier: Apache-2.0
"""Trainings and inferences of two processes over Gloo, as torchrun launches them."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import laws
import numpy as np
import psutil
import pytest
import torch
import torch.distributed as dist
from conftest import phantom
from ignite.engine import Events
from monai.bundle import ConfigWorkflow
from tiny import SMALL, run, workflow

from monai_n2v.bundle import distributed, find_bundle, find_config
from monai_n2v.handlers import BufferAverage
from monai_n2v.io.find import find_images

pytestmark = pytest.mark.skipif(not dist.is_available() or sys.platform == "win32", reason="needs Gloo and forkserver")

SHAPES = {2: (40, 52), 3: (24, 28, 20)}


def launch(worker: Callable[..., Any], *args: Any, n: int = 2) -> list[Any]:
    """What ``worker(*args)`` returns in each of ``n`` processes; a process that fails returns its chain of messages."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["monai.bundle", "monai.engines", "ignite.engine", "torch.utils.tensorboard"])
    # torchrun's way to agree on a port: its agent holds the store, and nobody has to guess a free one.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    pipes = [context.Pipe(duplex=False) for _ in range(n)]
    processes = [
        context.Process(target=_work, args=(pipes[rank][1], rank, n, store.port, worker, args)) for rank in range(n)
    ]
    for process in processes:
        process.start()
    for _, end in pipes:
        end.close()
    try:
        results = [receive(pipe) for pipe, _ in pipes]
        for process in processes:
            process.join(60)
            assert process.exitcode == 0
        return results
    finally:
        for process in processes:
            process.kill()


def receive(pipe: Any) -> Any:
    assert pipe.poll(120), "a process hangs"
    return pipe.recv()


def _work(pipe: Any, rank: int, n: int, port: int, worker: Callable[..., Any], args: Sequence[Any]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(n)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    torch.set_num_threads(1)
    try:
        result = worker(*args)
    except Exception as error:  # noqa: BLE001 - whatever it is goes to the parent
        result, cause = [str(error)], error
        while cause.__cause__ is not None:
            cause = cause.__cause__
            result.append(str(cause))
    pipe.send(result)


def configured(kind: str, spatial_dims: int, overlays: Sequence[str] = (), **overrides) -> ConfigWorkflow:
    configs = find_bundle(f"n2v_denoise_{spatial_dims}d") / "configs"
    names = [configs / f"{kind}.json", *map(find_config, overlays), configs / f"multi_gpu_{kind}.json"]
    small = SMALL[spatial_dims] if kind == "train" else {"features": SMALL[spatial_dims]["features"]}
    return ConfigWorkflow(
        config_file=[str(name) for name in names],
        workflow_type=kind,
        logging_file=False,
        bundle_root=str(configs.parent),
        **{**small, "device": "$torch.device('cpu')", "amp": False, "timeout": 60, **overrides},
    )


def numpy_state(network: torch.nn.Module) -> dict[str, np.ndarray]:
    network = network.module if isinstance(network, torch.nn.parallel.DistributedDataParallel) else network
    return {name: value.detach().numpy().copy() for name, value in network.state_dict().items()}


def training(spatial_dims: int, output_dir: str, overlays: Sequence[str] = (), **overrides) -> dict[str, Any]:
    """Train as one of several processes, and tell what was seen on the way."""
    output_dir = output_dir.format(rank=os.environ["RANK"])
    flow = configured("train", spatial_dims, overlays, output_dir=output_dir, **overrides)
    flow.initialize()
    trainer = flow.parser.get_parsed_content("train#trainer")
    network = flow.parser.get_parsed_content("network")
    averaged = flow.parser.get_parsed_content("averaged").network
    seen: dict[str, Any] = {"batches": [], "losses": [], "validated": []}

    @trainer.on(Events.ITERATION_COMPLETED)
    def note_batch(engine):
        seen["batches"].append({key: value.numpy().copy() for key, value in engine.state.batch.items()})

    if not overlays:
        evaluator = flow.parser.get_parsed_content("validate#evaluator")
        evaluator.add_event_handler(Events.STARTED, lambda _: seen["validated"].append(numpy_state(averaged)))
        evaluator.add_event_handler(
            Events.COMPLETED, lambda engine: seen["losses"].append(engine.state.metrics["val_loss"])
        )
    flow.run()
    seen["gradients"] = [parameter.grad.numpy().copy() for parameter in network.parameters()]
    flow.finalize()
    assert not dist.is_initialized()
    return seen | {
        "network": numpy_state(network),
        "averaged": numpy_state(averaged),
        "epochs": trainer.state.max_epochs,
        "schedule": getattr(trainer.state, "schedule", None),
        "lr": flow.parser.get_parsed_content("optimizer").param_groups[0]["lr"],
    }


def arrays_are_equal(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> None:
    laws.states_are_equal(*({k: torch.from_numpy(v) for k, v in state.items()} for state in (first, second)))


def write_images(folder: Path, spatial_dims: int, n: int = 3) -> Path:
    folder.mkdir(parents=True)
    for k in range(n):
        np.save(folder / f"image{k}.npy", phantom(SHAPES[spatial_dims], seed=k)[1])
    return folder


# Statistics of batch norm are what processes have to share.
NORM = {"network_def#norm": "batch"}


@pytest.fixture(scope="module", params=[(2, 0), (3, 0.9)], ids=["2d", "3d averaged"])
def trained(request, tmp_path_factory):
    """Three epochs of two processes, each with an output folder of its own."""
    spatial_dims, ema = request.param
    folder = tmp_path_factory.mktemp("distributed")
    options = {
        "dataset_dir": str(write_images(folder / "images", spatial_dims)),
        "ema": ema,
        "network_def#norm": "batch",
    }
    pair = launch(train_with, spatial_dims, str(folder / "rank{rank}"), {**options, "epochs": 3})
    return pair, folder, spatial_dims, options


def train_with(spatial_dims: int, output_dir: str, options: dict[str, Any], overlays: Sequence[str] = ()) -> Any:
    return training(spatial_dims, output_dir, overlays, **options)


@pytest.mark.parametrize("spatial_dims", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_one_step_equals_that_on_the_union_of_the_batches(spatial_dims, tmp_path):
    options = {
        "dataset_dir": str(write_images(tmp_path / "images", spatial_dims, 1)),
        "mask_fraction": 1 / 64,  # strata divide these patches, so that all batches have as many blind spots
        "network_def#norm": ["group", {"num_groups": 1}],  # statistics of batch norm depend on how the batch is divided
        "optimizer#_target_": "torch.optim.SGD",
        "lr": 0.1,
        "epochs": 1,
        "epoch_length": 1,
        "amp": False,
    }
    pair = launch(train_with, spatial_dims, str(tmp_path / "{rank}"), options)
    batches = [one["batches"][0] for one in pair]
    assert batches[0]["mask"].sum() == batches[1]["mask"].sum(), "the processes' losses weigh alike"
    union = {key: torch.from_numpy(np.concatenate([batch[key] for batch in batches])) for key in batches[0]}
    flow = workflow("train", spatial_dims, output_dir=str(tmp_path / "single"), **options)
    flow.initialize()
    trainer = flow.parser.get_parsed_content("train#trainer")
    network = flow.parser.get_parsed_content("network")
    before = numpy_state(network)
    trainer.data_loader = [union]
    flow.run()
    flow.finalize()
    gradients = [parameter.grad.numpy() for parameter in network.parameters()]
    for one in pair:
        error = np.concatenate([(g - h).ravel() for g, h in zip(one["gradients"], gradients, strict=True)])
        assert np.linalg.norm(error) < 1e-5 * np.linalg.norm(np.concatenate([g.ravel() for g in gradients]))
        for name, value in numpy_state(network).items():
            np.testing.assert_allclose(one["network"][name], value, rtol=0, atol=1e-6)
    assert max(np.abs(before[name] - value).max() for name, value in numpy_state(network).items()) > 1e-3


def test_processes_draw_different_batches_and_end_with_one_network(trained):
    (first, second), *_ = trained
    assert len(first["batches"]) == len(second["batches"]) == 9
    for ours, theirs in zip(first["batches"], second["batches"]):
        assert not np.array_equal(ours["label"], theirs["label"])
        assert not np.array_equal(ours["mask"], theirs["mask"])
    arrays_are_equal(first["network"], second["network"])
    arrays_are_equal(first["averaged"], second["averaged"])


def test_all_processes_validate_one_network_with_one_result(trained):
    (first, second), *_ = trained
    assert first["losses"] == second["losses"]
    assert len(set(first["losses"])) == 3
    for ours, theirs in zip(first["validated"], second["validated"], strict=True):
        assert any(name.endswith("running_var") for name in ours)
        arrays_are_equal(ours, theirs)


def test_only_the_first_process_writes(trained):
    (first, _), folder, _, options = trained
    assert not (folder / "rank1").exists()
    files = sorted(path for path in (folder / "rank0").rglob("*") if path.is_file())
    names = [path.name if "events" not in path.name else "events" for path in files]
    weights = ["model.pt", "model_best.pt"]
    assert names == ["checkpoint_epoch=2.pt", "checkpoint_epoch=3.pt", *weights, "config.json", "events"]
    saved = torch.load(folder / "rank0" / "models" / "model.pt", weights_only=True)
    arrays_are_equal({name: value.numpy() for name, value in saved.items()}, first["averaged"])
    same = all(np.array_equal(first["network"][name], value) for name, value in first["averaged"].items())
    assert same == (options["ema"] == 0)
    assert json.loads(files[-2].read_text())["_meta_"]["run"]["n_processes"] == 2


def test_resumed_training_equals_uninterrupted(trained, tmp_path):
    whole, _, spatial_dims, options = trained
    for more in ({"epochs": 1}, {"epochs": 3, "resume": True}):
        parts = launch(train_with, spatial_dims, str(tmp_path), {**options, **more})
    for ours, theirs in zip(whole, parts):
        arrays_are_equal(ours["network"], theirs["network"])
        arrays_are_equal(ours["averaged"], theirs["averaged"])
        assert ours["losses"][1:] == theirs["losses"]


@pytest.mark.slow
def test_training_resumes_with_another_number_of_processes(trained):
    pair, folder, spatial_dims, options = trained
    state = torch.load(folder / "rank0" / "checkpoints" / "checkpoint_epoch=3.pt", weights_only=True)
    arrays_are_equal({name: value.numpy() for name, value in state["model"].items()}, pair[0]["network"])
    options = {**options, "epochs": 4, "resume": True}
    shutil.copytree(folder / "rank0" / "checkpoints", folder / "more" / "checkpoints")
    first, second, third = launch(train_with, spatial_dims, str(folder / "more"), options, n=3)
    assert len(first["losses"]) == 1
    arrays_are_equal(first["network"], second["network"])
    arrays_are_equal(first["network"], third["network"])


def test_budget_in_seconds_ends_alike_on_all_processes(tmp_path):
    options = {"dataset_dir": str(write_images(tmp_path / "images", 2, 1)), "max_time": 1.5, "progress": False}
    first, second = launch(train_with, 2, str(tmp_path / "{rank}"), options, ["anneal.json"])
    assert first["epochs"] == second["epochs"] < 10**6
    assert first["schedule"] == second["schedule"]
    assert first["lr"] == second["lr"]
    arrays_are_equal(first["network"], second["network"])
    assert (tmp_path / "0" / "models" / "model.pt").is_file()
    assert not (tmp_path / "1").exists()


def inference(spatial_dims: int, dataset_dir: str, output_dir: str, ckpt_path: str) -> bool:
    places = {"dataset_dir": dataset_dir, "output_dir": output_dir, "ckpt_path": ckpt_path}
    run(configured("inference", spatial_dims, **places, **NORM, timeout=None))
    return dist.is_initialized()


@pytest.mark.parametrize("n", [1, 3])
def test_shared_inference_equals_that_of_one_process(n, trained, tmp_path):
    _, folder, spatial_dims, _ = trained
    images = write_images(tmp_path / "images", spatial_dims, n)
    ckpt_path = str(folder / "rank0" / "models" / "model.pt")
    grouped = launch(inference, spatial_dims, str(images), str(tmp_path / "pair"), ckpt_path)
    assert grouped == [False, False], "processes that wait for nobody cannot hang"
    places = {"dataset_dir": str(images), "output_dir": str(tmp_path), "ckpt_path": ckpt_path}
    run(workflow("inference", spatial_dims, **places, **NORM))
    written = {path.name: np.load(path) for path in (tmp_path / "pair" / "denoised").iterdir()}
    assert len(written) == n
    for path in (tmp_path / "denoised").iterdir():
        np.testing.assert_array_equal(written[path.name], np.load(path))


def test_faulty_image_fails_its_own_process_with_its_message(trained, tmp_path):
    _, folder, spatial_dims, _ = trained
    images = write_images(tmp_path / "images", spatial_dims, 4)
    (images / "image1.npy").write_bytes(b"no image")
    ckpt_path = str(folder / "rank0" / "models" / "model.pt")
    good, bad = launch(inference, spatial_dims, str(images), str(tmp_path / "out"), ckpt_path)
    assert good is False
    assert bad[-1].startswith("path must")
    assert "image1.npy" in bad[-1]
    written = sorted(path.name for path in (tmp_path / "out" / "denoised").iterdir())
    assert written == ["image0_denoised.npy", "image2_denoised.npy"]


def test_inference_without_torchrun_denoises_everything(tmp_path, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    items = find_images(write_images(tmp_path / "images", 2))
    assert distributed.share(items) == items
    assert distributed.global_rank() == 0


@pytest.mark.parametrize("n_items", [0, 1, 2, 3, 7, 8])
@pytest.mark.parametrize("n_processes", [1, 2, 4])
def test_every_image_has_one_process(n_items, n_processes, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", str(n_processes))
    shares = []
    for rank in range(n_processes):
        monkeypatch.setenv("RANK", str(rank))
        shares.append(distributed.share(range(n_items)))
    assert sorted(item for items in shares for item in items) == list(range(n_items))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def average_in_slurm_job() -> dict[str, Any]:
    os.environ["SLURM_JOB_ID"], os.environ["SLURM_LOCALID"] = "1", "0"
    distributed.join_group("cpu")
    rank = dist.get_rank()
    norm = torch.nn.BatchNorm2d(3)
    norm.running_mean.fill_(float(rank))
    norm.running_var.copy_(torch.tensor([1.0, 2.0, 3.0]) + 2 * rank)
    norm.register_buffer("constant", torch.tensor(float(rank)))
    parallel = distributed.parallel(torch.nn.Sequential(torch.nn.Conv2d(1, 3, 1), norm))
    norm.running_mean.fill_(float(rank))
    norm.running_var.copy_(torch.tensor([1.0, 2.0, 3.0]) + 2 * rank)
    BufferAverage([parallel, parallel.module])(None)
    result = {name: buffer.tolist() for name, buffer in norm.named_buffers()}
    distributed.leave_group()
    distributed.leave_group()
    return result | {"env": [os.environ[name] for name in ("LOCAL_RANK", "SLURM_JOB_ID")]}


def test_running_statistics_are_averaged_once_also_within_slurm():
    for rank, result in enumerate(launch(average_in_slurm_job)):
        assert result["running_mean"] == [0.5] * 3
        assert result["running_var"] == [2.0, 3.0, 4.0]
        assert result["env"] == [str(rank), "1"]


def test_groups_that_cannot_be_are_refused(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RuntimeError, match=r"must be launched by torchrun, got no RANK"):
        distributed.join_group("cpu")
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    with pytest.raises(ValueError, match="timeout must be above 0 seconds, got 0"):
        distributed.join_group("cpu", timeout=0)
    with pytest.raises(ValueError, match="sync_batchnorm must be false on a cpu device"):
        distributed.parallel(torch.nn.BatchNorm2d(1), sync_batchnorm=True)


def test_each_process_takes_the_gpu_of_its_number(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert distributed.local_device() == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert distributed.local_device() == torch.device("cuda:1")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match="nproc_per_node must be at most the 2 GPUs of the node, got at least 3"):
        distributed.local_device()


@pytest.mark.parametrize("kind", ["train", "inference"])
def test_overlays_fit_their_configs(kind):
    texts = []
    for spatial_dims in (2, 3):
        configs = find_bundle(f"n2v_denoise_{spatial_dims}d") / "configs"
        text = (configs / f"multi_gpu_{kind}.json").read_text()
        config = json.loads((configs / f"{kind}.json").read_text())
        if kind == "train":
            assert config["network"].removeprefix("$") in text, "the memory format stays"
            assert "monai.utils.set_determinism" in config["initialize"][0]
            assert config["initialize"][0] in json.loads(text)["initialize"]
        else:
            assert config["handlers"][1]["_target_"].endswith("ProgressBar"), "what handlers#1#_disabled_ switches off"
            assert config["dataset"]["data"].removeprefix("$") in text
        texts.append(text.replace("channels_last_3d", "channels_last"))
    assert texts[0] == texts[1]


@pytest.mark.slow
@pytest.mark.parametrize("spatial_dims", [2])
def test_killed_process_ends_the_whole_job(spatial_dims, tmp_path):
    images, out = write_images(tmp_path / "images", spatial_dims, 1), tmp_path / "out"
    configs = find_bundle(f"n2v_denoise_{spatial_dims}d") / "configs"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nnodes=1", "--nproc_per_node=2"]
    command += ["-m", "monai.bundle", "run", "--config_file"]
    command += [str([str(configs / "train.json"), str(configs / "multi_gpu_train.json")])]
    command += ["--bundle_root", str(configs.parent), "--dataset_dir", str(images), "--output_dir", str(out)]
    command += ["--device", "$torch.device('cpu')", "--epochs", "1000000"]
    for name, value in SMALL[spatial_dims].items():
        command += [f"--{name}", str(value)]
    with (tmp_path / "log").open("w") as log:
        job = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        wait_for(lambda: any(out.glob("checkpoints/*.pt")) or job.poll() is not None, 120)
        workers = psutil.Process(job.pid).children(recursive=True)
        [victim] = [worker for worker in workers if worker.environ().get("RANK") == "1"]
        victim.send_signal(signal.SIGKILL)
        assert job.wait(60) != 0
    finally:
        job.kill()
        job.wait()
    wait_for(lambda: not any(worker.is_running() for worker in workers), 10)
    assert "exitcode  : -9" in (tmp_path / "log").read_text()
    assert not (out / "models" / "model.pt").exists()


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.1)
