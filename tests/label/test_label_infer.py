# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import subprocess
import sys

import nibabel
import numpy as np
import pytest

from label.serving import AFFINE, Server, phantom_3d, psnr


def bundle_run(server: Server, model: str, image: str) -> nibabel.Nifti1Image:
    """What `monai.bundle run` makes of an image of the studies."""
    bundle = server.app_dir / "model" / model
    out = server.studies.parent / "run"
    data = [{"image": str(server.studies / f"{image}.nii.gz")}]
    options = ["--config_file", f"{bundle}/configs/inference.json", "--bundle_root", str(bundle)]
    options += [
        "--dataset#data",
        json.dumps(data),
        "--output_dir",
        str(out),
        "--ckpt_path",
        f"{bundle}/models/model.pt",
    ]
    command = [sys.executable, "-m", "monai.bundle", "run", *options]
    subprocess.run(command, check=True, capture_output=True)
    return nibabel.load(next(out.rglob("*_denoised.nii.gz")))


@pytest.mark.parametrize("model", ["n2v_denoise_2d", "n2v_denoise_3d"])
def test_training_raises_psnr_and_result_is_that_of_the_bundle_run(trained, model):
    clean, noisy = phantom_3d(0)
    # What both MONAI Label clients ask for, whatever the model.
    result = trained.voxels(trained.infer(model, "phantom_0", result_extension=".nrrd", result_dtype="uint8"))
    assert psnr(result.get_fdata(), clean) > psnr(noisy, clean) + 3
    assert result.get_data_dtype() == np.float32
    expected = bundle_run(trained, model, "phantom_0")
    assert np.array_equal(result.get_fdata(), expected.get_fdata())
    assert np.array_equal(result.affine, expected.affine)
    assert np.allclose(result.affine, AFFINE)


def test_result_is_rounded_and_clipped_to_the_type_of_the_input_on_request(trained, tmp_path):
    noisy = phantom_3d(5)[1]
    stored = np.clip(noisy, 0, 255).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(stored, AFFINE), trained.studies / "bytes.nii.gz")
    trained.instance.datastore().refresh()
    exact = trained.voxels(trained.infer("n2v_denoise_3d", "bytes")).get_fdata()
    whole = trained.voxels(trained.infer("n2v_denoise_3d", "bytes", dtype="input"))
    assert whole.get_data_dtype() == np.uint8
    assert np.array_equal(whole.get_fdata(), np.clip(np.rint(exact), 0, 255))
