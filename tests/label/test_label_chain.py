# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from label.serving import AFFINE, Server, add_segmenter, dice, make_studies, phantom_3d, psnr
from monai_n2v.bundle import Denoiser, resolve_model
from monai_n2v.label.operators import make_torchvision_importable


@pytest.fixture
def segmenting(trained_app, tmp_path):
    """A trained app with a segmenter, and noisy phantoms."""
    app_dir = tmp_path / "app"
    shutil.copytree(trained_app, app_dir)
    add_segmenter(app_dir)
    return Server(app_dir, make_studies(tmp_path / "studies"))


def test_segmenter_is_served_as_it_is_and_after_denoising(segmenting):
    models = segmenting.client.get("/info/").json()["models"]
    chained = models["toy_segmentation_after_n2v"]
    assert chained["type"] == models["toy_segmentation"]["type"] == "segmentation"
    assert chained["labels"] == {"ball": 1}
    assert chained["config"]["denoise"] is True
    assert "after denoising by n2v_denoise_3d" in chained["description"]


def test_dice_on_noisy_volumes_rises_and_the_switch_gives_the_segmenters_own_mask(segmenting):
    for k in range(3):
        image, truth = f"phantom_{k}", phantom_3d(k)[0] > 525

        def mask(model: str, image: str = image, **params) -> nibabel.Nifti1Image:
            # As 3D Slicer and OHIF ask, but for the suffix: nibabel reads no NRRD.
            return segmenting.voxels(segmenting.infer(model, image, result_dtype="uint8", **params))

        noisy, after = mask("toy_segmentation"), mask("toy_segmentation_after_n2v")
        off = mask("toy_segmentation_after_n2v", denoise=False)
        assert after.get_data_dtype() == np.uint8
        assert np.allclose(after.affine, AFFINE)
        assert np.array_equal(off.get_fdata(), noisy.get_fdata())
        assert dice(after.get_fdata(), truth) > dice(noisy.get_fdata(), truth) + 0.02


def test_chained_denoising_is_that_of_the_denoiser_alone(segmenting):
    from monai_n2v.label.segment_after import DenoiseImaged  # needs MONAI Label

    alone = segmenting.voxels(segmenting.infer("n2v_denoise_3d", "phantom_0", device="cpu")).get_fdata()
    noisy = MetaTensor(torch.from_numpy(phantom_3d(0)[1])[None], affine=torch.from_numpy(AFFINE))
    denoiser = segmenting.instance._denoisers["n2v_denoise_3d"]
    chained = DenoiseImaged("image", denoiser, "cpu")({"image": noisy})["image"]
    assert np.array_equal(chained[0].numpy(), alone.astype(np.float32))
    assert torch.equal(chained.affine, noisy.affine)


def test_denoised_copy_is_segmented_as_it_is(segmenting):
    segmenting.infer("n2v_denoise_3d", "phantom_0", output="json", save_image=True)
    masks = [
        segmenting.voxels(segmenting.infer(model, "phantom_0_denoised")).get_fdata()
        for model in ("toy_segmentation", "toy_segmentation_after_n2v")
    ]
    assert np.array_equal(*masks)


@pytest.mark.parametrize("config", ["metadata.json", "inference.json"])
def test_broken_bundle_is_left_out_and_named(segmenting, config, caplog):
    (segmenting.app_dir / "model" / "toy_segmentation" / "configs" / config).write_text("{")
    server = Server(segmenting.app_dir, segmenting.studies)
    assert set(server.client.get("/info/").json()["models"]) == {"n2v_denoise_2d", "n2v_denoise_3d"}
    assert "toy_segmentation is not served" in caplog.text


def test_segmenter_is_not_trained(segmenting):
    answer = segmenting.train("toy_segmentation")
    assert answer.status_code == 404
    told = "model must be of n2v_denoise_3d, n2v_denoise_2d to be trained"
    assert answer.json()["detail"].startswith(told)
    segmenting.instance.server_mode(False)  # as in the process of a task
    with pytest.raises(SystemExit, match=told):
        segmenting.instance.train({"model": "toy_segmentation"})


def test_before_any_training_the_prior_denoises_alone_and_for_the_segmenter(tmp_path):
    from monai_n2v.label.__main__ import main

    assert main(["init", str(tmp_path / "app")]) == 0
    add_segmenter(tmp_path / "app")
    server = Server(tmp_path / "app", make_studies(tmp_path / "studies", 1))
    clean, noisy = phantom_3d(0)
    answer = server.infer("n2v_denoise_3d", "phantom_0", device="cpu")
    assert psnr(server.voxels(answer).get_fdata(), clean) > psnr(noisy, clean) + 5
    assert server.infer("toy_segmentation_after_n2v", "phantom_0").status_code == 200
    off = server.infer("toy_segmentation_after_n2v", "phantom_0", denoise=False)
    assert off.status_code == 200


def test_batch_of_a_chained_segmenter_saves_labels_and_leaves_denoised_images_out(segmenting):
    segmenting.infer("n2v_denoise_3d", "phantom_0", output="json", save_image=True)
    answer = segmenting.batch("toy_segmentation_after_n2v", label_tag="after_n2v")
    assert set(answer.json()) == {f"phantom_{k}" for k in range(3)}
    datastore = segmenting.instance.datastore()
    assert datastore.get_label_by_image_id("phantom_2", "after_n2v") == "phantom_2"


def test_models_to_serve_may_be_named(segmenting):
    chosen = Server(segmenting.app_dir, segmenting.studies, {"models": "n2v_denoise_3d"})
    assert set(chosen.client.get("/info/").json()["models"]) == {"n2v_denoise_3d"}
    with pytest.raises(
        ValueError, match="models must be of n2v_denoise_2d, n2v_denoise_3d, toy_segmentation, got nobody"
    ):
        Server(segmenting.app_dir, segmenting.studies, {"models": "nobody"})
    with pytest.raises(ValueError, match="denoiser must be of n2v_denoise_3d, n2v_denoise_2d, got nobody"):
        Server(segmenting.app_dir, segmenting.studies, {"denoiser": "nobody"})


def test_stock_app_serves_and_trains_our_bundle_from_its_folder(small_app, tmp_path):
    """MONAI Label's own app for bundles, unchanged: it finds no labels and hands our config no images."""
    sample = Path(sys.prefix) / "monailabel" / "sample-apps" / "monaibundle"
    app_dir = tmp_path / "monaibundle"
    shutil.copytree(sample, app_dir, ignore=shutil.ignore_patterns("model", "logs", "bin"))
    shutil.copytree(small_app / "model" / "n2v_denoise_3d", app_dir / "model" / "n2v_denoise_3d")
    studies = make_studies(tmp_path / "studies")
    weights = app_dir / "model" / "n2v_denoise_3d" / "models" / "model.pt"
    request = {"model": "n2v_denoise_3d", "max_epochs": 2, "device": "cpu", "val_split": 0.2, "pretrained": True}
    conf = {"models": "n2v_denoise_3d", "zoo_source": "local", "sam2": "false"}
    environment = {
        **os.environ,
        "MONAI_LABEL_APP_DIR": str(app_dir),
        "MONAI_LABEL_STUDIES": str(studies),
        "MONAI_LABEL_APP_CONF": json.dumps(conf),
    }
    # Our app does so by itself; this one is left as it is.
    make_torchvision_importable()
    code = "import runpy; from monai_n2v.label.operators import make_torchvision_importable as make; make(); "
    code += "runpy.run_module('monailabel.interfaces.utils.app', run_name='__main__')"
    command = [sys.executable, "-c", code, "-m", "train", "-r", json.dumps(request)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert weights.is_file()
    server = Server(app_dir, studies, conf)
    answer = server.infer("n2v_denoise_3d", "phantom_0", result_extension=".nii.gz", device="cpu")
    result = server.voxels(answer).get_fdata(dtype=np.float32)
    image = MetaTensor(torch.from_numpy(phantom_3d(0)[1])[None], affine=torch.from_numpy(AFFINE))
    assert np.allclose(result, Denoiser(resolve_model(weights.parent.parent))(image)[0], rtol=0, atol=1e-3)
