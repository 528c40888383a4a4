# SPDX-License-Identifier: Apache-2.0
"""Context of series from the options to the result, on the road of every entry."""

from __future__ import annotations

import json
import logging
import math

import nibabel
import numpy as np
import pytest
from conftest import phantom

import monai_n2v
from monai_n2v.apps.choose import choose
from monai_n2v.apps.context import AUTO_CONTEXT, choose_context
from monai_n2v.apps.inspect import NoisyImage
from monai_n2v.apps.judge import Verdict
from monai_n2v.apps.train import train_network
from monai_n2v.bundle.options import TrainingOptions
from monai_n2v.cli.main import main
from monai_n2v.transforms.files import as_meta_tensor

SHAPE = (40, 36, 24)


def volumes(n_volumes: int = 12, shape=SHAPE) -> np.ndarray:
    """One object in volumes of two contrasts, with independent noise."""
    clean, rng = phantom(shape)[0], np.random.default_rng(1)
    scales = np.where(np.arange(n_volumes) % 6 == 0, 3.0, 1.0)
    return np.stack([scale * clean + rng.normal(0, 10, shape) for scale in scales]).astype(np.float32)


def image(values: np.ndarray) -> NoisyImage:
    return NoisyImage.of(as_meta_tensor(values, [1.0] * (values.ndim - 1)))


def test_auto_takes_context_where_noise_is_independent(caplog):
    caplog.set_level(logging.INFO, "monai_n2v")
    assert choose_context([image(volumes())], "auto") == (AUTO_CONTEXT, True)
    assert choose_context([image(volumes()), image(volumes(8))], "auto") == (7, True)
    assert not caplog.messages


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        ([(volumes()[1:] + volumes()[:-1]) / 2], "No context: noise is shared between volumes (correlation 0.5"),
        ([volumes(), volumes()[:1]], "No context: an image has one volume, and one network serves all"),
        ([volumes(3, (14, 14, 14))], "No context: the noise between volumes could not be measured."),
    ],
    ids=["resampled in time", "one volume", "small"],
)
def test_auto_refuses_context_in_one_line(images, reason, caplog):
    caplog.set_level(logging.INFO, "monai_n2v")
    assert choose_context([image(one) for one in images], "auto")[0] == 0
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(reason)


def test_a_single_volume_is_no_series_and_nothing_is_said(caplog):
    caplog.set_level(logging.INFO, "monai_n2v")
    assert choose_context([image(volumes(1))], "auto")[0] == 0
    assert not caplog.messages


def test_context_that_is_asked_for_is_taken_with_a_warning(caplog):
    resampled = (volumes()[1:] + volumes()[:-1]) / 2
    assert choose_context([image(resampled)], 3) == (3, False)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.message.startswith("Context does not suit: noise is shared between volumes (correlation 0.5")


@pytest.mark.parametrize(("n_volumes", "step"), [(1, "One volume has no others"), (3, "Use at most 2")])
def test_more_context_than_volumes_is_refused(n_volumes, step):
    with pytest.raises(ValueError, match=f"context must be below the number of volumes, {n_volumes}, got 3.*{step}"):
        choose([image(volumes(n_volumes))], TrainingOptions(context=3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": -1}, 'context must be a whole number from 0 or "auto", got -1'),
        ({"context": "some"}, "context must be a whole number from 0 or \"auto\", got 'some'"),
        ({"context": True}, "context must be a whole number"),
        ({"context": 2, "scheme": "prior"}, "scheme must be auto, n2v or recorrupted with context, got prior"),
        ({"context": 2, "scheme": "renoised"}, "scheme must be auto, n2v or recorrupted with context, got renoised"),
    ],
)
def test_contradictions_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TrainingOptions(**options)


def test_volumes_of_other_brightness_share_one_noise():
    """Each volume is standardized by itself; in these units their noise differs, as its scale tells."""
    found = choose([image(volumes())], TrainingOptions(spatial_dims=3, context="auto"))
    assert (found.context, found.scheme) == (8, "recorrupted")
    without = choose([image(volumes())], TrainingOptions(spatial_dims=3))
    assert without.scheme == "n2v", "without context each is an image of its own"
    sigmas = [part.noise.sigma / part.scale for part in found.judge.parts]
    assert sigmas == pytest.approx([sigmas[0]] * len(sigmas), rel=0.1)


@pytest.mark.usefixtures("short_epochs")
@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("scheme", ["n2v", "recorrupted"])
def test_a_trained_bundle_carries_its_context(spatial_dims, scheme, tmp_path):
    noisy = volumes(4, (24, 20, 16))
    options = TrainingOptions(1, scheme=scheme, spatial_dims=spatial_dims, context=2)
    network, record = train_network([image(noisy)], tmp_path / "model", options)
    assert record["context"] == 2
    configs = {
        name: json.loads((network.bundle / "configs" / f"{name}.json").read_text()) for name in ("train", "inference")
    }
    assert {config["context"] for config in configs.values()} == {2}
    denoised = monai_n2v.denoise(np.moveaxis(noisy, 0, -1), model=network.bundle, device="cpu")
    assert denoised.shape == (24, 20, 16, 4)
    other = noisy.copy()
    other[2] = other[2, ::-1]
    changed = np.moveaxis(monai_n2v.denoise(np.moveaxis(other, 0, -1), model=network.bundle, device="cpu"), -1, 0)
    same = [np.array_equal(one, two) for one, two in zip(changed, np.moveaxis(denoised, -1, 0))]
    assert same == [False] * 4, "0, 1 and 3 see volume 2 beside them"
    with pytest.raises(ValueError, match="context must be below the number of volumes, 2, got 2"):
        monai_n2v.denoise(np.moveaxis(noisy[:2], 0, -1), model=network.bundle, device="cpu")


@pytest.mark.usefixtures("short_epochs")
def test_the_prior_is_kept_without_context_where_training_does_not_help(tmp_path, monkeypatch):
    monkeypatch.setattr("monai_n2v.apps.judge.Judge.trained", lambda self, network: Verdict(math.inf, None))
    noisy = volumes(6, (32, 32, 24))
    network, record = train_network([image(noisy)], tmp_path / "model", TrainingOptions(1, spatial_dims=3, context=2))
    assert (record["scheme"], record["context"]) == ("prior", 0)
    assert monai_n2v.denoise(np.moveaxis(noisy, 0, -1), model=network.bundle, device="cpu").shape == (32, 32, 24, 6)


@pytest.mark.usefixtures("short_epochs")
def test_the_command_says_what_it_took_and_refuses_a_wrong_scheme_of_directions(tmp_path, capsys):
    source, target = tmp_path / "dwi.nii.gz", tmp_path / "out.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.moveaxis(volumes(6, (24, 20, 16)), 0, -1), np.eye(4)), source)
    command = ["denoise", "-i", str(source), "-o", str(target), "--device", "cpu", "--epochs", "1", "--context", "2"]
    assert main([*command, "--scheme", "n2v", "--spatial-dims", "3"]) == 0
    error = capsys.readouterr().err
    assert "Every volume is seen beside its 2 nearest." in error
    assert "--context 2" in error
    target.unlink()
    (tmp_path / "dwi.bval").write_text("0 1000 1000 1000 1000\n")
    (tmp_path / "dwi.bvec").write_text("0 1 0 0 1\n0 0 1 0 0\n0 0 0 1 0\n")
    assert main(command) == 1
    assert "bval must hold one entry per volume, 6, got 5" in capsys.readouterr().err
    assert not target.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--context", "many"], "must be a number, got 'many'"),
        (["--context", "-1"], "must be a whole number from 0, or auto, got -1"),
        (["--set", "context=3"], "Use --context"),
    ],
)
def test_the_command_refuses_what_is_no_number(options, message, capsys):
    with pytest.raises(SystemExit):
        main(["denoise", "-i", "x.nii", "-o", "y.nii", *options])
    assert message in capsys.readouterr().err
