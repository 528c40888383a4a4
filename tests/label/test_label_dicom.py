# SPDX-License-Identifier: Apache-2.0
"""The app on the series of a DICOMweb server, and denoised series written back."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid
from samples import oblique_affine

from label.orthanc import Orthanc, ct_series, why_not
from label.serving import Server, phantom_3d, psnr

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

MODEL, SHAPE = "n2v_denoise_3d", (48, 48, 16)
AFFINE = oblique_affine(left_handed=False)  # slices lie in the order in which readers sort them
BALL = 525.0  # HU: above is the ball alone
LABEL_INFO = [{"name": "ball", "model_name": "toy"}]


def save_toy_segmenter(bundle: Path) -> None:
    """A bundle whose network is a threshold."""
    import torch

    (bundle / "configs").mkdir(parents=True)
    (bundle / "models").mkdir(exist_ok=True)
    network = torch.nn.Conv3d(1, 2, 1)
    with torch.no_grad():
        network.weight[:] = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1, 1)
        network.bias[:] = torch.tensor([BALL, 0.0])
    torch.save(network.state_dict(), bundle / "models" / "model.pt")
    axes = {"num_channels": 1, "spatial_shape": ["*", "*", "*"], "dtype": "float32"}
    metadata = {
        "version": "0.1.0",
        "description": "a threshold",
        "network_data_format": {
            "inputs": {"image": axes},
            "outputs": {"pred": {**axes, "channel_def": {"0": "background", "1": "ball"}}},
        },
    }
    keys = {"keys": "image"}
    inference = {
        "device": "cpu",
        "network_def": {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 2, "kernel_size": 1},
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", **keys},
                {"_target_": "EnsureChannelFirstd", **keys},
                {"_target_": "Orientationd", **keys, "axcodes": "RAS"},
            ],
        },
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [{"_target_": "AsDiscreted", "keys": "pred", "argmax": True}],
        },
    }
    (bundle / "configs" / "metadata.json").write_text(json.dumps(metadata))
    (bundle / "configs" / "inference.json").write_text(json.dumps(inference))


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory):
    server = Orthanc(tmp_path_factory.mktemp("orthanc") / "storage")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A noisy CT series on disk."""
    path = tmp_path_factory.mktemp("series") / "noisy"
    ct_series(path, phantom_3d(0, SHAPE)[1], AFFINE)
    return path


@pytest.fixture(scope="module")
def series(orthanc, folder) -> str:
    """The same series on the server."""
    return orthanc.upload(folder)


@pytest.fixture(scope="module")
def served(orthanc, series, small_app, tmp_path_factory):
    """An app on the server's series, with a network trained on them and a toy segmenter."""
    from monailabel.config import settings

    place = tmp_path_factory.mktemp("served")
    shutil.copytree(small_app, place / "app")
    save_toy_segmenter(place / "app" / "model" / "toy_segmentation")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings, "MONAI_LABEL_DICOMWEB_CACHE_PATH", str(place / "cache"))
        patch.setenv("MONAI_LABEL_DICOMWEB_CACHE_PATH", str(place / "cache"))
        server = Server(place / "app", orthanc.url)
        answer = server.train(MODEL, max_epochs=15, device="cpu")
        assert answer.status_code == 200, answer.text
        yield server


@pytest.fixture(scope="module")
def model(served) -> Path:
    return served.app_dir / "model" / MODEL


def voxels(answer, path: Path) -> nibabel.Nifti1Image:
    assert answer.status_code == 200, answer.text
    path.write_bytes(answer.content)
    return nibabel.load(path)


def one_sentence(answer, status: int) -> str:
    assert answer.status_code == status, answer.text
    detail = answer.json()["detail"]
    assert "\n" not in detail
    assert "Traceback" not in detail
    return detail


def stow(capsys, *options: str) -> tuple[int, str, list[str]]:
    from monai_n2v.label.__main__ import main

    capsys.readouterr()
    code = main(["stow", "--device", "cpu", *options])
    out, err = capsys.readouterr()
    return code, out, err.splitlines()


def test_series_are_listed(served, series):
    assert served.instance.datastore().list_images() == [series]
    assert served.client.get("/info/").json()["datastore"]["total"] == 1


def test_training_on_unlabeled_series_raises_psnr(served, series, tmp_path):
    clean, noisy = phantom_3d(0, SHAPE)
    image = voxels(served.infer(MODEL, series, device="cpu"), tmp_path / "answer.nii.gz")
    assert image.get_data_dtype() == np.float32
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-4)
    assert psnr(image.get_fdata(), clean) > psnr(noisy, clean) + 3
    assert abs(image.get_fdata().mean() - clean.mean()) < 2


def test_what_is_made_beside_a_series_is_kept_and_nothing_of_it_goes_to_the_server(served, series, orthanc, tmp_path):
    params = {"save_residual": True, "report": True, "device": "cpu"}
    told = served.infer(MODEL, series, output="json", **params).json()
    denoised = voxels(served.infer(MODEL, series, device="cpu"), tmp_path / "denoised.nii.gz").get_fdata()
    noisy = nibabel.load(served.instance.datastore().get_image_uri(series)).get_fdata()
    residual = voxels(served.client.get(told["residual"]), tmp_path / "residual.nii.gz").get_fdata()
    assert np.allclose(residual, noisy - denoised, atol=1e-3)
    assert served.client.get(told["report"]).headers["content-type"].startswith("text/html")
    assert served.instance.datastore().list_images() == [series]


def test_info_and_the_training_of_clients_without_a_model_work_on_series(served):
    info = served.client.get("/info/").json()
    assert info["datastore"]["completed"] == info["datastore"]["total"] == 1
    assert next(iter(info["train_stats"])) == MODEL
    assert served.instance.needed_model({}) == MODEL


def test_denoised_image_is_not_added_to_a_server(served, series):
    detail = one_sentence(served.infer(MODEL, series, device="cpu", save_image=True), 400)
    assert detail.startswith("save_image must be false for studies of a DICOMweb server, got true.")
    detail = one_sentence(served.batch(MODEL), 400)
    assert detail.startswith("save_image must be false for studies of a DICOMweb server, got true.")


def test_dicom_seg_of_a_denoiser_refused(served, series):
    answer = served.infer(MODEL, series, output="dicom_seg", device="cpu", label_info=LABEL_INFO)
    assert one_sentence(answer, 400).startswith(f"model must segment for DICOM SEG, got {MODEL}. Use <segmenter>")
    assert served.infer(MODEL, series, device="cpu").status_code == 200


def mask_of(seg: pydicom.Dataset) -> np.ndarray:
    """A segment's voxels on the grid of the phantom, by the positions that the file gives its frames."""
    frames = seg.pixel_array.reshape(-1, seg.Rows, seg.Columns)
    to_lps = np.diag([-1.0, -1, 1, 1]) @ AFFINE
    mask = np.zeros(SHAPE, dtype=bool)
    for frame, place in zip(frames, seg.PerFrameFunctionalGroupsSequence):
        position = np.asarray(place.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        index = np.linalg.solve(to_lps, [*position, 1])[:3]
        np.testing.assert_allclose(index, [0, 0, round(index[2])], atol=1e-3)
        mask[..., round(index[2])] = frame.T
    return mask


def test_segmentation_after_denoising_as_dicom_seg(served, series, folder, tmp_path):
    from monai_n2v.io.images import read_volume

    denoised = voxels(served.infer(MODEL, series, device="cpu"), tmp_path / "answer.nii.gz").get_fdata()
    source = pydicom.dcmread(next(folder.iterdir()))
    seen = {"toy_segmentation": read_volume(folder).data[0], "toy_segmentation_after_n2v": denoised}
    for name, image in seen.items():
        answer = served.infer(name, series, output="dicom_seg", device="cpu", label_info=LABEL_INFO)
        assert answer.status_code == 200, answer.text
        seg = pydicom.dcmread(io.BytesIO(answer.content))
        assert seg.SOPClassUID.name == "Segmentation Storage"
        assert [segment.SegmentLabel for segment in seg.SegmentSequence] == ["ball"]
        assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == series
        assert seg.StudyInstanceUID == source.StudyInstanceUID
        assert seg.FrameOfReferenceUID == source.FrameOfReferenceUID
        assert np.array_equal(mask_of(seg), image > BALL)
    ball = phantom_3d(0, SHAPE)[0] > BALL
    noisy, after = (
        2 * (mask & ball).sum() / (mask.sum() + ball.sum()) for mask in (seen["toy_segmentation"] > BALL, mask_of(seg))
    )
    assert after > max(0.87, noisy + 0.03)


def test_series_that_came_later_is_denoised(served, orthanc, tmp_path):
    before = served.instance.datastore().list_images()
    ct_series(tmp_path / "late", phantom_3d(1, SHAPE)[1], AFFINE)
    late = orthanc.upload(tmp_path / "late")
    assert late not in before
    image = voxels(served.infer(MODEL, late, device="cpu"), tmp_path / "answer.nii.gz")
    assert image.shape == SHAPE
    detail = one_sentence(served.infer(MODEL, generate_uid(), device="cpu"), 404)
    assert detail.startswith("image must be of the studies, got")


def test_stow_writes_a_derived_series(served, orthanc, series, folder, model, capsys, tmp_path):
    from monai_n2v import denoise
    from monai_n2v.io.images import read_volume
    from monai_n2v.label.datastore import noisy_images

    before = orthanc.files(series)
    code, out, err = stow(capsys, "--url", orthanc.url + "/", "--series", series, "--model", str(model))
    assert (code, err) == (0, [])
    made, n, unit = out.split()
    assert (int(n), unit) == (SHAPE[2], "instances")
    assert orthanc.files(series) == before
    images = [pydicom.dcmread(path) for path in orthanc.download(made, tmp_path / "made").iterdir()]
    source = pydicom.dcmread(next(folder.iterdir()))
    sources = {pydicom.dcmread(path).SOPInstanceUID for path in folder.iterdir()}
    assert len(images) == SHAPE[2] == len({image.SOPInstanceUID for image in images} - sources)
    for image in images:
        assert image.SeriesInstanceUID == made != series
        assert image.StudyInstanceUID == source.StudyInstanceUID
        assert image.FrameOfReferenceUID == source.FrameOfReferenceUID
        assert list(image.ImageType) == ["DERIVED", "SECONDARY", "AXIAL"]
        assert image.SourceImageSequence[0].ReferencedSOPInstanceUID in sources
    noisy, again = read_volume(folder), read_volume(tmp_path / "made")
    assert np.array_equal(again.source.affine, noisy.source.affine)
    expected = denoise(noisy.data[0], model=model, device="cpu")
    assert np.abs(again.data[0] - expected).max() <= 0.5 + 1e-3
    assert psnr(again.data[0], phantom_3d(0, SHAPE)[0]) > psnr(noisy.data[0], phantom_3d(0, SHAPE)[0]) + 3
    # The server lists it among the CT series, but nobody trains on it or denoises it again.
    datastore = served.instance.datastore()
    assert noisy_images(datastore, [series, made]) == [series]
    assert "which is denoised" in one_sentence(served.infer(MODEL, made, device="cpu"), 400)
    code, out, err = stow(capsys, "--url", orthanc.url, "--series", made, "--model", str(model))
    assert (code, out, len(err)) == (1, "", 1)
    assert err[0].startswith(f"series must be noisy, got {made}, which is denoised.")


def test_stow_finds_a_series_among_others_of_its_study(orthanc, series, folder, model, capsys, tmp_path):
    other = generate_uid()
    shutil.copytree(folder, tmp_path / "second")
    for path in (tmp_path / "second").iterdir():
        image = pydicom.dcmread(path)
        image.SeriesInstanceUID, image.SOPInstanceUID = other, generate_uid()
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        image.save_as(path)
        if int(image.InstanceNumber) > 12:
            path.unlink()
    assert orthanc.upload(tmp_path / "second") == other
    code, out, err = stow(capsys, "--url", orthanc.url, "--series", other, "--model", str(model))
    assert (code, err) == (0, [])
    assert out.split()[1] == "12"


@pytest.mark.parametrize("uid", ["1.2.3.4", "*", "phantom"])
def test_stow_of_an_unknown_series(uid, orthanc, series, model, capsys):
    code, out, err = stow(capsys, "--url", orthanc.url, "--series", uid, "--model", str(model))
    assert (code, out, len(err)) == (1, "", 1)
    assert err[0].startswith(f"series must be on the server, got {uid}.")


def test_stow_of_a_series_that_cannot_be_denoised(orthanc, folder, model, capsys, tmp_path):
    image = pydicom.dcmread(next(folder.iterdir()))
    image.SeriesInstanceUID, image.SOPInstanceUID = generate_uid(), generate_uid()
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    flat = str(image.SeriesInstanceUID)
    options = ["--url", orthanc.url, "--model", str(model)]
    (tmp_path / "in").mkdir()
    image.save_as(tmp_path / "in" / "flat")
    orthanc.upload(tmp_path / "in")
    code, out, err = stow(capsys, *options, "--series", flat)
    assert (code, out, len(err)) == (1, "", 1)
    assert err[0].startswith("model must fit an image of 2 axes, got a 3D network")
    image.SeriesInstanceUID, image.SOPInstanceUID = generate_uid(), generate_uid()
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    image.NumberOfFrames, image.PixelData = 2, image.PixelData * 2
    image.save_as(tmp_path / "in" / "flat")
    frames = orthanc.upload(tmp_path / "in")
    code, out, err = stow(capsys, *options, "--series", frames)
    assert (code, out, len(err)) == (1, "", 1)
    assert err[0].startswith("image must have one frame per file or be an enhanced image, got 2 frames for ")
    assert f" for series {frames}" in err[0]
    assert set(orthanc.series()) >= {flat, frames}


def test_stow_where_no_server_is_running(model, capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/dicom-web"
    code, out, err = stow(capsys, "--url", url, "--series", "1.2.3", "--model", str(model))
    assert (code, out, len(err)) == (1, "", 1)
    expected = f"url must be of a DICOMweb server that can search for series, got ConnectionError from {url}. "
    assert err[0].startswith(expected)


@pytest.mark.parametrize(
    ("path", "got"), [("", "OtherAnswerError"), ("/nothing", "404"), ("/app/explorer.html#", "JSONDecodeError")]
)
def test_stow_at_a_wrong_address(path, got, orthanc, model, capsys):
    code, out, err = stow(capsys, "--url", orthanc.root + path, "--series", "1.2.3", "--model", str(model))
    assert (code, out, len(err)) == (1, "", 1)
    assert err[0].startswith(f"url must be of a DICOMweb server that can search for series, got {got}")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--model", "no_such_model", "model must be a trained bundle"),
        ("--url", "127.0.0.1:8042", "url must begin with http:// or https://, got 127.0.0.1:8042."),
        ("--url", "http://", "url must begin with http:// or https://, got http://."),
        ("--url", "http://me:secret@127.0.0.1/dicom-web", "url must not hold a name or password, got one."),
        ("--device", "cuda:99", "device must be one of this machine, got 'cuda:99'."),
    ],
)
def test_stow_refuses_a_wrong_question(option, value, message, orthanc, series, model, capsys):
    options = {"--url": orthanc.url, "--series": series, "--model": str(model), option: value}
    code, out, err = stow(capsys, *(part for pair in options.items() for part in pair))
    assert (code, out, len(err)) == (2, "", 1)
    assert err[0].startswith(message)
    assert "secret" not in err[0]


def test_stow_logs_in_as_monai_label_does(monkeypatch):
    from monai_n2v.label.stow import connect

    assert connect("http://127.0.0.1:8042/dicom-web")._session.auth is None
    monkeypatch.setenv("MONAI_LABEL_DICOMWEB_USERNAME", "me")
    monkeypatch.setenv("MONAI_LABEL_DICOMWEB_PASSWORD", "secret")
    assert connect("http://127.0.0.1:8042/dicom-web")._session.auth == ("me", "secret")


def test_stow_tells_what_a_server_refuses(orthanc, series, model, capsys, monkeypatch):
    from dicomweb_client.api import DICOMwebClient

    answer = pydicom.Dataset()
    answer.FailedSOPSequence = [pydicom.Dataset(), pydicom.Dataset()]
    monkeypatch.setattr(DICOMwebClient, "store_instances", lambda *arguments: answer)
    code, out, err = stow(capsys, "--url", orthanc.url, "--series", series, "--model", str(model))
    assert (code, out, len(err)) == (1, "", 1)
    assert err[0].startswith(f"server must take all {SHAPE[2]} instances, got 2 refused.")


@pytest.mark.slow
def test_stow_of_a_real_series(orthanc, model, real_data, tmp_path):
    from monai_n2v import denoise
    from monai_n2v.io.images import read_volume

    source = real_data / "dicom_ct_pancreas"
    if not source.is_dir():
        pytest.skip("no real CT series")
    options = ["--url", orthanc.url, "--series", orthanc.upload(source), "--model", str(model), "--device", "cpu"]
    command = [sys.executable, "-m", "monai_n2v.label", "stow", *options]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    made, n, _ = done.stdout.split()
    noisy, denoised = read_volume(source), read_volume(orthanc.download(made, tmp_path / "made"))
    assert int(n) == noisy.source.spatial_shape[2]
    assert denoised.data.shape == noisy.data.shape
    assert np.array_equal(denoised.source.affine, noisy.source.affine)
    # What the stored bits cannot hold is clipped.
    header = noisy.source.header
    low, high = (float(header.RescaleIntercept) + float(header.RescaleSlope) * n for n in (0, 2**header.BitsStored - 1))
    expected = denoise(noisy.data[0], model=model, device="cpu")
    difference = float(np.abs(denoised.data[0] - expected.clip(low, high)).max())
    assert difference <= 0.5 + 1e-3
