# SPDX-License-Identifier: Apache-2.0
"""Evaluation through the bundles: evaluate.json over train.json, in process and by MONAI's federated client."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import laws
import nibabel
import numpy as np
import pytest
import torch
from conftest import phantom
from ignite.engine import Engine
from monai.bundle import ConfigWorkflow
from monai.data import MetaTensor
from monai.fl.client import MonaiAlgo
from monai.fl.utils.exchange_object import ExchangeObject
from monai.handlers import MetricsSaver, from_engine
from monai.inferers import SimpleInferer
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio
from tiny import SMALL, run, workflow

from monai_n2v.bundle import find_bundle, find_config
from monai_n2v.handlers.scores import ScoreDenoisingd, ScoreTable
from monai_n2v.inferers.blind_spot import BlindSpotInferer, SeparateBlindd
from monai_n2v.inferers.symmetric import SymmetricInferer
from monai_n2v.inferers.tiled import AlignedTileInferer
from monai_n2v.metrics.reference import average_repeats, score_blind, score_repeats
from monai_n2v.transforms.files import as_meta_tensor
from monai_n2v.transforms.pairing import RandN2VMask

SHAPES = {2: (40, 44), 3: (24, 28, 20)}
NOISE2NOISE = ["supervised.json", "noise2noise.json"]


@pytest.mark.parametrize("shape", [(2, 1, 32, 28), (1, 2, 16, 20, 12)])
def test_blind_predictions_never_see_their_own_voxel(shape):
    inferer = BlindSpotInferer(SimpleInferer(), len(shape) - 2, RandN2VMask(batched=True), n_masks=3)
    images = torch.rand(shape)
    output = inferer(images, torch.nn.Identity())
    plain, blind = output[:, : shape[1]], output[:, shape[1] :]
    assert torch.equal(plain, images)
    spots = torch.isfinite(blind)
    assert spots.float().mean().item() == pytest.approx(3 / 64, rel=0.2)
    assert (blind[spots] != images[spots]).all(), "the identity must not find the hidden value"
    assert torch.equal(torch.nan_to_num(inferer(images, torch.nn.Identity())), torch.nan_to_num(output))


def test_flat_network_is_blinded_within_slices():
    slices = torch.arange(6.0).expand(1, 1, 24, 20, 6) + 0.001 * torch.rand(1, 1, 24, 20, 6)
    blind = BlindSpotInferer(SimpleInferer(), 2, RandN2VMask(batched=True), n_masks=8)(slices, torch.nn.Identity())[
        :, 1:
    ]
    spots = torch.isfinite(blind)
    assert torch.equal(blind[spots].floor(), slices[spots].floor())
    assert (blind[spots] != slices[spots]).all()
    assert spots.flatten(0, 3).any(dim=0).all(), "every slice has blind spots"


def uneven_network(spatial_dims: int) -> torch.nn.Module:
    """A random convolution, different along every axis."""
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d if spatial_dims == 2 else torch.nn.Conv3d
    return convolution(1, 1, 3, padding=1).requires_grad_(False)


def tiled(spatial_dims: int) -> SymmetricInferer:
    """As in inference.json, which takes volumes for a 2D network too."""
    return SymmetricInferer(AlignedTileInferer(spatial_dims, 1, 32, 8, 1), spatial_dims)


@pytest.mark.parametrize(("spatial_dims", "n_axes"), [(2, 2), (2, 3), (3, 3)])
@pytest.mark.parametrize("spacing", [(5, 1, 0.7), (1, 1, 1)])
def test_evaluation_averages_over_the_symmetries_of_inference(spatial_dims, n_axes, spacing):
    values = np.random.default_rng(0).normal(size=(1, 12, 10, 11)[: 1 + n_axes])
    noisy = as_meta_tensor(values.astype(np.float32), spacing)
    network, averaging = uneven_network(spatial_dims), tiled(spatial_dims)
    calls = []

    def recorded(images: torch.Tensor, *args) -> torch.Tensor:
        calls.append(images)
        return averaging(images, *args)

    output = BlindSpotInferer(recorded, spatial_dims, RandN2VMask(batched=True), n_masks=2)(noisy[None], network)
    assert not isinstance(output, MetaTensor)
    plain, blind = output.chunk(2, dim=1)
    assert torch.equal(plain, averaging(noisy[None], network))
    spots = ~torch.isnan(blind)
    expected = [averaging(MetaTensor(x.as_tensor(), noisy.affine[None]), network) for x in calls[1:]]
    assert ((blind[spots] == expected[0][spots]) | (blind[spots] == expected[1][spots])).all()
    if spacing[0] != spacing[1]:
        isotropic = averaging(noisy[None].as_tensor(), network)
        assert not torch.allclose(plain, isotropic, atol=1e-3), "the test would not see a lost spacing"


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_bundle_evaluates_the_averaged_prediction_of_its_inference(spatial_dims, tmp_path):
    """Voxels of three lengths: 2D slices permit 4 symmetries, volumes 8."""
    volume = nibabel.Nifti1Image(phantom((24, 28, 20))[1], np.diag([5, 1, 0.7, 1]))
    (tmp_path / "images").mkdir()
    nibabel.save(volume, tmp_path / "images" / "x.nii.gz")
    options = {"dataset_dir": str(tmp_path / "images"), "output_dir": str(tmp_path / "out")}
    run(workflow("train", spatial_dims, epochs=1, **options))
    run(workflow("inference", spatial_dims, tta=True, **options))
    denoised = nibabel.load(tmp_path / "out" / "denoised" / "x_denoised.nii.gz").get_fdata()
    flow = run(evaluation(spatial_dims, tta=True, **options))
    (output,) = flow.parser.get_parsed_content("validate#evaluator").state.output
    np.testing.assert_allclose(output["pred"][0], denoised, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 1, 32, 28), (1, 1, 16, 20, 12)])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_predictions_that_are_not_finite_are_an_error(value, shape):
    image = MetaTensor(torch.rand(shape), meta={"filename_or_obj": ["x.nii.gz"]})
    inferer = BlindSpotInferer(SimpleInferer(), len(shape) - 2, RandN2VMask(batched=True))
    message = "prediction must be finite, got NaN or infinite voxels for x.nii.gz"

    def diverged(x: torch.Tensor) -> torch.Tensor:
        return x.where(x < 0.5, value)

    def blind_alone(x: torch.Tensor) -> torch.Tensor:
        return x if torch.equal(x, image) else diverged(x)

    for network in (diverged, blind_alone):
        with pytest.raises(ValueError, match=message):
            inferer(image, network)


def test_infinite_blind_prediction_is_not_left_out():
    pred = torch.zeros(2, 4, 4)
    pred[1] = torch.nan
    pred[1, 0, 0], pred[1, 1, 1] = 1.0, torch.inf
    assert SeparateBlindd()({"pred": pred, "image": torch.zeros(1, 4, 4)})["val_loss"] == np.inf
    with np.errstate(invalid="ignore"):
        assert score_blind(np.zeros((4, 4)), pred[1].numpy(), 0.0, 1.0)["blind_mse"] == np.inf


def test_separated_predictions_share_their_offset():
    plain, blind = torch.full((1, 4, 4), 2.0), torch.full((1, 4, 4), torch.nan)
    blind[0, 1, 1], image = 3.0, torch.zeros(1, 4, 4)
    d = SeparateBlindd()({"pred": torch.cat([plain, blind]), "image": image})
    assert torch.equal(d["pred"], plain)
    assert d["blind"][0, 1, 1] == 1.0
    assert d["val_loss"] == 9.0, "the loss of the training knows no offset"


def scored(spatial_dims: int = 2, **items) -> dict:
    noisy = torch.from_numpy(phantom(SHAPES[spatial_dims])[1])[None]
    image = MetaTensor(noisy, meta={"intensity_mean": np.zeros(1), "intensity_std": np.ones(1)})
    item = {"image": image, "noisy": noisy, "pred": noisy * 0.9, "blind": noisy * 0.9, "val_loss": 1.0, **items}
    return ScoreDenoisingd(spatial_dims=spatial_dims)(item)["scores"]


def test_blind_prediction_is_brought_back_from_even_noise():
    noisy = torch.from_numpy(phantom(SHAPES[2])[1])[None]
    gain = torch.linspace(0.5, 2, 40)[:, None] * torch.ones(SHAPES[2])
    plain, evened = scored(), scored(blind=noisy * 0.9 / gain, noise_gain=gain)
    assert evened == pytest.approx(plain, rel=1e-5, nan_ok=True)


def test_padding_counts_as_free_of_noise():
    values = torch.from_numpy(phantom((40, 44))[1])[None]
    values[:, :20] = values.min()
    meta = {"intensity_mean": np.zeros(1), "intensity_std": np.ones(1)}
    item = {
        "image": MetaTensor(values, meta=meta),
        "noisy": values,
        "pred": 0.9 * values,
        "blind": 0.9 * values,
        "val_loss": 1.0,
    }
    scores = ScoreDenoisingd(sigma=10.0, data_range=100.0)(item)["scores"]
    assert scores["blind_psnr_noisy"] == pytest.approx(10 * np.log10(1e4 / 50)), "half of the image has no noise"


def test_unfit_references_named(tmp_path):
    np.save(tmp_path / "other.npy", np.ones((40, 43)))
    holed = phantom(SHAPES[2])[0]
    holed[0, 0] = np.nan
    np.save(tmp_path / "holed.npy", holed)
    for name, message in (("other", r"shape of its image, \(1, 40, 44\), got \(1, 40, 43\)"), ("holed", "finite")):
        with pytest.raises(ValueError, match=rf"{message}.* for .*{name}\.npy"):
            scored(repeat_0=str(tmp_path / f"{name}.npy"))


@pytest.mark.parametrize("option", [{"sigma": 0}, {"data_range": -1.0}])
def test_impossible_options_refused(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))} must be above 0"):
        ScoreDenoisingd(**option)
    with pytest.raises(ValueError, match="n_masks must be at least 1"):
        BlindSpotInferer(SimpleInferer(), 2, RandN2VMask(batched=True), n_masks=0)
    with pytest.raises(ValueError, match="masker must take batches"):
        BlindSpotInferer(SimpleInferer(), 2, RandN2VMask())


def test_table_and_metrics_of_several_images(tmp_path):
    engine = Engine(lambda engine, batch: batch)
    engine.state.metric_details, engine.state.rank = {}, 0
    ScoreTable(tmp_path).attach(engine)
    details = MetricsSaver(str(tmp_path), "*", "*", batch_transform=from_engine("meta"))
    details.attach(engine)
    batches = []
    for name, scores in (("a", {"sigma": 1e-6, "blind_psnr": np.nan}), ("b", {"sigma": 3e-6, "blind_psnr": 30.0})):
        meta = {"filename_or_obj": name}
        batches.append([{"image": MetaTensor(torch.zeros(1, 2, 2), meta=meta), "scores": scores, "meta": meta}])
    for _ in range(2):  # a second run starts afresh
        with pytest.warns(RuntimeWarning, match="Mean of empty slice"):
            engine.run(batches)
    assert engine.state.metrics == {"sigma": pytest.approx(2e-6), "blind_psnr": 30.0}
    assert read(tmp_path / "scores.csv") == [
        {"filename": "a", "sigma": "1e-06", "blind_psnr": "nan"},
        {"filename": "b", "sigma": "3e-06", "blind_psnr": "30"},
    ]
    assert [row["class0"] for row in read(tmp_path / "sigma_raw.csv")] == ["1e-06", "3e-06"]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module", params=[2, 3])
def trained(request, tmp_path_factory):
    """Folders of noisy, clean and repeated images, and a barely trained network."""
    folder, spatial_dims = tmp_path_factory.mktemp("evaluate"), request.param
    for name, sigma, seed in (("noisy", 10, 0), ("clean", 0, 0), ("again", 10, 1), ("more", 10, 2)):
        (folder / name).mkdir()
        for k in range(2):
            values = phantom(SHAPES[spatial_dims], sigma, seed + 10 * k)[1]
            np.save(folder / name / f"image{k}.npy", values)
    options = {"dataset_dir": str(folder / "noisy"), "output_dir": str(folder / "out")}
    run(workflow("train", spatial_dims, epochs=1, **options))
    return folder, spatial_dims, options


def scheme_training(spatial_dims: int, overlays: Sequence[str], **options) -> ConfigWorkflow:
    configs = find_bundle(f"n2v_denoise_{spatial_dims}d") / "configs"
    return ConfigWorkflow(
        config_file=[str(configs / "train.json"), *(str(find_config(name)) for name in overlays)],
        workflow_type="train",
        logging_file=False,
        bundle_root=str(configs.parent),
        **{**SMALL[spatial_dims], "device": "$torch.device('cpu')", **options},
    )


def evaluation(spatial_dims: int, overlays: Sequence[str] = (), **overrides) -> ConfigWorkflow:
    configs = find_bundle(f"n2v_denoise_{spatial_dims}d") / "configs"
    between = [str(find_config(name)) for name in overlays]
    return ConfigWorkflow(
        config_file=[str(configs / "train.json"), *between, str(configs / "evaluate.json")],
        workflow_type="train",
        logging_file=False,
        bundle_root=str(configs.parent),
        **{**SMALL[spatial_dims], "device": "$torch.device('cpu')", "n_masks": 2, **overrides},
    )


def test_bundle_scores_against_everything_in_the_units_of_the_image(trained):
    folder, spatial_dims, options = trained
    repeats = [str(folder / "again"), str(folder / "more")]
    flow = run(evaluation(spatial_dims, clean_dir=str(folder / "clean"), repeat_dirs=repeats, **options))
    metrics = dict(line.split(",") for line in (folder / "out/evaluation/metrics.csv").read_text().splitlines())
    rows = read(folder / "out" / "evaluation" / "scores.csv")
    assert [row["filename"] for row in rows] == [str(folder / "noisy" / f"image{k}.npy") for k in range(2)]
    for name in rows[0].keys() - {"filename"}:
        expected = np.mean([float(row[name]) for row in rows])
        assert float(metrics[name]) == pytest.approx(expected, rel=1e-4, nan_ok=True)

    run(workflow("inference", spatial_dims, **options))
    for k, row in enumerate(rows):
        denoised = np.load(folder / "out" / "denoised" / f"image{k}_denoised.npy")
        noisy, clean, *others = (np.load(folder / n / f"image{k}.npy") for n in ("noisy", "clean", "again", "more"))
        data_range = float(row["data_range"])
        assert data_range == pytest.approx(clean.max() - clean.min(), rel=1e-4)
        for name, image in (("noisy", noisy), ("denoised", denoised)):
            expected = peak_signal_noise_ratio(clean, image, data_range=data_range)
            assert float(row[f"psnr_{name}"]) == pytest.approx(expected, abs=1e-3)
        mean, variance = average_repeats(other[None] for other in others)
        expected = score_repeats(noisy, denoised, mean[0], variance[0], data_range)
        for name, value in expected.items():
            assert float(row[name]) == pytest.approx(value, rel=1e-3)
        assert float(row["sigma"]) == pytest.approx(10, rel=0.2)
        assert ("residual_lag1_axis2" in row) == (spatial_dims == 3)
    built = flow.parser.ref_resolver.resolved_content
    for part in ("train#dataset", "train#dataloader", "train#trainer", "optimizer", "lr_scheduler", "summary_writer"):
        assert part.replace("#", "::") not in built, f"{part} has no part in scoring"
    evaluator = flow.parser.get_parsed_content("validate#evaluator")
    assert evaluator.state.best_metric == evaluator.state.metrics["val_loss"] > 0


def test_bundle_scores_without_any_reference(trained, tmp_path):
    folder, spatial_dims, options = trained
    ckpt_path = folder / "out" / "models" / "model.pt"
    settings = {**options, "output_dir": str(tmp_path), "ckpt_path": str(ckpt_path), "sigma": 10.0, "data_range": 100}
    tables = []
    for seed in (0, 1):
        run(evaluation(spatial_dims, **settings, seed=seed))
        tables.append(read(tmp_path / "evaluation" / "scores.csv"))
    assert tables[0] == tables[1], "blind spots are always the same"
    for row in tables[0]:
        assert (float(row["sigma"]), float(row["data_range"]), float(row["blind_psnr_noisy"])) == (10, 100, 20)
        assert float(row["blind_mse_error"]) > 0
        assert not any(name.startswith(("psnr_", "ssim_", "repeats_")) for name in row)
    assert list(tmp_path.rglob("*")) == [tmp_path / "evaluation", *sorted((tmp_path / "evaluation").iterdir())]


def test_each_score_also_as_a_file_by_monai_on_request(trained, tmp_path):
    folder, spatial_dims, options = trained
    ckpt_path = folder / "out" / "models" / "model.pt"
    settings = {**options, "output_dir": str(tmp_path), "ckpt_path": str(ckpt_path)}
    run(evaluation(spatial_dims, **settings, **{"validate#handlers#3#metric_details": "*"}))
    rows, raw = (read(tmp_path / "evaluation" / f"{name}.csv") for name in ("scores", "blind_mse_raw"))
    assert [row["filename"] for row in raw] == [row["filename"] for row in rows]
    for row, other in zip(rows, raw):
        assert float(other["class0"]) == pytest.approx(float(row["blind_mse"]), rel=1e-5)


@pytest.mark.parametrize(
    "overlays",
    [["n2v2.json"], ["structn2v.json"], ["supervised.json"], NOISE2NOISE, ["supervised.json", "n2v2.json"]],
)
def test_other_schemes_are_scored_where_evaluate_comes_last(overlays, trained, tmp_path):
    folder, spatial_dims, options = trained
    options = {**options, "output_dir": str(tmp_path)}
    if "n2v2.json" in overlays:
        options["features"] = 4
    paired = "supervised.json" in overlays
    targets = {"target_dir": str(folder / ("again" if "noise2noise.json" in overlays else "clean"))} if paired else {}
    training = scheme_training(spatial_dims, overlays, epochs=1, **options, **targets)
    run(training)
    # Scoring takes the targets of the training from clean_dir or repeat_dirs, and asks for no target_dir.
    flow = run(evaluation(spatial_dims, overlays, clean_dir=str(folder / "clean"), **options))
    rows = read(tmp_path / "evaluation" / "scores.csv")
    assert [Path(row["filename"]).name for row in rows] == ["image0.npy", "image1.npy"]
    for k, row in enumerate(rows):
        noisy, clean = (np.load(folder / name / f"image{k}.npy") for name in ("noisy", "clean"))
        assert float(row["psnr_noisy"]) == pytest.approx(
            peak_signal_noise_ratio(clean, noisy, data_range=np.ptp(clean)), abs=1e-3
        )
        assert np.isfinite(float(row["psnr_denoised"]))
    trained_network = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    laws.states_are_equal(flow.parser.get_parsed_content("network").state_dict(), trained_network)


def test_flat_bundle_scores_a_volume_and_channels(tmp_path):
    (tmp_path / "images").mkdir()
    volumes = np.stack([phantom((24, 28, 6), seed=k)[1] * (1 + k) for k in range(2)], axis=-1)
    nibabel.save(nibabel.Nifti1Image(volumes, np.eye(4)), tmp_path / "images" / "x.nii.gz")
    shutil.copytree(tmp_path / "images", tmp_path / "clean")
    options = {"dataset_dir": str(tmp_path / "images"), "output_dir": str(tmp_path / "out")}
    run(workflow("train", 2, epochs=1, **options))
    run(evaluation(2, clean_dir=str(tmp_path / "clean"), **options))
    (row,) = read(tmp_path / "out" / "evaluation" / "scores.csv")
    assert float(row["psnr_noisy"]) > 140, "but for the rounding of float32"
    assert float(row["ssim_noisy"]) == pytest.approx(1)
    assert float(row["sigma"]) == pytest.approx(15, rel=0.15), "mean of 10 and 20"


def test_bundle_properties_complete_without_a_trained_network(trained, tmp_path):
    _, spatial_dims, options = trained
    flow = evaluation(spatial_dims, **{**options, "ckpt_path": str(tmp_path / "model.pt")})
    flow.initialize()
    assert flow.check_properties() == []
    flow.parser.get_parsed_content("summary_writer").close()


def first_error(flow: ConfigWorkflow) -> BaseException:
    """What running raises first, before MONAI wraps it."""
    with pytest.raises(Exception) as caught:
        run(flow)
    first: BaseException = caught.value
    while first.__cause__ is not None:
        first = first.__cause__
    return first


def test_weights_of_another_network_named_in_one_line(trained):
    folder, spatial_dims, options = trained
    first = first_error(evaluation(spatial_dims, **{**options, "features": [6, 6, 6, 6, 6, 6]}))
    assert isinstance(first, ValueError)
    assert str(first).startswith("ckpt_path must hold weights of the network its bundle configures, got ")
    assert str(folder / "out" / "models" / "model.pt") in str(first)
    assert "\n" not in str(first)


def test_missing_network_is_the_first_exception(trained, tmp_path):
    _, spatial_dims, options = trained
    first = first_error(evaluation(spatial_dims, **{**options, "ckpt_path": str(tmp_path / "model.pt")}))
    assert isinstance(first, FileNotFoundError)
    assert "Run train.json first" in str(first)


def test_federated_client_evaluates_weights_it_is_sent(trained, tmp_path):
    folder, spatial_dims, options = trained
    weights = torch.load(folder / "out" / "models" / "model.pt", weights_only=True)
    settings = {**SMALL[spatial_dims], **options, "output_dir": str(tmp_path), "device": "$torch.device('cpu')"}
    bundle = find_bundle(f"n2v_denoise_{spatial_dims}d")
    client = MonaiAlgo(str(bundle), config_train_filename=None, eval_kwargs={**settings, "n_masks": 2})
    client.initialize()
    received = client.evaluate(ExchangeObject(weights={name: w.numpy() for name, w in weights.items()}))
    run(evaluation(spatial_dims, **options))
    local = dict(line.split(",") for line in (folder / "out/evaluation/metrics.csv").read_text().splitlines())
    assert received.metrics["val_loss"] == pytest.approx(float(local["val_loss"]), rel=1e-6)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_evaluation_predicts_as_inference_does(spatial_dims):
    folder = find_bundle(f"n2v_denoise_{spatial_dims}d") / "configs"
    evaluate, inference = (json.loads((folder / f"{name}.json").read_text()) for name in ("evaluate", "inference"))
    for key in ("tile_size", "halo", "amp", "tta", "keep_padding", "keep_mean"):
        assert evaluate[key] == inference[key], key
    blind, series = evaluate["validate#inferer"], inference["inferer"]
    assert blind["inferer"] == series, "the same behind the blind spots"
    assert evaluate["validate#preprocessing"] == inference["preprocessing"]
    *restored, _ = inference["postprocessing"]["transforms"]  # all but saving
    scored = evaluate["validate#postprocessing"]["transforms"][1:-1]
    assert [{**one, "keys": "pred"} for one in scored] == restored


def test_pictures_score_in_gray_values(tmp_path):
    """PNG is read as stored; a clean TIFF of another type is its partner."""
    clean, noisy = phantom(SHAPES[2])
    (tmp_path / "noisy").mkdir()
    (tmp_path / "clean").mkdir()
    stored = np.clip(noisy, 0, 255).astype(np.uint8)
    Image.fromarray(stored).save(tmp_path / "noisy" / "x.png")
    Image.fromarray(clean).save(tmp_path / "clean" / "x.tif")
    options = {"dataset_dir": str(tmp_path / "noisy"), "output_dir": str(tmp_path / "out")}
    run(workflow("train", 2, epochs=1, **options))
    run(evaluation(2, clean_dir=str(tmp_path / "clean"), data_range=255, **options))
    (row,) = read(tmp_path / "out" / "evaluation" / "scores.csv")
    expected = peak_signal_noise_ratio(clean, stored.astype(np.float32), data_range=255)
    assert float(row["psnr_noisy"]) == pytest.approx(expected, abs=1e-3)
