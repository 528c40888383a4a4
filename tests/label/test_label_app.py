# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from label.serving import AFFINE, SIGMA, phantom_3d, psnr
from monai_n2v.io import find_images


def test_info_lists_models_without_bogus_labels_before_anything_was_trained(server):
    info = server.client.get("/info/").json()
    assert set(info["models"]) == {"n2v_denoise_2d", "n2v_denoise_3d"}
    assert info["models"]["n2v_denoise_3d"]["type"] == "others"
    assert info["models"]["n2v_denoise_3d"]["labels"] == {}
    assert set(info["trainers"]) == {"n2v_denoise_2d", "n2v_denoise_3d"}
    assert info["trainers"]["n2v_denoise_3d"]["config"]["max_epochs"] == 100
    assert "denoised_first" in info["strategies"]


def test_network_trained_on_the_image_denoises(server):
    clean, noisy = phantom_3d(0)
    answer = server.infer("n2v_denoise_3d", "phantom_0", device="cpu", train_on_image=True, max_epochs=15)
    assert psnr(server.voxels(answer).get_fdata(), clean) > psnr(noisy, clean) + 3


def test_saved_images_are_listed_with_their_source_and_never_denoised_or_trained_on(trained):
    answer = trained.infer("n2v_denoise_3d", "phantom_1", output="json", save_image=True)
    assert answer.status_code == 200, answer.text
    assert answer.json()["image_id"] == "phantom_1_denoised"
    datastore = trained.instance.datastore()
    info = datastore.get_image_info("phantom_1_denoised")
    assert (info["n2v_source"], info["n2v_model"]) == ("phantom_1", "n2v_denoise_3d")
    stored = nibabel.load(datastore.get_image_uri("phantom_1_denoised"))
    assert stored.get_data_dtype() == np.float32
    assert np.allclose(stored.affine, AFFINE)

    refused = trained.infer("n2v_denoise_3d", "phantom_1_denoised")
    assert refused.status_code == 400
    assert refused.json()["detail"] == (
        "image must be noisy, got phantom_1_denoised, which is denoised. Send its source."
    )
    task = trained.instance._trainers["n2v_denoise_3d"]
    learned_from = [item["image"] for item in task._fetch_datalist({}, datastore)]
    assert sorted(path.rsplit("/", 1)[1] for path in learned_from) == [f"phantom_{k}.nii.gz" for k in range(3)]
    # The command line and the bundles know it, too.
    assert [item["image"] for item in find_images(trained.studies)] == sorted(learned_from)


def test_copy_is_told_by_its_name_where_the_datastore_lost_its_info(trained):
    trained.infer("n2v_denoise_3d", "phantom_1", output="json", save_image=True)
    datastore = trained.instance.datastore()
    datastore._datastore.objects["phantom_1_denoised"].image.info.pop("n2v_source")
    assert trained.infer("n2v_denoise_3d", "phantom_1_denoised").status_code == 400


def test_saving_again_replaces_the_copy(trained):
    datastore = trained.instance.datastore()
    for tta in (False, True):
        trained.infer("n2v_denoise_3d", "phantom_1", output="json", save_image=True, tta=tta)
    stored = nibabel.load(datastore.get_image_uri("phantom_1_denoised")).get_fdata()
    expected = trained.voxels(trained.infer("n2v_denoise_3d", "phantom_1", tta=True)).get_fdata()
    assert np.array_equal(stored, expected)
    assert datastore.list_images().count("phantom_1_denoised") == 1


def test_batch_stores_images_not_labels_and_none_twice(trained):
    datastore = trained.instance.datastore()
    assert trained.batch("n2v_denoise_3d").status_code == 200
    assert sorted(datastore.list_images()) == sorted(
        f"phantom_{k}{suffix}" for k in range(3) for suffix in ("", "_denoised")
    )
    assert not any(datastore.get_labels_by_image_id(image_id) for image_id in datastore.list_images())
    again = trained.batch("n2v_denoise_3d")
    assert again.json() == {}, "all are denoised"
    assert set(trained.batch("n2v_denoise_3d", overwrite=True).json()) == {f"phantom_{k}" for k in range(3)}


def test_denoised_first_hands_out_denoised_images_and_no_source_of_theirs(trained):
    def next_sample() -> str:
        return trained.client.post("/activelearning/denoised_first").json()["id"]

    assert next_sample().startswith("phantom_")
    trained.infer("n2v_denoise_3d", "phantom_2", output="json", save_image=True)
    assert next_sample() == "phantom_2_denoised"
    rest = {next_sample() for _ in range(4)}
    assert "phantom_2" not in rest
    trained.batch("n2v_denoise_3d")
    assert len({next_sample() for _ in range(2)}) == 2  # within one second, too
    assert {next_sample() for _ in range(3)} == {f"phantom_{k}_denoised" for k in range(3)}


@pytest.mark.parametrize(
    ("model", "image", "params", "status", "told"),
    [
        (
            "n2v_denoise_4d",
            "phantom_0",
            {},
            404,
            "model must be of n2v_denoise_3d, n2v_denoise_2d, got n2v_denoise_4d.",
        ),
        ("n2v_denoise_3d", "nobody", {}, 404, "image must be of the studies, got nobody."),
        (
            "n2v_denoise_3d",
            "phantom_0",
            {"label_info": []},
            400,
            "model must segment for DICOM SEG, got n2v_denoise_3d.",
        ),
        ("n2v_denoise_3d", "phantom_0", {"dtype": "uint8"}, 400, "dtype must be float32 or input, got uint8."),
        ("n2v_denoise_3d", "phantom_0", {"device": 5}, 400, "device must be cpu, cuda or cuda:N, got 5."),
        ("n2v_denoise_3d", "phantom_0", {"train_on_image": True, "max_epochs": "x"}, 400, "max_epochs must be a whole"),
        ("n2v_denoise_3d", "phantom_0", {"train_on_image": True, "max_time": "nan"}, 400, "max_time must be a number"),
        ("n2v_denoise_3d", "phantom_0", {"tta": 3}, 400, "tta must be true or false, got 3."),
        ("n2v_denoise_3d", "flat_2d", {}, 400, "image must have 3 axes for n2v_denoise_3d, got 2 for /"),
        ("n2v_denoise_3d", "broken", {}, 400, "broken.nii.gz"),
    ],
)
def test_wrong_questions_are_answered_in_one_sentence(trained, model, image, params, status, told):
    nibabel.save(nibabel.Nifti1Image(phantom_3d(0)[1][:, :, 3], AFFINE), trained.studies / "flat_2d.nii.gz")
    (trained.studies / "broken.nii.gz").write_bytes(b"no image")
    trained.instance.datastore().refresh()
    answer = trained.infer(model, image, **params)
    assert answer.status_code == status
    assert told in answer.json()["detail"]
    assert "\n" not in answer.json()["detail"]
    assert trained.client.get("/info/").status_code == 200


def test_files_of_the_server_that_are_no_studies_are_not_read(trained, tmp_path):
    """Else every client could have any image of the machine denoised and sent."""
    secret = tmp_path / "secret.nii.gz"
    secret.write_bytes((trained.studies / "phantom_0.nii.gz").read_bytes())
    link = trained.studies / ".." / secret.parent.name / secret.name
    form = {"params": json.dumps({"image": str(secret)})}
    hidden = trained.client.post("/infer/n2v_denoise_3d?image=phantom_0&output=image", data=form)
    for answer in (hidden, *(trained.infer("n2v_denoise_3d", str(path)) for path in (secret, link))):
        assert answer.status_code == 404
        assert "image must be of the studies" in answer.json()["detail"]
    assert secret.exists()
    assert trained.infer("n2v_denoise_3d", str(trained.studies / "phantom_0.nii.gz")).status_code == 200


def test_constant_image_is_refused_as_by_the_command_line(trained):
    nibabel.save(nibabel.Nifti1Image(np.full((32, 32, 16), 7, np.int16), AFFINE), trained.studies / "constant.nii.gz")
    trained.instance.datastore().refresh()
    answer = trained.infer("n2v_denoise_3d", "constant")
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("image must vary, got the constant 7 for ")


def test_what_is_made_beside_is_kept_as_labels_of_its_own_tags(trained):
    for _ in range(2):  # the second time in the place of the first
        answer = trained.infer(
            "n2v_denoise_3d", "phantom_1", "json", save_residual=True, save_noise_map=True, report=True
        )
        assert answer.status_code == 200, answer.text
    told = answer.json()
    assert told["network"] == "a network that was trained on images of these studies"
    assert isinstance(told["warnings"], list)
    denoised = trained.voxels(trained.infer("n2v_denoise_3d", "phantom_1")).get_fdata()
    for tag, expected in {"residual": phantom_3d(1)[1] - denoised, "noise_map": None}.items():
        kept = trained.client.get(told[tag])
        voxels = trained.voxels(kept)
        assert np.allclose(voxels.affine, AFFINE)
        if expected is not None:
            assert np.allclose(voxels.get_fdata(), expected, atol=1e-3)
        else:
            assert 0.3 * SIGMA < np.median(voxels.get_fdata()) < 1.5 * SIGMA
    page = trained.client.get(told["report"])
    assert page.headers["content-type"].startswith("text/html")
    assert "phantom_1" in page.text
    datastore = trained.instance.datastore()
    datastore.refresh()
    assert sorted(datastore.list_images()) == [f"phantom_{k}" for k in range(3)], "none is an image"
    assert trained.client.get(told["residual"]).status_code == 200
    assert trained.client.get("/info/").json()["datastore"]["completed"] == 3
    assert not list(Path(tempfile.gettempdir()).glob("phantom_1_residual*"))


def test_images_named_by_their_path_in_the_studies_are_kept_by_their_id(trained):
    path = trained.studies / "phantom_2.nii.gz"
    told = trained.infer("n2v_denoise_3d", str(path), output="json", save_image=True, report=True).json()
    assert told["image_id"] == "phantom_2_denoised"
    assert told["report"] == "/datastore/label?label=phantom_2&tag=n2v_report"
    assert trained.instance.datastore().get_image_info("phantom_2_denoised")["n2v_source"] == "phantom_2"


def test_warnings_of_a_result_are_told(trained):
    smooth = ndimage.uniform_filter(phantom_3d(1)[1], 5).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(smooth, AFFINE), trained.studies / "smooth.nii.gz")
    trained.instance.datastore().refresh()
    warnings = trained.infer("n2v_denoise_3d", "smooth", output="json").json()["warnings"]
    assert any("residual shows structure" in one for one in warnings), warnings


def test_what_is_made_beside_needs_a_place_in_the_studies(trained, tmp_path):
    (tmp_path / "a.nii.gz").write_bytes((trained.studies / "phantom_0.nii.gz").read_bytes())
    with (tmp_path / "a.nii.gz").open("rb") as file:
        form = {"params": '{"report": true}'}
        answer = trained.client.post("/infer/n2v_denoise_3d", files={"file": ("a.nii.gz", file)}, data=form)
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("image must be of the studies for report, got ")


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"images": "nobody"}, "images must be of the studies, got nobody. GET /datastore/ lists them."),
        ({"max_epochs": 0}, "max_epochs must be a whole number from 1, got 0. Leave it out for 100."),
        ({"device": "nonsense"}, "device must be cpu, cuda or cuda:N, got 'nonsense'. GET /info/ lists them."),
        ({"val_split": "x"}, "val_split must be a number, got 'x'. Leave it out for -1."),
        ({"images": 5}, "images must be ids with commas, got 5. Leave it out for all."),
        ({"resume": "perhaps"}, "resume must be true or false, got 'perhaps'. Send one of them."),
    ],
)
def test_wrong_trainings_are_refused_in_one_sentence(server, params, told):
    answer = server.train("n2v_denoise_3d", **{"device": "cpu", **params})
    assert (answer.status_code, answer.json()["detail"]) == (400, told)


def test_training_on_studies_without_images_is_refused(server):
    for path in server.studies.glob("*.nii.gz"):
        path.unlink()
    server.instance.datastore().refresh()
    answer = server.train("n2v_denoise_3d", device="cpu")
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("studies must hold at least one noisy image, got none")


def test_files_at_fault_cost_neither_a_training_nor_a_batch(trained, capfd):
    (trained.studies / "broken.nii.gz").write_bytes(b"no image")
    nan = np.full((16, 16, 16), np.nan, np.float32)
    nibabel.save(nibabel.Nifti1Image(nan, AFFINE), trained.studies / "nan.nii.gz")
    nibabel.save(nibabel.Nifti1Image(phantom_3d(0)[1][:, :, 3], AFFINE), trained.studies / "flat_2d.nii.gz")
    trained.instance.datastore().refresh()
    assert trained.train("n2v_denoise_3d", max_epochs=1, device="cpu").status_code == 200
    left_out = trained.client.get("/info/").json()["train_stats"]["n2v_denoise_3d"]["left_out"]
    assert len(left_out) == 3
    printed = "".join(capfd.readouterr())
    for name in ("broken", "nan", "flat_2d"):
        assert any(f"{name}.nii.gz" in fault for fault in left_out), left_out
        assert f"{name}.nii.gz" in printed.rpartition("Epoch 1 of 1")[2], "the last lines, which the server keeps"
    answer = trained.batch("n2v_denoise_3d").json()
    assert {name for name, one in answer.items() if "error" in one} == {"broken", "nan", "flat_2d"}
    assert "readable NIfTI file" in answer["broken"]["error"]
    copies = [image_id for image_id in trained.instance.datastore().list_images() if image_id.endswith("_denoised")]
    assert sorted(copies) == [f"phantom_{k}_denoised" for k in range(3)]
    refused = trained.train("n2v_denoise_3d", images="broken", device="cpu")
    assert refused.status_code == 400
    assert "broken.nii.gz" in refused.json()["detail"]


def test_resuming_with_other_settings_is_refused_in_one_sentence(trained):
    answer = trained.train("n2v_denoise_3d", resume=True, epoch_length=7, max_epochs=100, device="cpu")
    assert answer.status_code == 400
    assert "epoch_length must stay 10" in answer.json()["detail"]
    assert "\n" not in answer.json()["detail"]


def test_weights_there_are_used_by_one_training_alone(trained, caplog):
    for pretrained in (True, False):
        caplog.clear()
        answer = trained.train("n2v_denoise_3d", pretrained=pretrained, max_epochs=1, device="cpu")
        assert answer.status_code == 200
        assert ("Add Checkpoint Loader" in caplog.text) == pretrained
        handlers = trained.instance._trainers["n2v_denoise_3d"].bundle_config.get("train#handlers")
        assert sum(one.get("_target_") == "CheckpointLoader" for one in handlers) == pretrained


def test_upload_that_is_refused_does_not_stay(trained, tmp_path):
    before = set(Path(tempfile.gettempdir()).glob("tmp????????.nii.gz"))
    (tmp_path / "a.nii.gz").write_bytes((trained.studies / "phantom_0.nii.gz").read_bytes())
    with (tmp_path / "a.nii.gz").open("rb") as file:
        form = {"params": '{"save_image": true}'}
        answer = trained.client.post("/infer/n2v_denoise_3d", files={"file": ("a.nii.gz", file)}, data=form)
    assert answer.status_code == 400
    (tmp_path / "b.nii.gz").write_bytes(b"no image")
    with (tmp_path / "b.nii.gz").open("rb") as file:
        answer = trained.client.post("/infer/n2v_denoise_3d", files={"file": ("b.nii.gz", file)})
    assert answer.status_code == 400
    assert set(Path(tempfile.gettempdir()).glob("tmp????????.nii.gz")) == before


@pytest.mark.parametrize("suffix", [".png", ".tif", ".nii.gz"])
def test_images_of_two_axes_by_the_2d_network(trained, suffix, tmp_path):
    noisy = np.clip(phantom_3d(0)[1][:, :, 15] / 3, 0, 255)
    path = tmp_path / f"plane{suffix}"
    if suffix == ".nii.gz":
        nibabel.save(nibabel.Nifti1Image(noisy.astype(np.float32), AFFINE), path)
    else:
        from PIL import Image

        Image.fromarray(noisy.astype(np.uint8)).save(path)
    from monai_n2v.io.images import read_volume

    with path.open("rb") as file:
        answer = trained.client.post("/infer/n2v_denoise_2d?output=image", files={"file": (path.name, file)})
    assert answer.status_code == 200, answer.text
    result = tmp_path / f"result{suffix}"
    result.write_bytes(answer.content)
    before, after = read_volume(path).data, read_volume(result).data
    assert before.shape == after.shape == (1, 48, 48)
    assert 5 < np.std(before - after) < 30
