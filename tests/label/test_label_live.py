# SPDX-License-Identifier: Apache-2.0
"""A real server on this machine: what only it has are processes of their own for training and batch inference."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import nibabel.tests
import numpy as np
import pytest

from label.serving import AFFINE, end, make_small, make_studies, phantom_3d
from monai_n2v.bundle import Denoiser, resolve_model

requests = pytest.importorskip("requests")  # comes with MONAI Label

MODEL = "n2v_denoise_3d"
LONG = 100_000  # epochs; such a training is there to be stopped


class LiveServer:
    """``monailabel start_server`` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        from monai_n2v.label.__main__ import make_app

        self.app_dir, self.log = make_app(folder / "app"), folder / "server.log"
        make_small(self.app_dir)
        self.studies = make_studies(folder / "studies")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        script = Path(sys.executable).with_name("monailabel")
        options = ["--app", self.app_dir, "--studies", self.studies, "--host", "127.0.0.1", "--port", str(port)]
        # The script ends as the Python that this names, so that the process started here is the server's.
        environment = os.environ | {"MONAILABEL_PYEXE": sys.executable, "OMP_NUM_THREADS": "1"}
        path = [str(Path(name).resolve()) for name in os.environ.get("PYTHONPATH", "").split(os.pathsep) if name]
        environment["PYTHONPATH"] = os.pathsep.join(path)
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                ["/bin/bash", script, "start_server", *options],
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def ask(self, method: str, path: str, **kwargs) -> requests.Response:
        return requests.request(method, self.url + path, timeout=60, **kwargs)

    def wait(self, what, seconds: float = 120, why: str = ""):
        """What ``what()`` answers, as soon as that is neither false nor None."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                pytest.fail(f"the server ended with {self.process.returncode}:\n{self.log.read_text()[-3000:]}")
            found = what()
            if found:
                return found
            time.sleep(0.3)
        return pytest.fail(f"nothing in {seconds} s: {why}\n{self.log.read_text()[-3000:]}")

    def is_up(self) -> bool:
        try:
            return self.ask("GET", "/info/").ok
        except requests.ConnectionError:
            return False

    def train(self, model: str = MODEL, **params) -> requests.Response:
        return self.ask("POST", f"/train/{model}", json={"device": "cpu", **params})

    def task(self, path: str = "/train/") -> dict:
        return self.ask("GET", path).json()

    def ended(self, path: str = "/train/") -> dict:
        """The last task, once it has ended; with all lines that were seen, of which the server keeps the last 20."""
        seen: dict[str, None] = {}

        def task() -> dict | None:
            now = self.task(path)
            seen.update(dict.fromkeys(now.get("details", ())))
            return None if now["status"] in ("SUBMITTED", "RUNNING") else now | {"details": list(seen)}

        return self.wait(task, why=f"the end of GET {path}")

    def images(self) -> dict[str, dict]:
        """Info of the images that the server's own process knows, by id."""
        objects = self.ask("GET", "/datastore/?output=all").json()["objects"]
        return {image_id: content["image"]["info"] for image_id, content in objects.items()}

    def checkpoints(self) -> list[int]:
        """Epochs after which the training could go on."""
        folder = self.app_dir / "model" / MODEL / "checkpoints"
        return sorted(int(path.stem.partition("=")[2]) for path in folder.glob("checkpoint_epoch=*.pt"))

    def stop(self) -> None:
        end(self.process)


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    server = LiveServer(tmp_path_factory.mktemp("live"))
    try:
        server.wait(server.is_up, 120, "GET /info/")
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def training(live) -> dict:
    """The task of a training of two epochs, ended."""
    answer = live.train(max_epochs=2)
    assert answer.status_code == 200, answer.text
    live.wait(lambda: live.task()["status"] == "RUNNING", why="a running training")
    assert live.train().status_code == 429  # one at a time
    return live.ended()


def losses(task: dict, kind: str) -> dict[int, float]:
    """By epoch, of the lines that a training told."""
    found = (re.search(rf"Epoch\[(\d+)\] Metrics -- {kind}_loss: ([\d.]+)", line) for line in task["details"])
    return {int(match[1]): float(match[2]) for match in found if match}


def voxels(answer: requests.Response, folder: Path) -> nibabel.Nifti1Image:
    assert answer.status_code == 200, answer.text
    suffix = ".nii.gz" if answer.content[:2] == b"\x1f\x8b" else ".nii"
    path = folder / f"answer{suffix}"
    path.write_bytes(answer.content)
    return nibabel.load(path)


def test_training_tells_its_losses_by_epoch(live, training):
    assert training["status"] == "DONE", training["details"]
    for kind in ("train", "val"):
        assert list(losses(training, kind)) == [1, 2]
    assert losses(training, "train")[2] < losses(training, "train")[1]
    stats = live.ask("GET", "/info/").json()["train_stats"][MODEL]
    assert stats["model_time"] == pytest.approx(time.time(), abs=600)


def test_network_trained_in_another_process_denoises_studies_and_files_sent(live, training, tmp_path):
    network = resolve_model(str(live.app_dir / "model" / MODEL))
    real = Path(nibabel.tests.__file__).with_name("data") / "anatomical.nii"
    phantom = live.studies / "phantom_0.nii.gz"
    url = f"/infer/{MODEL}"
    params = {"params": json.dumps({"device": "cpu"})}
    with real.open("rb") as file:
        sent = live.ask("POST", f"{url}?output=image", data=params, files={"file": ("anatomical.nii", file)})
    known = live.ask("POST", f"{url}?image=phantom_0&output=image", data=params)
    for source, answer in ((real, sent), (phantom, known)):
        result, noisy = voxels(answer, tmp_path), nibabel.load(source)
        expected = Denoiser(network)(source)
        assert np.array_equal(result.get_fdata(), expected.squeeze(0))
        assert result.shape == noisy.shape
        assert np.allclose(result.affine, noisy.affine)
        assert not np.allclose(result.get_fdata(), noisy.get_fdata())


def test_training_stopped_twice_goes_on_from_its_checkpoint(live):
    live.train(max_epochs=LONG)
    live.wait(lambda: live.task()["status"] == "RUNNING" and max(live.checkpoints(), default=0) >= 3, why="epoch 3")
    name, stats = next(iter(live.ask("GET", "/info/").json()["train_stats"].items()))
    assert (name, stats["total_epochs"]) == (MODEL, LONG)
    assert stats["epoch"] >= 2
    assert "total_time" not in stats, "it runs"
    assert live.ask("POST", f"/infer/{MODEL}?image=phantom_0&output=json", data={"params": "{}"}).ok
    stopped = live.ask("DELETE", "/train/").json()
    assert stopped["status"] == "STOPPED"
    assert live.ask("GET", "/info/").json()["train_stats"][MODEL]["total_time"]
    again = live.ask("DELETE", "/train/")
    assert again.ok
    assert again.json() is None
    assert live.ask("GET", "/info/").ok
    assert live.task() | {"details": None} == stopped | {"details": None}
    epoch = max(live.checkpoints())
    live.train(max_epochs=epoch + 1, resume=True)
    resumed = live.ended()
    assert resumed["status"] == "DONE", resumed["details"]
    assert list(losses(resumed, "train")) == [epoch + 1]
    assert any("SupervisedTrainer: Engine run resuming" in line for line in resumed["details"])


def test_unknown_model_is_refused_in_one_sentence(live):
    answer = live.train("unet_of_nobody")
    assert answer.status_code == 404
    assert "got unet_of_nobody" in answer.json()["detail"]


def test_batch_inference_stores_images_that_the_server_lists(live, training):
    answer = live.ask("POST", f"/batch/infer/{MODEL}?images=all")  # with what MONAI Label sends by itself
    assert answer.status_code == 200, answer.text
    task = live.ended("/batch/infer")
    assert task["status"] == "DONE", task["details"]
    denoised = {f"phantom_{k}_denoised" for k in range(3)}
    images = live.wait(lambda: denoised <= set(found := live.images()) and found, 20, "denoised images")
    assert set(images) == denoised | {f"phantom_{k}" for k in range(3)}
    for k in range(3):
        info = images[f"phantom_{k}_denoised"]
        assert (info["n2v_source"], info["n2v_model"]) == (f"phantom_{k}", MODEL)


def test_training_without_images_is_refused_in_one_sentence(live):
    for path in live.studies.glob("*.nii.gz"):
        path.unlink()
    live.wait(lambda: not live.images(), 20, "studies without images")
    answer = live.train(max_epochs=1)
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("studies must hold at least one noisy image")


def test_server_that_is_killed_leaves_no_training_behind(live):
    import psutil

    nibabel.save(nibabel.Nifti1Image(phantom_3d(0)[1], AFFINE), live.studies / "phantom_0.nii.gz")
    live.wait(lambda: live.images(), 20, "an image")
    live.train(max_epochs=LONG)
    live.wait(lambda: "epoch" in live.ask("GET", "/info/").json()["train_stats"][MODEL], why="an epoch")
    tasks = psutil.Process(live.process.pid).children(recursive=True)
    assert any("train" in task.cmdline() for task in tasks)
    live.process.kill()
    gone, alive = psutil.wait_procs(tasks, timeout=90)
    for task in alive:
        task.kill()
    assert gone
    assert not alive
