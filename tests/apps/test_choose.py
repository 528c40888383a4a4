# SPDX-License-Identifier: Apache-2.0
"""What is chosen for an image: by the prior that ships, on phantoms whose noise is known."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from conftest import phantom
from scipy import ndimage

from monai_n2v.apps.choose import choose
from monai_n2v.apps.inspect import NoisyImage
from monai_n2v.apps.judge import Verdict, _best
from monai_n2v.apps.train import train_network
from monai_n2v.bundle.options import PredictionOptions, TrainingOptions
from monai_n2v.bundle.run import Denoiser
from monai_n2v.bundle.trained import prior_network
from monai_n2v.transforms.files import as_meta_tensor

SHAPES = {2: (96, 88), 3: (40, 36, 32)}


def image(values: np.ndarray) -> NoisyImage:
    return NoisyImage.of(as_meta_tensor(values[None].astype(np.float32), [1.0] * values.ndim))


def correlated(shape: tuple[int, ...]) -> np.ndarray:
    noise = ndimage.correlate1d(np.random.default_rng(0).normal(size=shape), (1, 0.6), axis=0, mode="wrap")
    return 10 * noise / noise.std()


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_white_noise_is_recorrupted_and_measured(spatial_dims):
    noisy = image(phantom(SHAPES[spatial_dims])[1])
    found = choose([noisy], TrainingOptions(spatial_dims=spatial_dims))
    assert (found.spatial_dims, found.scheme) == (spatial_dims, "recorrupted")
    assert found.judge is not None
    assert found.judge.parts[0].noise.is_white
    assert found.judge.parts[0].noise.sigma * noisy.std == pytest.approx(10, rel=0.06)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_correlated_noise_is_renoised(spatial_dims):
    clean = phantom(SHAPES[spatial_dims])[0]
    found = choose([image(clean + correlated(clean.shape))], TrainingOptions(spatial_dims=spatial_dims))
    assert found.scheme == "renoised"
    assert found.judge is not None
    assert found.judge.parts[0].noise.lags[0, 0] == pytest.approx(0.6 / 1.36, abs=0.1)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_without_noise_the_prior_is_left_alone(spatial_dims):
    clean = ndimage.gaussian_filter(phantom(SHAPES[spatial_dims])[0], 1.5)
    assert choose([image(clean)], TrainingOptions(spatial_dims=spatial_dims)).scheme == "prior"


@pytest.mark.parametrize(
    ("options", "scheme"),
    [
        ({"scheme": "prior"}, "prior"),
        ({"scheme": "n2v"}, "n2v"),
        ({"scheme": "renoised"}, "renoised"),
        ({"prior": False}, "n2v"),
        ({"footprint": np.ones((3, 1))}, "n2v"),
        ({"settings": {"fill": "median"}}, "n2v"),
        ({"settings": {"features": [4] * 6}}, "n2v"),
    ],
    ids=str,
)
def test_what_is_asked_for_is_done(options, scheme):
    assert choose([image(phantom(SHAPES[2])[1])], TrainingOptions(**options)).scheme == scheme


def masked(noisy: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """Constant padding where there is air, and a wide border of it."""
    return np.pad(np.where(clean > 30, noisy, 0), 20)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_padded_channels_of_other_gains_are_seen_to_be_noisy(spatial_dims):
    clean, noisy = phantom(SHAPES[spatial_dims])
    one = masked(noisy, clean)
    channels = np.stack([gain * one for gain in (1, 2, 4)]).astype(np.float32)
    series = NoisyImage.of(as_meta_tensor(channels, [1.0] * spatial_dims))
    alone, all_of_them = (choose([x], TrainingOptions(spatial_dims=spatial_dims)) for x in (image(one), series))
    assert alone.scheme != "prior"
    assert all_of_them.scheme == alone.scheme
    sigmas = [part.noise.sigma for part in all_of_them.judge.parts]
    assert len(sigmas) == 3
    # What fills padding is drawn for each channel.
    assert sigmas == pytest.approx([alone.judge.parts[0].noise.sigma] * 3, rel=0.02)


def test_noise_is_looked_for_beside_wide_padding():
    noisy = phantom((96, 96))[1]
    apart = np.zeros((700, 1500), np.float32)
    apart[300:396, 100:196], apart[300:396, 1300:1396] = noisy, noisy
    found = choose([image(noisy), image(apart)], TrainingOptions())
    assert len(found.judge.parts) == 2
    assert found.scheme != "prior"


def test_noises_that_differ_are_no_common_model():
    clean = phantom(SHAPES[2])[0]
    rng = np.random.default_rng(0)
    images = [image(clean + sigma * rng.normal(size=clean.shape)) for sigma in (5, 5, 50)]
    assert choose(images, TrainingOptions()).scheme == "n2v"
    assert choose(images[:2], TrainingOptions()).scheme == "recorrupted"


def test_noise_that_is_uneven_in_space_is_not_well_known():
    clean = np.full((192, 192), 100.0)
    x = np.linspace(-1, 1, 192)
    sigma = 4 + 12 * np.exp(-4 * (x[:, None] ** 2 + x**2))
    noisy = clean + sigma * np.random.default_rng(0).normal(size=clean.shape)
    noisy[:40, :40] += 60
    assert choose([image(noisy)], TrainingOptions()).scheme == "renoised"


@pytest.mark.parametrize("shape", [(10, 10), (10, 10, 10), (9, 200)])
def test_images_too_small_to_measure_are_left_to_the_prior(shape):
    noisy = 100 + 10 * np.random.default_rng(0).normal(size=shape)
    assert choose([image(noisy)], TrainingOptions()).scheme == "prior"


@pytest.mark.parametrize(
    "options", [{"footprint": np.ones((1, 1, 3))}, {"settings": {"patch_size": [32, 32, 12]}}], ids=str
)
def test_options_for_volumes_make_it_3d(options):
    rng = np.random.default_rng(0)
    slices = [np.roll(np.rot90(phantom((64, 64))[0], k), 17 * k, axis=1) for k in range(12)]
    stack = np.stack(slices, -1) + rng.normal(0, 10, (64, 64, 12))
    assert choose([image(stack)], TrainingOptions(**options)).spatial_dims == 3


@pytest.mark.parametrize("scheme", ["renoised", "recorrupted", "prior"])
def test_schemes_of_the_prior_refuse_another_network(scheme):
    options = TrainingOptions(scheme=scheme, settings={"features": [4] * 6})
    with pytest.raises(ValueError, match=f"scheme must be n2v for another network .*got {scheme} and "):
        choose([image(phantom(SHAPES[2])[1])], options)


def test_slices_that_share_nothing_are_denoised_one_by_one():
    """As thick slices: each shows something else."""
    rng = np.random.default_rng(0)
    slices = [np.roll(np.rot90(phantom((64, 64))[0], k), 17 * k, axis=1) for k in range(12)]
    stack = np.stack(slices, -1) + rng.normal(0, 10, (64, 64, 12))
    assert choose([image(stack)], TrainingOptions()).spatial_dims == 2


def test_a_spoiled_network_is_not_kept(tmp_path):
    import torch

    noisy = image(phantom(SHAPES[2])[1])
    judge = choose([noisy], TrainingOptions()).judge
    assert judge is not None
    prior = prior_network(2)
    state = {name: value.float() for name, value in torch.load(prior.weights, weights_only=True).items()}
    state["final_conv.weight"] = torch.randn(
        state["final_conv.weight"].shape, generator=torch.Generator().manual_seed(0)
    )
    torch.save(state, tmp_path / "spoiled.pt")
    assert judge.trained(dataclasses.replace(prior, weights=tmp_path / "spoiled.pt")).error > judge.prior.error


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_structure_that_a_network_blurs_is_seen_in_the_image(spatial_dims, tmp_path):
    import torch

    judge = choose([image(phantom(SHAPES[spatial_dims])[1])], TrainingOptions(spatial_dims=spatial_dims)).judge
    assert judge is not None
    prior = prior_network(spatial_dims)
    state = {name: value.float() for name, value in torch.load(prior.weights, weights_only=True).items()}
    state["final_conv.weight"] *= 0.7
    state["final_conv.bias"] *= 0.7
    torch.save(state, tmp_path / "weak.pt")
    assert judge.trained(dataclasses.replace(prior, weights=tmp_path / "weak.pt")).weight == 1


def test_the_best_weight_is_where_a_parabola_is_least():
    errors = [(weight - 0.3) ** 2 + 0.5 for weight in (0.0, 0.5, 1.0)]
    assert _best(np.array(errors)) == pytest.approx((0.5, 0.3))
    assert _best(np.array([1.0, 2.0, 4.0])).weight == 0
    assert _best(np.array([4.0, 2.0, 1.0])).weight == 1
    assert _best(np.array([1.0, 2.0, 1.5])).weight == 0  # bent the other way, by chance


def test_a_bundle_keeps_the_weight_that_was_found(tmp_path, monkeypatch):
    monkeypatch.setattr("monai_n2v.apps.judge.Judge.prior", Verdict(1.0, 0.6))
    noisy = phantom(SHAPES[3])[1]
    network, record = train_network([image(noisy)], tmp_path / "m", TrainingOptions(scheme="prior", spatial_dims=3))
    assert record["wiener"] == 0.6
    for name in ("inference.json", "evaluate.json"):
        assert json.loads((network.bundle / "configs" / name).read_text())["wiener"] == 0.6
    alone, filtered, found = (
        Denoiser(network, PredictionOptions(wiener=weight))(noisy[None])[0] for weight in (0, 1, None)
    )
    assert np.abs(filtered - alone).max() > 1
    np.testing.assert_allclose(found, alone + 0.6 * (filtered - alone), atol=1e-2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheme": "best"}, "scheme must be one of auto, n2v"),
        ({"scheme": "prior", "epochs": 3}, "scheme prior must come without epochs"),
        ({"scheme": "renoised", "prior": False}, "must start from the prior"),
    ],
)
def test_contradictions_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TrainingOptions(**options)
