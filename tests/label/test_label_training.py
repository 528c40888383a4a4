# SPDX-License-Identifier: Apache-2.0
"""A training as clients see it: whether it may start, how far it is, which network is in use meanwhile."""

from __future__ import annotations

import shutil
from pathlib import Path

import itk
import numpy as np
import pytest
import tifffile

from label.serving import AFFINE, FEATURES, SIGMA, make_small, phantom_3d
from monai_n2v.bundle.resources import find_bundle
from monai_n2v.io import read_volume

MODEL = "n2v_denoise_3d"


@pytest.fixture(autouse=True)
def no_tasks_of_before(monkeypatch):
    from monailabel.utils.async_tasks import utils

    monkeypatch.setattr(utils, "background_tasks", {})


def pretend_to_train(monkeypatch, model: str) -> None:
    """A task as MONAI Label notes it for a training in a process of its own."""
    from monailabel.utils.async_tasks import utils

    task = {"id": "1", "status": "RUNNING", "request": {"model": model}}
    monkeypatch.setitem(utils.background_tasks, "train", [task])


# What MONAI Label's plugin for 3D Slicer makes of the server's answers (0.8.5, and its main branch of 2025-12-24):
# MONAILabel.py, updateGUIFromParameterNode and monitorTraining.
def slicer_enables_train(info: dict, is_running: bool) -> bool:
    return bool(info and not is_running and info.get("datastore", {}).get("completed", 0))


def slicer_percent(info: dict) -> float:
    first = next(iter(info["train_stats"].values()))
    epoch = 0 if first.get("total_time") else first.get("epoch", 1)
    return max(1, 100 * epoch / first.get("total_epochs", 1))


def slicer_accuracy(info: dict) -> float:
    return 100 * next(iter(info["train_stats"].values())).get("best_metric", 0)


# OHIF's extension of the same branch, ActiveLearning.tsx.
def ohif_percent(info: dict) -> float:
    first = next(iter(info["train_stats"].values()))
    epochs = 0 if first.get("total_time") else first.get("epoch") or 1
    return 100 * epochs / (first.get("total_epochs") or 1)


def info_of(server) -> dict:
    return server.client.get("/info/").json()


def watched(server, monkeypatch, look) -> list:
    """What ``look()`` finds after every epoch of the trainings to come."""
    from monai_n2v.label.progress import TrainingProgress

    seen = []
    told = TrainingProgress.__call__

    def tell(self, engine):
        told(self, engine)
        seen.append(look())

    monkeypatch.setattr(TrainingProgress, "__call__", tell)
    return seen


def told_by(capfd) -> str:
    """What a training has printed: MONAI sets up logging anew for it."""
    return "".join(capfd.readouterr())


def weights(server, name: str = "model.pt") -> bytes | None:
    path = server.app_dir / "model" / MODEL / "models" / name
    return path.read_bytes() if path.is_file() else None


def train(server, **params) -> None:
    answer = server.train(MODEL, **{"device": "cpu", "epoch_length": 3, **params})
    assert answer.status_code == 200, answer.text


def test_train_button_of_slicer_is_enabled_where_images_can_be_trained_on(server):
    info = info_of(server)
    assert info["datastore"]["completed"] == info["datastore"]["total"] == 3
    assert slicer_enables_train(info, is_running=False)
    assert not slicer_enables_train(info, is_running=True)
    assert (slicer_percent(info), ohif_percent(info)) == (1, 0), "nothing runs"
    assert list(info["trainers"]) == list(info["models"]) == list(info["train_stats"]) == [MODEL, "n2v_denoise_2d"]
    for path in server.studies.glob("*.nii.gz"):
        path.unlink()
    server.instance.datastore().refresh()
    assert not slicer_enables_train(info_of(server), is_running=False)


def test_options_are_of_kinds_that_the_table_of_slicer_can_show(server):
    info = info_of(server)
    for entry in (*info["models"].values(), *info["trainers"].values()):
        for value in entry["config"].values():
            assert isinstance(value, (str, bool, int, float, list))
            assert not isinstance(value, list) or all(isinstance(one, str) for one in value)


@pytest.mark.parametrize("model", list(FEATURES))
def test_progress_of_the_model_that_trains_is_what_clients_show(server, monkeypatch, model, capfd):
    pretend_to_train(monkeypatch, model)
    seen = watched(server, monkeypatch, lambda: info_of(server))
    answer = server.train(model, device="cpu", max_epochs=4, epoch_length=2)
    assert answer.status_code == 200, answer.text
    assert [slicer_percent(info) for info in seen] == [25, 50, 75, 100]
    assert [ohif_percent(info) for info in seen] == [25, 50, 75, 100]
    for info in seen:
        stats = info["train_stats"][model]
        assert 0 <= slicer_accuracy(info) <= 100
        assert stats["best_metric"] == pytest.approx(max(0, 1 - stats["best_loss"]), abs=1e-4)
        assert stats["remaining_seconds"] >= 0
    assert seen[-1]["train_stats"][model]["remaining_seconds"] == 0
    assert "Epoch 2 of 4, about 0:00:" in told_by(capfd)
    monkeypatch.undo()
    info = info_of(server)
    assert info["train_stats"][model]["total_time"], "its end"
    assert (slicer_percent(info), ohif_percent(info)) == (1, 0)


def test_weights_are_in_use_from_the_first_epoch(server, monkeypatch):
    seen = watched(server, monkeypatch, lambda: (weights(server), server.infer(MODEL, "phantom_0", output="json")))
    train(server, max_epochs=3)
    assert None not in [found for found, _ in seen]
    assert len({found for found, _ in seen}) == 3, "every epoch"
    for _, answer in seen:
        assert answer.status_code == 200, answer.text
        assert answer.json()["network"] == "a network that was trained on images of these studies"
    assert weights(server) == seen[-1][0]
    assert weights(server, "model_before.pt") is None


def test_retraining_keeps_the_network_in_use_until_it_is_better(server, monkeypatch, capfd):
    train(server, max_epochs=4)
    first = weights(server)
    train(server, max_epochs=1, epoch_length=1)  # anew, and too short
    assert weights(server) == first
    assert weights(server, "model_before.pt") is None
    assert "The network in use stays" in told_by(capfd)
    seen = watched(server, monkeypatch, lambda: weights(server))
    train(server, max_epochs=4, pretrained=True)
    assert weights(server) == seen[-1] != first
    assert weights(server, "model_before.pt") == first


def test_resumed_training_knows_which_network_it_replaces(server, monkeypatch):
    train(server, max_epochs=4)
    first = weights(server)
    train(server, max_epochs=1, epoch_length=1)
    before = info_of(server)["train_stats"][MODEL]
    assert before["took_over"] is False
    train(server, max_epochs=2, epoch_length=1, resume=True)
    after = info_of(server)["train_stats"][MODEL]
    assert after["replaced_loss"] == before["replaced_loss"]
    assert after["epoch"] == 2
    assert weights(server) == first


def test_network_of_another_shape_is_replaced_and_kept(server, capfd):
    import torch

    train(server, max_epochs=1)
    path = server.app_dir / "model" / MODEL / "models" / "model.pt"
    state = torch.load(path, weights_only=True)
    torch.save({name: value.repeat(2, *[1] * (value.ndim - 1)) for name, value in state.items()}, path)
    other = path.read_bytes()
    train(server, max_epochs=1)
    assert "of another shape" in told_by(capfd)
    assert weights(server) != other
    assert weights(server, "model_before.pt") == other


@pytest.mark.parametrize(
    ("params", "status", "told"),
    [
        ({"epoch": 3}, 400, "epoch must be an option of the request, got an unknown one. Did you mean epochs?"),
        ({"learning_rate": 1}, 400, "learning_rate must be an option of the request, got an unknown one. There are"),
        ({"epochs": 3, "max_epochs": 4}, 400, "epochs must come without max_epochs, got both. Send one of them."),
        ({"epochs": "x"}, 400, "epochs must be a whole number from 1, got 'x'. Leave it out for 100."),
        ({"val_split": 1}, 400, "val_split must be below 1, got 1. Leave it out for -1."),
        ({"gpus": "first"}, 400, "gpus must be all or numbers with commas, got first. Leave it out for all."),
        ({"resume": True}, 404, "resume must find a training that was stopped, got none. Train without it first."),
    ],
)
def test_wrong_trainings_are_refused_before_they_are_accepted(server, params, status, told):
    answer = server.client.post(f"/train/{MODEL}", json={"device": "cpu", **params})  # in a process of its own
    assert (answer.status_code, answer.json()["detail"][: len(told)]) == (status, told)
    assert server.client.get("/train/").status_code == 404, "no task was made"


def test_what_clients_always_send_is_no_unknown_option(server):
    train(server, epochs=1, client_id="slicer", images="", val_split=-1, gpus="all", multi_gpu=False)
    options = info_of(server)["models"][MODEL]["config"]
    slicer = {name: value[0] if isinstance(value, list) else value for name, value in options.items()}
    slicer |= {"client_id": "x", "result_extension": ".nrrd", "result_dtype": "uint8"}
    ohif = {"result_extension": ".nrrd", "result_dtype": "uint8", "result_compress": False, "restore_label_idx": False}
    for params in (slicer, ohif):
        assert server.infer(MODEL, "phantom_0", **params).status_code == 200
    answer = server.infer(MODEL, "phantom_0", keep_pading=True)
    assert answer.status_code == 400
    assert answer.json()["detail"].endswith("Did you mean keep_padding?")
    batch = server.batch(MODEL, overwrit=True)
    assert batch.status_code == 400
    assert batch.json()["detail"].endswith("Did you mean overwrite?")


def test_resuming_below_the_epochs_done_is_refused_in_one_sentence(server):
    train(server, max_epochs=2)
    answer = server.train(MODEL, device="cpu", epoch_length=3, max_epochs=2, resume=True)
    assert answer.status_code == 400
    assert answer.json()["detail"] == (
        "max_epochs must be above the 2 epochs that the training has done, got 2. "
        "Send for example 4, or leave resume out to train anew."
    )


@pytest.mark.parametrize(("depth", "needed"), [(32, MODEL), (5, "n2v_denoise_2d"), (0, "n2v_denoise_2d")])
def test_training_without_a_model_takes_the_network_that_the_studies_need(server, depth, needed):
    import nibabel

    for path in server.studies.glob("*.nii.gz"):
        voxels = phantom_3d(0)[1][..., :depth] if depth else phantom_3d(0)[1][..., 4]
        nibabel.save(nibabel.Nifti1Image(voxels, AFFINE), path)
    # What OHIF sends: the options of all models, by their names.
    options = {
        name: {**entry["config"], "max_epochs": 1, "epoch_length": 1}
        for name, entry in info_of(server)["trainers"].items()
    }
    answer = server.client.post("/train/?run_sync=true", json=options)
    assert answer.status_code == 200, answer.text
    assert list(answer.json()) == [needed]
    models = {name: (server.app_dir / "model" / name / "models" / "model.pt").is_file() for name in FEATURES}
    assert models == {name: name == needed for name in FEATURES}


def with_prior(server, model: str = MODEL) -> None:
    """The small networks of these tests are not the prior's: give a bundle its own configs back."""
    shutil.copytree(find_bundle(model) / "configs", server.app_dir / "model" / model / "configs", dirs_exist_ok=True)


def as_kind(server, suffix: str) -> Path:
    """The first phantom as a file of another kind; of one that holds images of two axes, a slice of it."""
    source = server.studies / "phantom_0.nii.gz"
    target = source.with_name(f"other{suffix}")
    voxels = phantom_3d(0)[1]
    if suffix in (".tif", ".tiff"):
        tifffile.imwrite(target, voxels[..., 12])
    elif suffix == ".npy":
        np.save(target, voxels)
    else:
        itk.imwrite(itk.image_from_array(np.ascontiguousarray(voxels.T)), str(target))
    return target


@pytest.mark.parametrize("suffix", [".tiff", ".mha", ".mhd", ".nrrd", ".npy"])
def test_images_of_every_kind_are_served_trained_on_and_stored_denoised(server, suffix):
    model = "n2v_denoise_2d" if suffix == ".tiff" else MODEL
    path = as_kind(server, suffix)
    with_prior(server, model)
    server.instance.datastore().refresh()
    assert "other" in server.instance.datastore().list_images()
    answer = server.infer(model, "other", output="json", save_image=True, device="cpu")
    assert answer.status_code == 200, answer.text
    copy = Path(server.instance.datastore().get_image_uri(answer.json()["image_id"]))
    noisy, denoised = read_volume(path), read_volume(copy)
    assert copy.name == ("other_denoised.mha" if suffix == ".mhd" else f"other_denoised{suffix}")
    assert denoised.data.shape == noisy.data.shape
    assert denoised.spacing == pytest.approx(noisy.spacing)
    assert 0.3 * SIGMA < (noisy.data - denoised.data).std() < 1.2 * SIGMA
    make_small(server.app_dir)
    (server.app_dir / "model" / model / "models" / "model.pt").unlink(missing_ok=True)
    found = server.train(model, device="cpu", max_epochs=1, epoch_length=1, images="other")
    assert found.status_code == 200, found.text


def test_images_that_monai_label_does_not_see_are_told_of_at_the_start(server, caplog):
    source = server.studies / "phantom_0.nii.gz"
    (server.studies / "sub").mkdir()
    source.rename(server.studies / "sub" / source.name)
    as_kind(server, ".mha").rename(server.studies / "phantom_1.mha")
    server.instance.datastore().refresh()
    server.instance.on_init_complete()
    assert "1 images in folders below the studies are not served" in caplog.text
    assert "phantom_1.mha is not served: another image of the studies has its name. Rename it." in caplog.text
    for path in server.studies.glob("phantom*"):
        path.unlink()
    server.instance.datastore().refresh()
    with pytest.raises(ValueError, match=r"studies must hold images themselves, got 1 in folders below .*phantom_0"):
        server.instance.on_init_complete()


def test_answer_says_which_network_denoised(server):
    # The small networks of these tests are not the prior's: its own bundle in their place.

    with_prior(server)
    answer = server.infer(MODEL, "phantom_0", output="json")
    assert answer.status_code == 200, answer.text
    assert answer.json()["network"] == "the prior alone, nothing was trained on this image"
