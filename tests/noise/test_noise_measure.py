# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from conftest import phantom
from hypothesis import given, settings, strategies as st
from samples import SHAPES, white, with_air
from scipy import ndimage

from monai_n2v.noise.block_statistics import block_means, core, second_difference, take_tiles
from monai_n2v.noise.measure import measure_noise

# --- blocks


def test_second_difference_keeps_the_variance_of_white_noise_and_removes_ramps():
    noise = second_difference(white((1, 80, 80, 80)), [1, 3])
    assert noise.shape == (1, 78, 80, 78)
    assert noise.var() == pytest.approx(1, rel=0.02)
    ramp = np.indices((1, 20, 20)).sum(axis=0).astype(np.float32)
    assert np.abs(second_difference(ramp, [1])).max() < 1e-5


@pytest.mark.parametrize("filtered", [(), (1,), (2,)])
@pytest.mark.parametrize("lag", [0, 1, 3])
def test_core_is_the_same_voxels_whatever_was_filtered(filtered, lag):
    index = np.indices((1, 15, 17))[2 if filtered == (1,) else 1].astype(np.float32)  # constant along filtered axes
    trimmed = index[(slice(None), *(slice(1, -1) if a in filtered else slice(None) for a in (1, 2)))]
    axis = 2 if filtered == (1,) else 1
    np.testing.assert_array_equal(core(trimmed, filtered, axis, lag), core(index, (), axis, lag))
    np.testing.assert_array_equal(core(index, (), axis, lag), core(index) + lag)


def test_block_means_are_those_of_the_blocks():
    image = np.arange(2 * 16 * 24, dtype=np.float32).reshape(2, 16, 24)
    expected = image.reshape(2, 2, 8, 3, 8).mean(axis=(2, 4)).ravel()
    np.testing.assert_allclose(block_means(image), expected)


def test_tiles_of_large_images_are_few_spread_and_repeatable():
    volumes = np.broadcast_to(np.arange(200, dtype=np.float32)[:, None, None], (3, 200, 200, 200))
    tiles = take_tiles(volumes, 64**3 * 6)
    assert tiles.shape == (6, 64, 64, 64)
    assert tiles.min() < 60
    assert tiles.max() > 140
    np.testing.assert_array_equal(tiles, take_tiles(volumes, 64**3 * 6))


def test_small_images_are_taken_whole():
    volumes = white((2, 30, 30))
    assert take_tiles(volumes, 10**6) is volumes


# --- strength and correlation


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sigma", [4.0, 20.0])
def test_strength_of_white_noise(shape, sigma):
    clean = with_air(shape)
    noise = measure_noise((clean + sigma * white(shape))[None])
    assert noise.sigma == pytest.approx(sigma, rel=0.1)
    low, middle, high = noise.local_sigma
    assert low < middle < high
    assert middle == pytest.approx(sigma, rel=0.15)
    assert noise.spread < 0.2


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("source", ["flat", "background", "residual"])
def test_every_source_reads_the_correlation_that_is_there(shape, source):
    field = ndimage.gaussian_filter1d(white(shape), 0.7, axis=0, mode="wrap")
    field /= field.std()
    truth = [float(np.mean(field * np.roll(field, -lag, axis=0))) for lag in (1, 2, 3)]
    noisy = with_air(shape) + 8 * field
    noise = measure_noise(noisy[None], (8 * field)[None])
    found = getattr(noise, source)
    # In flat regions of 2D images the calmest blocks are whiter than the rest.
    np.testing.assert_allclose(found[0].lags, truth, atol=0.15 if source == "flat" else 0.08)
    for axis in range(1, len(shape)):
        assert abs(found[axis].lags[0]) < 0.08
    assert noise.sigma == pytest.approx(8, rel=0.15)


def test_errors_cover_the_truth():
    readings = [measure_noise(white((1, 80, 80), seed)).flat[0] for seed in range(40)]
    scores = [reading.lags[0] / reading.error for reading in readings]
    assert 0.6 < np.std(scores) < 1.6


@settings(max_examples=15, deadline=None)
@given(st.floats(0.01, 1000), st.floats(-5, 5), st.integers(0, 100))
def test_correlation_knows_no_units(scale, offset, seed):
    image = phantom((40, 44))[0] + 10 * white((40, 44), seed)
    first = measure_noise(image[None])
    second = measure_noise((scale * (image + 100 * offset))[None].astype(np.float32))
    assert second.sigma == pytest.approx(scale * first.sigma, rel=1e-2)
    for axis in (0, 1):
        np.testing.assert_allclose(second.flat[axis].lags, first.flat[axis].lags, atol=0.01)


def test_axes_follow_the_image():
    image = phantom((40, 44, 48))[0] + 10 * ndimage.gaussian_filter1d(white((40, 44, 48)), 0.6, axis=1)
    straight, turned = measure_noise(image[None]), measure_noise(image.transpose(1, 2, 0)[None])
    for axis, other in ((0, 2), (1, 0), (2, 1)):
        assert turned.flat[other].lags[0] == pytest.approx(straight.flat[axis].lags[0], abs=0.03)


def test_slices_too_few_to_measure_across_count_as_images():
    noise = measure_noise(white((4, 40, 44, 5)))
    assert set(noise.flat) == {0, 1}
    assert measure_noise(white((1, 9, 9))).flat == {}


# --- how noise goes with the signal


@pytest.mark.parametrize("shape", SHAPES)
def test_dependence_on_the_signal(shape):
    clean = phantom(shape)[0]
    assert measure_noise((clean + 8 * white(shape))[None]).dependence.kind == "constant"
    counts = np.random.default_rng(0).poisson(np.clip(clean, 1, None)).astype(np.float32)
    poisson = measure_noise(counts[None]).dependence
    assert poisson.kind == "grows"
    assert poisson.ratio > 2
    air = with_air(shape)
    magnitude = np.hypot(air + 8 * white(shape), 8 * white(shape, 1))
    assert measure_noise(magnitude[None]).dependence.kind == "rician"


# --- traces


def test_padding_clipping_and_steps():
    clean = with_air((112, 120))
    noisy = clean + 8 * white((112, 120))
    padded = np.where(clean > 0, np.clip(np.round(noisy), 20, 110), -1000)
    traces = measure_noise(padded[None].astype(np.float32)).traces
    assert traces.padding == pytest.approx(np.mean(clean == 0), abs=0.02)
    assert traces.clipped_low < 0.01
    assert traces.clipped_high == pytest.approx(np.mean(padded[clean > 0] == 110), abs=0.02)
    assert traces.step == 1
    assert measure_noise(noisy[None]).traces.step is None
    clipped = measure_noise(np.maximum(noisy, 0)[None]).traces
    assert clipped.padding < 0.05
    assert clipped.clipped_low > 0.1


def test_padding_need_not_be_the_lowest_value():
    clean = with_air((112, 120))
    padded = np.where(clean > 0, clean - 100 + 8 * white((112, 120)), 0)
    assert measure_noise(padded[None].astype(np.float32)).traces.padding == pytest.approx(np.mean(clean == 0), abs=0.02)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.6, 0.85])
def test_zero_filling_is_seen_along_its_axis(shape, share):
    spectrum = np.fft.rfft(with_air(shape) + 8 * white(shape), axis=1)
    spectrum[:, int(share * spectrum.shape[1]) :] = 0
    image = np.fft.irfft(spectrum, n=shape[1], axis=1)
    cutoff = measure_noise(image[None].astype(np.float32)).traces.cutoff
    assert cutoff[1] == pytest.approx(share, abs=0.12)
    assert all(value == 1 for axis, value in cutoff.items() if axis != 1)


def test_linear_interpolation_repeats_in_the_variance():
    noisy = phantom((100, 100))[0] + 20 * white((100, 100))
    at = np.arange(0, 99, 0.75)
    low = at.astype(int)
    image = noisy[:, low] * (1 - at + low) + noisy[:, low + 1] * (at - low)
    traces = measure_noise(image[None].astype(np.float32)).traces
    assert traces.period[1] == pytest.approx(4, abs=0.1)
    assert 0 not in traces.period
