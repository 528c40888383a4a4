# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest
import torch
from conftest import phantom

import monai_n2v.cli.main as cli
from monai_n2v.bundle.settings import check_settings, format_setting, parse_setting

QUICK = ["--scheme", "n2v", "--epochs", "1", "--device", "cpu"]


@pytest.fixture
def image(tmp_path):
    nibabel.save(nibabel.Nifti1Image(phantom((24, 20, 16))[1], np.eye(4)), tmp_path / "in.nii")
    return tmp_path / "in.nii"


def run(capsys, *args):
    try:
        code = cli.main([str(arg) for arg in args])
    except SystemExit as error:
        code = int(error.code or 0)
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("lr=0.001", "lr", 0.001),
        ("fill=uniform", "fill", "uniform"),
        ("patch_size=[16, 16, 16]", "patch_size", [16, 16, 16]),
        ("amp=false", "amp", False),
        ("grad_clip=null", "grad_clip", None),
        ("keep_mean=False", "keep_mean", False),
        ("optimizer::weight_decay=1e-5", "optimizer#weight_decay", 1e-5),
        ("lr=$1 == 1 and 0.1", "lr", "$1 == 1 and 0.1"),
        ('fill="3"', "fill", "3"),
        ("fill=", "fill", ""),
    ],
)
def test_settings_are_json_or_text_and_written_back(text, key, value):
    assert parse_setting(text) == (key, value)
    assert parse_setting(format_setting(key, value)) == (key, value)


@pytest.mark.parametrize("text", ["lr", "=3", ""])
def test_setting_without_key_refused(text):
    with pytest.raises(ValueError, match="must be followed by KEY=VALUE"):
        parse_setting(text)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("learning=1", "got learning. Use one of alpha, amp,"),
        ("feature=8", "Did you mean features?"),
        ("seed=3", "Use --seed."),
        ("device=cpu", "Use --device."),
        ("epochs=3", "Use --epochs."),
        ("dataset_dir=x", "Use --input."),
        ("output_dir=x", "Use --output."),
        ("footprint=3", "Use --footprint."),
        ("network_def#spatial_dims=2", "Use --spatial-dims."),
        ("val_interval=3", "use monai.bundle run"),
        ("train#handlers#0=1", "use monai.bundle run"),
        ("validate#inferer#amp=true", "use monai.bundle run"),
        ("optimizer#weight_decai=1", "Did you mean optimizer#weight_decay?"),
        ("lr=abc", 'lr must be a number, got "abc". Write for example --set lr=0.0003.'),
        ("lr=-1", "lr must be above 0, got -1. Write for example --set lr=0.0003."),
        ('lr=["a"]', "lr must be above 0"),
        ("lr=true", "lr must be above 0, got true."),
        ("features=true", "features must be a list, got true."),
        ("halo=-1", "halo must be a whole number of at least 0, got -1."),
        ("features=0", "features must be a list, got 0."),
        ("features=[16,-3,8]", "features must be whole numbers of at least 1"),
        ("patch_size=[16,0,16]", "patch_size must be whole numbers of at least 1"),
        ("network_def=null", "network_def must be an object, got null."),
        ("wiener=0", "Use --wiener of monai-n2v denoise."),
        ("keep_mean=off", 'keep_mean must be true or false, got "off". Write for example --set keep_mean=true.'),
        ("grad_clip=0", "grad_clip must be above 0 or null, got 0."),
        ("patch_size=64", "patch_size must be a list, got 64. Write for example --set patch_size=[80, 80, 80]."),
        ("train#dataloader#nothing_like_it=1", "train#dataloader has"),
        ("noise_map=x.nii", "Use --noise-map."),
        ("magnitude=wrong", "magnitude must be one of auto, rician, off, got 'wrong'."),
        ("coils=0", "coils must be a number from 1 to 64, got 0."),
        ("dtype=int8", 'dtype must be float32 or input, got "int8".'),
    ],
)
@pytest.mark.parametrize("command", ["denoise", "train"])
def test_setting_that_nothing_heeds_exits_2_before_any_work(command, setting, message, image, tmp_path, capsys):
    code, err = run(capsys, command, "-i", image, "-o", tmp_path / "out.nii", "--set", setting, *QUICK)
    assert code == 2
    assert message in err.strip().splitlines()[-1]
    assert "Traceback" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.nii"]


def test_every_key_of_a_training_is_owned_unused_or_free():
    from monai_n2v.bundle.settings import _OPTIONS, _UNUSED, _merged_config

    config = _merged_config()
    assert {name.partition("#")[0] for name in _UNUSED} <= set(config), "no list of names that are gone"
    assert set(_OPTIONS) - {"spatial_dims", "network_def#spatial_dims"} <= set(config)


def test_check_of_settings_alone_is_light():
    check_settings({"lr": 1, "optimizer#anything": 2, "epoch_length": "$2 * 5", "grad_clip": 1, "features": [4, 8]})
    check_settings({"grad_clip": None})
    check_settings({"magnitude": "rician", "coils": 4})
    check_settings({"magnitude": "$'off'", "coils": None})
    with pytest.raises(ValueError, match="--set coils must come with a magnitude"):
        check_settings({"magnitude": "off", "coils": 4})


@pytest.mark.usefixtures("short_epochs")
def test_settings_reach_training_inference_and_the_record(image, tmp_path, capsys):
    settings = [
        "lr=0.002",
        "fill=uniform",
        "features=[4, 4, 4, 4, 4, 4]",
        "network_def#act=relu",
        "ema=0.9",
        "amp=false",
    ]
    settings += ["optimizer#weight_decay=0.01", "decay_fraction=0.25", "tile_size=[64, 64, 64]", "halo=8"]
    options = [part for text in settings for part in ("--set", text)]
    code, err = run(capsys, "train", "-i", image, "-o", tmp_path / "model", *QUICK, *options)
    assert code == 0, err
    configs = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "model" / "configs").glob("*.json")}
    train, inference = configs["train"], configs["inference"]
    assert (train["lr"], train["fill"], train["ema"]) == (0.002, "uniform", 0.9)
    assert train["optimizer"]["weight_decay"] == 0.01
    for config in (train, inference):
        assert config["features"] == [4] * 6
        assert config["network_def"]["act"] == "relu"
    for config in (inference, configs["evaluate"]):
        assert config["tile_size"] == [64, 64, 64]
        assert config["halo"] == 8
    assert "lr" not in inference
    weights = torch.load(tmp_path / "model" / "models" / "model.pt", weights_only=True)
    assert weights["conv_0.conv_0.conv.weight"].shape == (4, 1, 3, 3, 3)
    code, err = run(capsys, "denoise", "-i", image, "-o", tmp_path / "out.nii", "--model", tmp_path / "model")
    assert code == 0, err


@pytest.mark.usefixtures("short_epochs")
def test_settings_change_the_result_and_the_log_repeats_them(image, tmp_path, capsys):
    for name, options in {"plain": [], "set": ["--set", "lr=0.02"], "again": ["--set", "lr=0.02"]}.items():
        code, err = run(capsys, "denoise", "-i", image, "-o", tmp_path / f"{name}.nii", *QUICK, *options)
        assert code == 0, err
    assert "--set lr=0.02 repeats this run" in err
    plain, changed, again = (nibabel.load(tmp_path / f"{n}.nii").get_fdata() for n in ("plain", "set", "again"))
    assert not np.array_equal(plain, changed)
    assert np.array_equal(changed, again)


@pytest.mark.usefixtures("short_epochs")
@pytest.mark.parametrize(
    ("setting", "message"),
    [("fill=blue", "fill must be"), ("mask_fraction=2", "mask_fraction must be")],
)
@pytest.mark.parametrize("command", ["denoise", "train"])
def test_value_of_the_wrong_kind_is_told_in_one_line(command, setting, message, image, tmp_path, capsys):
    code, err = run(capsys, command, "-i", image, "-o", tmp_path / "out.nii", "--set", setting, *QUICK)
    assert code == 1
    assert message in err.strip().splitlines()[-1]
    assert "Failed to instantiate" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.nii"]


def test_model_stands_alone(image, tmp_path, capsys):
    (tmp_path / "model").mkdir()
    options = ["--model", tmp_path / "model", "--set", "lr=0.1"]
    code, err = run(capsys, "denoise", "-i", image, "-o", tmp_path / "out.nii", *options)
    assert code == 2
    assert "--model must come without options of a training, got --set. Drop one of the two." in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["denoise", "--epoch", "3"], "--epoch must be an option of monai-n2v denoise, got an unknown one. Did you"),
        (["denoise", "-i", "x", "--output-file=y"], "Did you mean --output?"),
        (["train", "--max_time", "3"], "Did you mean --max-time?"),
        (["check", "x", "--jsn"], "Did you mean --json?"),
        (["bundle", "list", "--jso"], "Did you mean --json?"),
        (["--versions"], "Did you mean --version?"),
        (["denoise", "--xyzzy"], "See monai-n2v denoise --help."),
        (["denoise", "--out", "x"], "must be an option"),
    ],
)
def test_unknown_option_names_the_nearest(arguments, message, capsys):
    code, err = run(capsys, *arguments)
    assert code == 2
    assert message in err.strip().splitlines()[-1]
