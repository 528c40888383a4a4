# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import phantom
from monai.data import MetaTensor
from monai.inferers import SimpleInferer

import monai_n2v
from monai_n2v.apps.inspect import NoisyImage
from monai_n2v.apps.train import train_network
from monai_n2v.bundle import TrainingOptions
from monai_n2v.cli.main import main
from monai_n2v.inferers import detail
from monai_n2v.inferers.detail import DetailInferer, keep_detail

SIZES = {2: (120, 136), 3: (44, 50, 36)}


def noise(spatial_dims: int, sigma: float = 1.0, seed: int = 0) -> torch.Tensor:
    return sigma * torch.randn(1, 1, *SIZES[spatial_dims], generator=torch.Generator().manual_seed(seed))


def power(values: torch.Tensor) -> float:
    return float(values.square().mean())


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("sigma", [1e-3, 1.0, 1e4])
def test_noise_around_a_true_estimate_stays_away(spatial_dims, sigma):
    estimate = torch.zeros(1, 1, *SIZES[spatial_dims])
    assert power(keep_detail(noise(spatial_dims, sigma), estimate)) < 0.02 * sigma**2


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_noise_may_differ_from_place_to_place(spatial_dims):
    stronger = torch.linspace(1, 3, SIZES[spatial_dims][-1]).expand(1, 1, *SIZES[spatial_dims])
    noisy = noise(spatial_dims) * stronger
    assert power(keep_detail(noisy, torch.zeros_like(noisy)) / stronger) < 0.03


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_detail_that_the_estimate_lacks_comes_back(spatial_dims):
    """Threads of one voxel, six times as bright as the noise is strong, on a ground of all intensities."""
    ground = torch.linspace(0, 9, SIZES[spatial_dims][-1]).expand(1, 1, *SIZES[spatial_dims])
    threads = torch.zeros(ground.shape, dtype=torch.bool)
    threads[(0, 0, *[slice(None, None, 24)] * (spatial_dims - 1))] = True
    truth, blurred = ground + 6 * threads, ground + 2 * threads
    kept = keep_detail(truth + noise(spatial_dims), blurred)
    assert (kept - ground)[threads].mean() > 3.5, "of 6, where the estimate has 2"
    assert power((kept - truth)[threads]) < 0.4 * power((blurred - truth)[threads])
    assert power(kept - truth) < power(blurred - truth)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("times", [2, 5])
def test_noise_of_few_bright_cells_in_the_dark_stays_away(spatial_dims, times):
    """As of photons: stronger where the signal is, in a minority of every block."""
    place = torch.stack(torch.meshgrid(*(torch.arange(n) for n in SIZES[spatial_dims]), indexing="ij"))
    cells = ((place % 40 - 20).square().sum(dim=0) < 64)[None, None]
    truth = 100.0 * cells
    noisy = truth + noise(spatial_dims) * (1 + (times - 1) * cells)
    assert 0.01 < cells.float().mean() < 0.2
    assert power((keep_detail(noisy, truth) - truth)[cells]) < 0.06 * times**2


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_a_hot_voxel_hardly_comes_back(spatial_dims):
    place = (0, 0, *(side // 2 for side in SIZES[spatial_dims]))
    returned = []
    for seed in range(20):
        noisy = noise(spatial_dims, seed=seed)
        noisy[place] = 1000
        kept = keep_detail(noisy, torch.zeros_like(noisy))
        returned.append(kept[place] / 1000)
    assert sum(returned) / len(returned) < 0.2
    assert max(returned) < 0.5
    around = (0, 0, *(slice(side // 2 - 1, side // 2 + 2) for side in SIZES[spatial_dims]))
    neighbors = noisy[around] != 1000
    assert power(kept[around][neighbors]) < 0.5 * power(noisy[around][neighbors])


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_result_scales_turns_and_moves_with_the_image(spatial_dims):
    noisy, estimate = noise(spatial_dims), noise(spatial_dims, 0.6, seed=1)
    kept = keep_detail(noisy, estimate)
    torch.testing.assert_close(keep_detail(8 * noisy - 3, 8 * estimate - 3), 8 * kept - 3, atol=1e-4, rtol=0)
    for axes in ([2], [3], list(range(2, 2 + spatial_dims))):
        torch.testing.assert_close(keep_detail(noisy.flip(axes), estimate.flip(axes)), kept.flip(axes))
    for axis in range(3, 2 + spatial_dims):
        turned = keep_detail(noisy.transpose(2, axis), estimate.transpose(2, axis))
        torch.testing.assert_close(turned, kept.transpose(2, axis))


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_slabs_equal_the_whole(spatial_dims, monkeypatch):
    noisy, estimate = noise(spatial_dims), noise(spatial_dims, 0.6, seed=1)
    in_slabs = keep_detail(noisy, estimate)
    monkeypatch.setattr(detail, "_slabs", lambda shape: [(0, shape[2], 0, shape[2])])
    torch.testing.assert_close(in_slabs, keep_detail(noisy, estimate))


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (7, 5), (9, 2, 1), (3, 40, 40)])
def test_result_lies_between_estimate_and_measured_whatever_the_size(shape):
    generator = torch.Generator().manual_seed(0)
    noisy, estimate = (torch.randn(2, 3, *shape, generator=generator) for _ in range(2))
    kept = keep_detail(noisy, estimate)
    low, high = torch.minimum(noisy, estimate), torch.maximum(noisy, estimate)
    assert ((kept >= low - 1e-5) & (kept <= high + 1e-5)).all()
    for i in range(2):
        for j in range(3):
            alone = keep_detail(noisy[i : i + 1, j : j + 1], estimate[i : i + 1, j : j + 1])
            torch.testing.assert_close(alone[0, 0], kept[i, j])


def test_an_image_that_the_estimate_equals_stays():
    image = noise(2)
    assert torch.equal(keep_detail(image, image), image)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_inferer_consults_the_image_and_leaves_it(spatial_dims):
    noisy = noise(spatial_dims)
    before = noisy.clone()
    output = DetailInferer(SimpleInferer(), spatial_dims)(MetaTensor(noisy), lambda x: 0.3 * x)
    assert not isinstance(output, MetaTensor)
    assert torch.equal(output, keep_detail(noisy, 0.3 * noisy))
    assert torch.equal(noisy, before)


def test_inferer_treats_a_volume_slice_by_slice_for_a_2d_network():
    volume = noise(3)
    output = DetailInferer(SimpleInferer(), 2)(volume, lambda x: 0.3 * x)
    assert output.shape == volume.shape
    assert torch.equal(output[..., 7], keep_detail(volume[..., 7], 0.3 * volume[..., 7]))


def test_power_by_intensity_told_on_a_gpu_is_that_told_on_a_cpu():
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(0, 60, (5000,), generator=generator).to(torch.uint8)  # some levels without a cell
    levels[levels == 7] = 8
    powers = torch.rand(5000, generator=generator).round(decimals=2)  # ties
    by_selection = detail._tenths_by_selection(levels, powers)
    by_sorting = detail._tenths_by_sorting(levels, powers)
    assert [x.tolist() for x in by_selection] == [x.tolist() for x in by_sorting]
    assert by_selection[0].sum() == 5000
    assert by_selection[0][7] == by_selection[1][7] == 0


@pytest.mark.parametrize("enabled", ["false", 0, None])
def test_switch_is_true_or_false_and_no_text(enabled):
    with pytest.raises(ValueError, match="keep_detail must be True or False"):
        DetailInferer(SimpleInferer(), 2, enabled=enabled)


def test_inferer_refuses_axes_of_another_network():
    with pytest.raises(ValueError, match="inputs must have 3 spatial axes, got 2"):
        DetailInferer(SimpleInferer(), 3)(noise(2), lambda x: x)


def test_inferer_off_hands_the_estimate_on():
    image, estimate = noise(2), noise(2, seed=1)
    assert DetailInferer(SimpleInferer(), 2, enabled=False)(image, lambda x: estimate) is estimate


def test_estimate_of_another_shape_refused():
    with pytest.raises(ValueError, match=r"estimate must have the shape of the image.*keep_detail"):
        DetailInferer(SimpleInferer(), 2)(noise(2), lambda x: x.repeat(1, 2, 1, 1))
    with pytest.raises(ValueError, match="estimate must have the shape of the image"):
        DetailInferer(SimpleInferer(), 2)(noise(3), lambda x: x[..., :-1])


@pytest.mark.parametrize("shape", [(64, 72), (24, 28, 20)])
def test_bundle_of_a_training_keeps_detail_unless_told_otherwise(shape, tmp_path):
    image = phantom(shape, sigma=15)[1]
    removed = {}
    for keep in (True, False):
        options = TrainingOptions(epochs=2, scheme="n2v", settings={} if keep else {"keep_detail": False})
        network = train_network([NoisyImage.of(MetaTensor(image[None]))], tmp_path / str(keep), options)[0]
        config = json.loads((network.bundle / "configs" / "inference.json").read_text())
        assert config["keep_detail"] is keep
        removed[keep] = image - monai_n2v.denoise(image, model=network.bundle, device="cpu")
    assert 0.5 < np.square(removed[True]).mean() / np.square(removed[False]).mean() < 0.98


def test_prediction_takes_detail_back_unless_told_otherwise(tmp_path, capsys):
    image = phantom((64, 72), sigma=15)[1]
    options = TrainingOptions(epochs=2, scheme="n2v")
    network = train_network([NoisyImage.of(MetaTensor(image[None]))], tmp_path / "model", options)[0]
    np.save(tmp_path / "x.npy", image)
    for name, options in {"kept": [], "own": ["--no-keep-detail"]}.items():
        paths = ["-i", str(tmp_path / "x.npy"), "-o", str(tmp_path / f"{name}.npy"), "--model", str(network.bundle)]
        assert main(["denoise", *paths, "--device", "cpu", "--json", *options]) == 0
        assert json.loads(capsys.readouterr().out)["keep_detail"] is (name == "kept")
    kept, own = (np.load(tmp_path / f"{name}.npy") for name in ("kept", "own"))
    assert np.square(image - kept).mean() < 0.98 * np.square(image - own).mean()
    np.testing.assert_array_equal(monai_n2v.denoise(image, model=network.bundle, device="cpu", keep_detail=False), own)
