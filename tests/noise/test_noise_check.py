# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import phantom
from samples import SHAPES, white, with_air
from scipy import ndimage

from monai_n2v.noise.check import check_noise, weigh
from monai_n2v.noise.correlation import Correlation
from monai_n2v.transforms.footprints import check_footprint

SEEDS = range(1000, 1010)


def line(shape: tuple[int, ...], axis: int, width: float, seed: int) -> np.ndarray:
    noise = ndimage.gaussian_filter1d(white(shape, seed), width, axis=axis)
    return noise / noise.std()


@pytest.mark.parametrize("shape", SHAPES)
def test_white_noise_passes(shape):
    checks = [check_noise((with_air(shape) + (3 + 2 * i) * white(shape, s))[None]) for i, s in enumerate(SEEDS)]
    verdicts = [check.verdict for check in checks]
    assert verdicts.count("PASS") >= 9
    assert "WARN" not in verdicts
    assert all(check.footprint is None and check.noisy for check in checks)


@pytest.mark.parametrize("shape", SHAPES)
def test_noise_correlated_along_one_axis_warns_there_and_suggests_a_footprint(shape):
    right = 0
    for i, seed in enumerate(SEEDS):
        axis = i % len(shape)
        check = check_noise((with_air(shape) + (3 + 2 * i) * line(shape, axis, 0.55 + 0.06 * i, seed))[None])
        others = {other.verdict for other in check.axes if other.axis != axis}
        alone = check.footprint is not None and all((n > 1) == (a == axis) for a, n in enumerate(check.footprint.shape))
        right += check.verdict == check.axes[axis].verdict == "WARN" and "WARN" not in others and alone
    assert right >= 9


@pytest.mark.parametrize("shape", SHAPES)
def test_smoothed_noise_warns_and_has_no_footprint(shape):
    right = 0
    for i, seed in enumerate(SEEDS):
        noise = ndimage.gaussian_filter(white(shape, seed), 0.5 + 0.05 * i)
        check = check_noise((with_air(shape) + (3 + 2 * i) * noise / noise.std())[None])
        right += check.verdict == "WARN" and check.footprint is None
    assert right >= 9


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("width", [0.0, 0.7, 1.2])
@pytest.mark.parametrize("make", [with_air, lambda shape: phantom(shape)[0]], ids=["air", "filled"])
def test_clean_images_are_not_called_noisy(shape, width, make):
    check = check_noise(ndimage.gaussian_filter(make(shape), width)[None])
    assert check.noisy is not True
    assert check.verdict != "PASS"
    assert check.footprint is None


@pytest.mark.parametrize("value", [0.0, -1024.0])
def test_a_constant_image_has_no_noise(value):
    check = check_noise(np.full((1, 40, 40), value, dtype=np.float32))
    assert check.noisy is False
    assert check.snr is None


def test_a_residual_has_the_last_word():
    clean, shape = with_air((112, 120)), (112, 120)
    noise = 10 * white(shape)
    assert check_noise((clean + noise)[None], residual=noise[None]).verdict == "PASS"
    structured = 10 * line(shape, 0, 0.8, 1)
    check = check_noise((clean + noise)[None], residual=structured[None])
    assert [axis.verdict for axis in check.axes] == ["WARN", "PASS"]
    assert check.axes[0].correlations[0].source == "residual"
    assert check.footprint.shape[1] == 1


@pytest.mark.parametrize(("drift", "verdict"), [(0.01, "WARN"), (0.12, "UNSURE")])
def test_correlation_that_grows_with_structure_over_a_white_background_is_unsure(drift, verdict):
    flat = Correlation("flat", (0.4, 0.1, 0.0), 0.01, drift)
    background = Correlation("background", (0.01, 0.0, 0.0), 0.01)
    assert weigh([flat, background]) == (verdict, [flat, background])
    assert weigh([flat]) == ("WARN", [flat])


def test_clipped_noise_is_not_passed():
    noisy = with_air((112, 120)) + 8 * white((112, 120))
    check = check_noise(np.maximum(noisy, 0)[None])
    assert check.verdict == "UNSURE"
    assert any("one-sided" in sentence for sentence in check.sentences)


def test_correlation_along_two_of_three_axes_makes_a_footprint_in_their_plane():
    noise = line((48, 52, 56), 0, 0.8, 0)
    noise = ndimage.gaussian_filter1d(noise, 0.8, axis=2)
    check = check_noise((with_air(noise.shape) + 8 * noise / noise.std())[None])
    assert [axis.verdict for axis in check.axes] == ["WARN", "PASS", "WARN"]
    assert check.footprint.shape[1] == 1
    assert min(check.footprint.shape[0], check.footprint.shape[2]) >= 3
    np.testing.assert_array_equal(check.footprint, check.footprint[::-1, ::-1, ::-1])
    assert check_footprint(check.footprint, 5) is not None


def test_the_record_is_plain_and_sentences_start_with_the_verdict():
    image = (with_air((48, 52, 56)) + 8 * line((48, 52, 56), 1, 0.8, 0))[None]
    check = check_noise(image, spacing=(1, 0.5, 2))
    record = json.loads(json.dumps(check.to_dict(), allow_nan=False))
    assert record["verdict"] == "WARN"
    assert record["footprint"] == check.footprint.tolist()
    assert record["noise"]["flat"]["1"]["lags"][0] > 0.3
    assert record["axes"][1]["verdict"] == "WARN"
    assert check.sentences[0].startswith("WARN: ")
    assert any("axis 1 (0.5 mm)" in sentence for sentence in check.sentences)


def test_the_same_answer_every_time_and_the_image_is_left_alone():
    image = (with_air((60, 64)) + 8 * white((60, 64)))[None]
    before = image.copy()
    assert check_noise(image).to_dict() == check_noise(image).to_dict()
    np.testing.assert_array_equal(image, before)


def test_small_images_are_unsure():
    check = check_noise(white((1, 9, 9)))
    assert check.verdict == "UNSURE"
    assert check.noisy is None
    assert {axis.verdict for axis in check.axes} == {"UNSURE"}


def test_few_thick_slices_do_not_make_it_unsure():
    check = check_noise(white((6, 48, 48, 5)))
    assert check.verdict == "PASS"
    assert check.axes[2].verdict == "UNSURE"


@pytest.mark.parametrize(
    ("volumes", "spacing", "residual", "message"),
    [
        (np.zeros((8, 8)), None, None, "volumes must be"),
        (np.zeros((1, 0, 8)), None, None, "volumes must be"),
        (np.full((1, 20, 20), np.nan), None, None, "volumes must be finite"),
        (np.zeros((1, 20, 20)), (1,), None, "spacing must be"),
        (np.zeros((1, 20, 20)), None, np.zeros((1, 20, 21)), "residual must be"),
    ],
)
def test_wrong_arguments_are_told(volumes, spacing, residual, message):
    with pytest.raises(ValueError, match=message):
        check_noise(volumes, spacing, residual)


# --- real images


def test_colin27_with_noise(real_data):
    import nibabel

    path = real_data / "clean_mri_3d" / "colin27_ch2_1mm.nii.gz"
    colin = np.asarray(nibabel.load(path).dataobj, dtype=np.float32)
    for clean in (colin[60:130, 70:150, 60:130], colin[:, :, 90]):
        assert check_noise((clean + 10 * white(clean.shape))[None]).verdict == "PASS"
        check = check_noise((clean + 10 * line(clean.shape, 0, 0.8, 1))[None])
        assert check.axes[0].verdict == "WARN"
        assert check.footprint.shape[1] == 1
        smooth = check_noise(ndimage.gaussian_filter(clean, 1.2)[None])
        assert smooth.noisy is not True


def test_m4raw_is_correlated_along_its_readout_only(real_data):
    from PIL import Image

    paths = sorted((real_data / "m4raw" / "T2_rep1").glob("*.png"))
    check = check_noise(np.stack([np.asarray(Image.open(path)) for path in paths]).astype(np.float32))
    # The difference of two repeats has 0.00 and 0.27 at lag 1 in flat tissue.
    assert [axis.verdict for axis in check.axes] == ["PASS", "WARN"]
    assert check.axes[1].correlations[0].lags[0] == pytest.approx(0.27, abs=0.05)
    assert check.noise.sigma == pytest.approx(15.5, rel=0.1)
