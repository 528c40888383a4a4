# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
import json
import shutil

import laws
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import phantom
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.inferers import SimpleInferer
from samples import random_network

import monai_n2v
from monai_n2v.apps.denoise import denoise_image
from monai_n2v.apps.inspect import NoisyImage
from monai_n2v.apps.train import train_network
from monai_n2v.bundle import Denoiser, PredictionOptions, TrainingOptions, find_bundle, resolve_model
from monai_n2v.cli.main import main
from monai_n2v.inferers.symmetric import SymmetricInferer
from monai_n2v.inferers.tiled import AlignedTileInferer
from monai_n2v.networks import N2VUNet
from monai_n2v.transforms.files import as_meta_tensor
from monai_n2v.transforms.symmetries import Symmetry, list_symmetries

SIZES = {2: (21, 34), 3: (13, 10, 17)}
ROD = {2: [[1, 1, 1]], 3: np.ones((3, 1, 1), int).tolist()}


def smooth(x: torch.Tensor) -> torch.Tensor:
    """The same in all directions."""
    n_axes = x.ndim - 2
    pool = F.avg_pool2d if n_axes == 2 else F.avg_pool3d
    return 2 * pool(x, 3, stride=1, padding=1) - x


def uneven(x: torch.Tensor) -> torch.Tensor:
    """Different in all directions and places."""
    ramp = torch.linspace(0, 1, x[0, 0].numel(), dtype=x.dtype).reshape(x.shape[2:])
    return x * ramp + x.roll((1, 2), (2, -1))


class Calls(SimpleInferer):
    """Counts the predictions."""

    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def __call__(self, *args, **kwargs):
        self.n += 1
        return super().__call__(*args, **kwargs)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_average_of_an_equivariant_function_is_the_function(spatial_dims):
    inferer = SymmetricInferer(SimpleInferer(), spatial_dims)
    laws.equivariant_functions_are_kept(inferer, torch.rand(2, 3, *SIZES[spatial_dims]), smooth)


def test_average_equals_the_hand_made_one():
    image = torch.rand(1, 1, 5, 5, dtype=torch.float64)
    ramp = torch.arange(25.0, dtype=torch.float64).reshape(5, 5)
    flips = [(), (2,), (3,), (2, 3)]
    turns = [image.flip(f) for f in flips] + [image.mT.flip(f) for f in flips]
    back = [(x * ramp).flip(f) for x, f in zip(turns, 2 * flips)]
    expected = sum([*back[:4], *(x.mT for x in back[4:])]) / 8
    torch.testing.assert_close(SymmetricInferer(SimpleInferer(), 2)(image, lambda x: x * ramp), expected)
    assert torch.allclose(expected, 12 * image)  # the mean of the ramp


@pytest.mark.parametrize("footprint", [None, ROD])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_average_turns_with_the_image(spatial_dims, footprint):
    hidden = footprint and footprint[spatial_dims]
    inferer = SymmetricInferer(SimpleInferer(), spatial_dims, footprint=hidden)
    symmetries = list_symmetries(spatial_dims, [(1.0,) * spatial_dims], hidden)
    laws.averages_turn_with_the_image(inferer, torch.rand(1, 2, *SIZES[spatial_dims]), uneven, symmetries)


def test_average_in_3d_turns_by_a_third_of_all_symmetries():
    """What the documentation of `SymmetricInferer` says: 16 of 48 in isotropic 3D."""
    image, inferer = torch.rand(1, 1, 6, 6, 6), SymmetricInferer(SimpleInferer(), 3)
    kept = 0
    for order in itertools.permutations(range(3)):
        for flips in itertools.product((False, True), repeat=3):
            symmetry = Symmetry(order, flips)
            turned, expected = inferer(symmetry.apply(image), uneven), symmetry.apply(inferer(image, uneven))
            kept += torch.allclose(turned, expected, rtol=0, atol=1e-5)
    assert kept == 16


@pytest.mark.parametrize(
    ("spatial_dims", "tile", "halo", "size"), [(2, (64, 72), 24, (83, 101)), (3, 24, 8, (26, 30, 22))]
)
def test_average_of_tiles_turns_with_the_image(spatial_dims, tile, halo, size):
    network = random_network(N2VUNet(spatial_dims, features=2, depth=2 if spatial_dims == 2 else 1))
    tiles = AlignedTileInferer(spatial_dims, 1, tile, halo, network.divisor)
    image = torch.rand(1, 2, *size)
    symmetries = list_symmetries(spatial_dims, [(1.0,) * spatial_dims])
    with torch.inference_mode():
        inferer = SymmetricInferer(tiles, spatial_dims)
        laws.averages_turn_with_the_image(inferer, image, network, symmetries[-3:])
        assert not torch.allclose(inferer(image, network), tiles(image, network), atol=1e-4)


@pytest.mark.parametrize(
    ("spatial_dims", "spacing", "footprint", "n_predictions"),
    [
        (2, (1, 1, 1), None, 8),
        (2, (1, 2, 1), None, 4),
        (2, (1, 1, 1), ROD[2], 4),
        (3, (2, 1, 1), None, 16),
        (3, (1, 2, 3), None, 8),
        (3, (1, 1, 2), ROD[3], 8),
    ],
)
def test_predictions_by_spacing_and_footprint(spatial_dims, spacing, footprint, n_predictions):
    calls = Calls()
    image = as_meta_tensor(torch.rand(1, *SIZES[spatial_dims]).numpy(), spacing)
    SymmetricInferer(calls, spatial_dims, footprint=footprint)(image[None], smooth)
    assert calls.n == n_predictions


@pytest.mark.parametrize(("spacings", "n_predictions"), [([1, 1], 16), ([1, 2], 8), ([2], 8)])
def test_spacing_arrives_through_loader_and_evaluator(spacings, n_predictions):
    data = [{"image": as_meta_tensor(torch.rand(1, 6, 7, 8).numpy(), (side, 1, 3))} for side in spacings]
    calls = Calls()
    loader = DataLoader(Dataset(data), batch_size=len(data))
    network = torch.nn.Identity()
    inferer = SymmetricInferer(calls, 3)
    SupervisedEvaluator(torch.device("cpu"), loader, network, inferer=inferer, decollate=False).run()
    assert calls.n == n_predictions


def test_slices_of_a_volume_are_turned_but_not_their_order():
    image = torch.rand(1, 1, 30, 26, 5)
    network = random_network(N2VUNet(2, features=4))
    inferer = SymmetricInferer(AlignedTileInferer(2, 1, 64, halo=24, divisor=4, n_slices=2), 2)
    with torch.inference_mode():
        output = inferer(image, network)
        for k in range(5):
            torch.testing.assert_close(output[..., k], inferer(image[..., k], network), rtol=0, atol=1e-6)
    depth = torch.arange(5.0)
    torch.testing.assert_close(SymmetricInferer(SimpleInferer(), 2)(image, lambda x: x * depth), image * depth)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_not_enabled_is_the_inferer_itself(spatial_dims):
    network = random_network(N2VUNet(spatial_dims, features=2, depth=1))
    image = MetaTensor(torch.rand(1, 1, *SIZES[spatial_dims]))
    inferer = AlignedTileInferer(spatial_dims, 1, 32, halo=8, divisor=2)
    with torch.inference_mode():
        assert torch.equal(
            SymmetricInferer(inferer, spatial_dims, enabled=False)(image, network), inferer(image, network)
        )


@pytest.mark.parametrize(("kind", "expected"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
def test_average_is_at_least_float32_and_leaves_the_input(kind, expected):
    image = torch.rand(1, 1, 8, 9, dtype=kind)
    before = image.clone()
    output = SymmetricInferer(SimpleInferer(), 2)(image, lambda x: x)
    assert output.dtype == expected
    assert torch.equal(image, before)
    torch.testing.assert_close(output, image.to(expected))


def test_footprint_of_other_axes_refused():
    with pytest.raises(ValueError, match="footprint must have 3 axes"):
        SymmetricInferer(SimpleInferer(), 3, footprint=[[1, 1, 1]])


def test_switch_is_true_or_false_and_no_text():
    with pytest.raises(ValueError, match="tta must be True or False"):
        SymmetricInferer(SimpleInferer(), 2, enabled="false")


def old_bundle(folder):
    """As it was before there was averaging."""
    path = folder / "configs" / "inference.json"
    config = json.loads(path.read_text())
    config["inferer"] = config["inferer"]["inferer"]
    del config["tta"], config["footprint"]
    path.write_text(json.dumps(config))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Bundles trained for two epochs, 2D and 3D with a footprint along the first axis."""
    bundles = {}
    for dims, shape in ((2, (24, 28)), (3, (12, 10, 14))):
        footprint = np.ones((3, *(1,) * (dims - 1)), np.uint8)
        options = TrainingOptions(epochs=2, scheme="n2v", footprint=footprint)
        folder = tmp_path_factory.mktemp(f"bundle{dims}")
        bundles[dims] = train_network(
            [NoisyImage.of(as_meta_tensor(phantom(shape)[1][None], (1.0,) * dims))], folder, options
        )[0]
    return bundles


@pytest.mark.parametrize("dims", [2, 3])
def test_trained_bundle_averages_as_its_footprint_permits(dims, trained):
    network = trained[dims]
    config = json.loads((network.bundle / "configs" / "inference.json").read_text())
    assert config["footprint"] == np.ones((3, *(1,) * (dims - 1)), int).tolist()
    assert Denoiser(network).options["tta"] is False
    # The Wiener filter turns with the image only roughly: its blocks lie on a grid.
    volumes, tta = phantom((20, 23, 11)[:dims])[1][None], PredictionOptions(tta=True, wiener=0)

    def denoised(volumes: np.ndarray, options: PredictionOptions | None = None) -> tuple[np.ndarray, dict]:
        image = as_meta_tensor(np.ascontiguousarray(volumes), (1.0,) * dims)
        return denoise_image(image, model=network.bundle, prediction=options)

    plain, record = denoised(volumes, PredictionOptions(wiener=0))
    assert record["tta"] is False
    averaged, record = denoised(volumes, tta)
    assert record["tta"] is True
    assert not np.allclose(plain, averaged, atol=1e-3)

    back = denoised(volumes[:, ::-1, ::-1], tta)[0][:, ::-1, ::-1]
    np.testing.assert_allclose(back, averaged, atol=1e-3)
    other = denoised(volumes.swapaxes(1, 2), tta)[0].swapaxes(1, 2)
    assert not np.allclose(other, averaged, atol=1e-3), "the footprint forbids it"


def test_bundles_take_tta_from_their_config_too(trained, tmp_path):
    bundle = shutil.copytree(trained[2].bundle, tmp_path / "bundle")
    path = bundle / "configs" / "inference.json"
    path.write_text(path.read_text().replace('"tta": false', '"tta": true'))
    image = phantom((20, 23))[1]
    asked = monai_n2v.denoise(image, model=trained[2].bundle, device="cpu", tta=True)
    assert np.array_equal(monai_n2v.denoise(image, model=bundle, device="cpu"), asked)
    assert Denoiser(resolve_model(bundle)).options["tta"] is True


def test_old_bundle_still_denoises_but_refuses_to_average(trained, tmp_path, capsys):
    bundle = shutil.copytree(trained[2].bundle, tmp_path / "bundle")
    old_bundle(bundle)
    image = phantom((20, 23))[1]
    expected = monai_n2v.denoise(image, model=trained[2].bundle, device="cpu")
    assert np.array_equal(monai_n2v.denoise(image, model=bundle, device="cpu"), expected)
    with pytest.raises(ValueError, match="tta must come with a bundle"):
        monai_n2v.denoise(image, model=bundle, device="cpu", tta=True)
    np.save(tmp_path / "x.npy", image)
    paths = ["-i", str(tmp_path / "x.npy"), "-o", str(tmp_path / "y.npy"), "--model", str(bundle)]
    assert main(["denoise", *paths, "--tta", "--device", "cpu"]) == 1
    assert "tta must come with a bundle" in capsys.readouterr().err
    assert not (tmp_path / "y.npy").exists()


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("SymmetricInferer", "LeftSinceInferer", "LeftSinceInferer"),
        ('"check"', '"checks"', "Its inference.json has no check"),
        ('"halo": "@halo"', '"halos": "@halo"', "unexpected keyword argument 'halos'"),
    ],
    ids=["class that left", "key that is missing", "argument that left"],
)
def test_bundle_of_another_version_is_refused_and_its_weights_serve(old, new, reason, trained, tmp_path):
    bundle = shutil.copytree(trained[2].bundle, tmp_path / "bundle")
    path = bundle / "configs" / "inference.json"
    path.write_text(path.read_text().replace(old, new))
    image = phantom((20, 23))[1]
    with pytest.raises(ValueError, match=rf"model must be a bundle of this version, got .* Train again.*\(.*{reason}"):
        monai_n2v.denoise(image, model=bundle, device="cpu")
    weights = shutil.copy(bundle / "models" / "model.pt", tmp_path / "mine.pt")
    assert np.isfinite(monai_n2v.denoise(image, model=weights, device="cpu")).all()


def test_command_averages_and_records_it(trained, tmp_path, capsys):
    image = phantom((20, 23))[1]
    np.save(tmp_path / "x.npy", image)
    paths = ["-i", str(tmp_path / "x.npy"), "-o", str(tmp_path / "y.npy"), "--model", str(trained[2].bundle)]
    assert main(["denoise", *paths, "--tta", "--device", "cpu", "--json", "--report"]) == 0
    assert json.loads(capsys.readouterr().out)["tta"] is True
    assert json.loads((tmp_path / "y_report.json").read_text())["tta"] is True
    expected = monai_n2v.denoise(image, model=trained[2].bundle, device="cpu", tta=True)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_shipped_bundles_do_not_average_by_default(spatial_dims):
    config = json.loads((find_bundle(f"n2v_denoise_{spatial_dims}d") / "configs" / "inference.json").read_text())
    keys = list(config)
    assert keys[keys.index("amp") :][:3] == ["amp", "tta", "footprint"]
    assert config["tta"] is False
    assert config["footprint"] is None
