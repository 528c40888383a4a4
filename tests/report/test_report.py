# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import base64
import hashlib
import io
import json
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import nibabel
import numpy as np
import pytest
from conftest import oblique_nifti, phantom
from PIL import Image
from scipy import ndimage

import monai_n2v.report.write as report
from monai_n2v.io import atomic as staging
from monai_n2v.io.images import read_volume
from monai_n2v.io.nifti import NiftiSource
from monai_n2v.io.npy import NpySource
from monai_n2v.io.volume import Volume
from monai_n2v.metrics import residual as quality
from monai_n2v.metrics.residual import find_faults, measure
from monai_n2v.noise.check import check_noise
from monai_n2v.report import planes
from monai_n2v.report.planes import cut_planes, encode_planes
from monai_n2v.report.write import directions_of, hash_source, write_report

LIMIT = 2_000_000


class Page(HTMLParser):
    """Tags with their attributes, and the text outside of style and script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self._inside = tag

    def handle_data(self, data):
        if self._inside not in ("style", "script"):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.tags if name == tag]


def decoded(uri: str) -> np.ndarray:
    head, _, body = uri.partition(",")
    assert head in ("data:image/png;base64", "data:image/jpeg;base64")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(body))))


def image(data: np.ndarray, spacing: tuple[float, ...] | None = None, upward: bool = True, notes=()) -> Volume:
    """An image that does not tell where it lies, of NIfTI or of a format whose second axis runs downwards."""
    spacing = spacing or (1.0,) * (data.ndim - 1)
    source = NiftiSource(nibabel.Nifti1Image(data[0], None)) if upward else NpySource(data.shape[1:], data.dtype)
    return Volume(data, spacing, source, list(notes))


def written(folder: Path, shape=(32, 36, 24), sigma=10.0, stem="out", **options) -> tuple[Page, dict, str]:
    clean, noisy = phantom(shape, sigma)
    volume = image(noisy[None], options.pop("spacing", None), notes=options.pop("notes", []))
    volume = replace(volume, path=str(options.pop("path", "")))
    paths = write_report(folder, stem, volume, clean[None], options.pop("record", {"seed": 0}), **options)
    html = paths.page.read_text()
    assert paths.page.stat().st_size < LIMIT
    return Page(html), json.loads(paths.record.read_text()), html


# What is written.


def test_three_files_and_nothing_else(tmp_path):
    written(tmp_path / "new", stem="scan")
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert names == ["scan_report.html", "scan_report.json", "scan_report.png"]


def test_page_is_complete_in_itself(tmp_path):
    page, _, html = written(tmp_path, losses=[1.0, 0.5])
    for tag, attrs in page.tags:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            value = attrs.get(name, "")
            assert not value or value.startswith(("data:", "#")), f"<{tag} {name}={value[:60]}>"
    assert "url(http" not in html
    assert "@import" not in html
    assert "default-src 'none'" in html


def test_every_picture_has_its_own_alternative_text(tmp_path):
    page, _, _ = written(tmp_path, losses=[1.0, 0.5])
    texts = [attrs["alt"] for attrs in page.all("img")]
    assert len(set(texts)) == 9
    assert sum("Noisy image" in text for text in texts) == 3
    assert len([a for a in page.all("div") if a.get("role") == "img" and a["aria-label"]]) == 3


@pytest.mark.parametrize(("losses", "charts"), [(None, 2), ([], 2), ([0.7], 3), (list(np.linspace(1, 0, 5000)), 3)])
def test_training_curve_where_losses_are_given(losses, charts, tmp_path):
    page, record, html = written(tmp_path, losses=losses)
    assert len(page.all("svg")) == charts
    assert ("<h3>Training</h3>" in html) == (charts == 3)
    assert record["losses"] == (losses if losses is None else pytest.approx(losses))


def test_no_check_found_a_fault_in_the_truth(tmp_path):
    page, record, _ = written(tmp_path)
    assert record["warnings"] == []
    assert "No check found a fault" in page.text
    assert "Research only, not for diagnostic use." in page.text


def test_notes_of_the_caller_are_warnings(tmp_path):
    page, record, _ = written(tmp_path, notes=["The image was <filtered> & interpolated."])
    assert record["warnings"] == ["The image was <filtered> & interpolated."]
    assert "The image was <filtered> & interpolated." in page.text
    assert "1 warning:" in page.text


def test_foreign_text_is_shown_and_never_run(tmp_path):
    evil = "<img src=x onerror=alert(1)>\"'&$x^2${stem}{{1234*5678}}{%"
    page, record, _ = written(
        tmp_path, stem=evil, record={"input": evil, evil: evil, "model": Path(evil)}, notes=[evil]
    )
    assert page.text.count(evil) >= 5
    assert "7006652" not in page.text
    assert all(attrs["src"].startswith("data:") for attrs in page.all("img"))
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert len(page.all("script")) == 1
    assert record["input"] == evil


def test_record_holds_the_run(tmp_path):
    source = tmp_path / "in.nii"
    source.write_bytes(b"voxels")
    record = {"seed": 7, "config_sha256": "c0ffee", "training_seconds": np.float32(1.5), "epochs": np.int64(3)}
    page, got, _ = written(tmp_path, spacing=(0.5, 0.5, 3.0), record=record, path=source)
    assert got["input_sha256"] == hashlib.sha256(b"voxels").hexdigest()
    assert got["seed"] == 7
    assert got["epochs"] == 3
    assert got["shape"] == [32, 36, 24]
    assert got["spacing_mm"] == [0.5, 0.5, 3.0]
    assert got["sigma_noisy"] == pytest.approx(10, rel=0.05)
    assert got["sigma_denoised"] < 1
    assert got["std_removed"] == pytest.approx(10, rel=0.02)
    assert got["mean_removed"] == pytest.approx(got["mean_noisy"] - got["mean_denoised"], abs=1e-6)
    assert got["normalization"] == {"mean": got["mean_noisy"], "std": pytest.approx(phantom((32, 36, 24))[1].std())}
    assert np.shape(got["autocorrelation_removed"]) == (3, 3)
    assert got["peak_memory_mb"]["host"] > 10
    assert {"monai-n2v", "monai", "torch", "numpy"} <= set(got["versions"])
    for text in ("c0ffee", "32 \u00d7 36 \u00d7 24", "0.5 \u00d7 0.5 \u00d7 3", got["input_sha256"]):
        assert text in page.text


def test_normalization_of_the_caller_is_kept(tmp_path):
    assert written(tmp_path, record={"normalization": {"mean": 1.0, "std": 2.0}})[1]["normalization"]["std"] == 2.0


def test_nothing_is_written_where_drawing_fails(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise MemoryError("no room")

    monkeypatch.setattr(report, "render_page", fail)
    with pytest.raises(MemoryError):
        written(tmp_path)
    assert not list(tmp_path.iterdir())


def test_files_appear_whole(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(staging.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        written(tmp_path)
    assert not list(tmp_path.iterdir())


def test_folder_is_hashed_file_after_file(tmp_path):
    for name, content in (("b.dcm", b"two"), ("a.dcm", b"one"), ("c/a.dcm", b"three")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert hash_source(tmp_path) == hashlib.sha256(b"onetwothree").hexdigest()


def test_no_global_state_of_matplotlib():
    code = (
        "import sys, pathlib, tempfile, numpy as np; from monai_n2v.io.npy import NpySource;"
        "from monai_n2v.report.write import write_report;"
        "x = np.random.default_rng(0).normal(size=(1, 16, 16)).astype('f4');"
        "volume = NpySource((16, 16), x.dtype).to_volume(x[0], (1, 1));"
        "write_report(pathlib.Path(tempfile.mkdtemp()), 'x', volume, 0 * x, {}, losses=[1.0]);"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


# Planes.


@pytest.mark.parametrize("upward", [True, False])
def test_first_axis_runs_right_and_second_up_or_down(upward, tmp_path):
    clean = np.zeros((1, 20, 12), np.float32)
    clean[0, 15:, :3] = 100  # far along the first axis, near on the second
    noise = np.random.default_rng(0).normal(0, 1, clean.shape).astype(np.float32)
    paths = write_report(tmp_path, "x", image(clean + noise, upward=upward), clean, {})
    shown = decoded(Page(paths.page.read_text()).all("img")[1]["src"])
    assert shown.shape == (12, 20)
    corner = shown[-3:, 15:] if upward else shown[:3, 15:]
    assert corner.min() > 200
    assert np.median(shown) < 20


def test_planes_of_a_volume_and_their_true_aspect(tmp_path):
    page, _, html = written(tmp_path, shape=(20, 24, 10), spacing=(1.0, 0.5, 4.0))
    sizes = [decoded(attrs["src"]).shape for attrs in page.all("img")]
    assert sizes[0] == (24, 20)  # across the last axis
    assert sizes[2] == (10, 20)
    assert sizes[4] == (10, 24)
    for aspect in ("20 / 12", "20 / 40", "12 / 40"):
        assert f"--aspect: {aspect};" in html
    assert "axes 1 and 2, slice 6 of 10" in page.text


def test_picture_has_the_true_aspect_too(tmp_path):
    written(tmp_path, shape=(40, 40), spacing=(1.0, 3.0))
    with Image.open(tmp_path / "out_report.png") as picture:
        width, height = picture.size
        assert picture.mode == "L"
    assert height > width  # three panels of 1 : 3 side by side
    written(tmp_path, shape=(40, 40), spacing=(3.0, 1.0))
    with Image.open(tmp_path / "out_report.png") as picture:
        assert picture.width > 3 * picture.height * 0.6


def test_directions_name_planes_and_sides():
    volume = np.zeros((4, 6, 8), np.float32)
    shown = cut_planes(volume, volume, (1, 1, 1), ("P", "S", "R"))  # acquired sagittal
    assert [plane.title for plane in shown] == [
        "axial, slice 4 of 6",
        "coronal, slice 3 of 4",
        "sagittal, slice 5 of 8",
    ]
    assert shown[2].letters == ("A", "P", "S", "I")
    assert cut_planes(volume, volume, (1, 1, 1), ("P", "S", "R"), upward=False)[2].letters == ("A", "P", "S", "I")
    assert cut_planes(volume, volume, (1, 1, 1))[0].letters == ()


def test_directions_of_an_affine():
    affine = oblique_nifti(np.zeros((4, 4, 4), np.float32)).affine
    assert directions_of(affine, (4, 4, 4)) == ("L", "A", "S")
    assert directions_of(affine, (4, 1, 4)) == ("L", "S")
    assert directions_of(None, (4, 4, 4)) == ()


def test_heads_and_faces_are_up_however_stored():
    volume = np.arange(4 * 5 * 7, dtype=np.float32).reshape(4, 5, 7)
    first = cut_planes(volume, volume, (1, 1, 1), ("L", "A", "S"))
    second = cut_planes(volume[:, ::-1, ::-1], volume, (1, 1, 1), ("L", "P", "I"))
    for one, other in zip(first, second):
        assert one.letters[2:] == other.letters[2:]
    assert first[0].letters == second[0].letters == ("R", "L", "A", "P")
    assert first[1].letters == second[1].letters == ("R", "L", "S", "I")
    assert np.array_equal(first[1].noisy, second[1].noisy)


@pytest.mark.parametrize("shape", [(800, 800), (1300, 1200), (400, 380, 12)])
def test_large_images_stay_below_the_limit(shape, tmp_path):
    noise = np.random.default_rng(0).normal(0, 10, shape).astype(np.float32)
    paths = write_report(tmp_path, "x", image(noise[None]), noise[None] / 2, {})
    assert paths.page.stat().st_size < LIMIT
    assert ("to keep this page small" in paths.page.read_text()) == (len(shape) == 2)


def test_small_images_are_shown_exactly():
    clean, noisy = phantom((40, 30))
    shown = cut_planes(noisy, clean, (1, 1))
    windows = planes.choose_windows(shown, 10)
    uris, remark = encode_planes(shown, windows)
    assert remark == ""
    low, high = np.percentile(noisy, [1, 99])
    expected = np.rint(np.clip((noisy.T[::-1] - low) / (high - low), 0, 1) * 255)
    assert np.abs(decoded(uris[0][0]) - expected).max() <= 1
    assert decoded(uris[0][2]).mean() == pytest.approx(127.5, abs=5)


# Measures.


def test_measures_do_not_depend_on_slabs(monkeypatch):
    clean, noisy = phantom((64, 24, 20))
    whole = measure(noisy[None], clean[None])
    monkeypatch.setattr(quality, "_SLAB", 24 * 20 * 16)
    parts = measure(noisy[None], clean[None])
    assert parts.std_removed == pytest.approx(whole.std_removed)
    assert parts.sigma_noisy == pytest.approx(whole.sigma_noisy)
    assert np.allclose(parts.autocorrelation, whole.autocorrelation, atol=0.01)
    assert np.allclose(parts.density, whole.density)


def test_autocorrelation_is_the_textbook_one():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 30, 40, 20)).astype(np.float32)
    x[:, 1:] += 0.5 * x[:, :-1].copy()
    got = measure(x, np.zeros_like(x)).autocorrelation
    r = x[0] - x.mean()
    for axis in range(3):
        for lag in (1, 2, 3):
            a = np.moveaxis(r, axis, 0)
            assert got[axis][lag - 1] == pytest.approx(np.mean(a[lag:] * a[:-lag]) / r.var(), abs=1e-4)
    assert got[0][0] == pytest.approx(0.4, abs=0.02)


@pytest.mark.parametrize("shape", [(96, 96), (40, 40, 40)])
def test_sigma_ignores_dead_air(shape):
    clean, noisy = phantom(shape, 5.0)
    noisy[: shape[0] * 2 // 3] = 0
    got = measure(noisy[None], clean[None])
    assert got.alive == pytest.approx(1 / 3, abs=0.03)
    assert got.sigma_noisy == pytest.approx(5, rel=0.06)


def test_memory_stays_far_below_the_volume(monkeypatch):
    monkeypatch.setattr(quality, "_SLAB", 2**15)
    noisy = np.random.default_rng(0).normal(size=(2, 128, 96, 96)).astype(np.float32)
    denoised = noisy * 0.5
    tracemalloc.start()
    measure(noisy, denoised)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < noisy.nbytes


@pytest.mark.parametrize("shape", [(8, 9), (2, 40), (64, 64, 2), (9, 3, 5)])
def test_small_and_thin_images(shape, tmp_path):
    noise = np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)
    paths = write_report(tmp_path, "x", image(noise[None]), 0 * noise[None], {})
    assert json.loads(paths.record.read_text())["warnings"] == []


# Warnings.


def kinds(noisy: np.ndarray, denoised: np.ndarray, of_noise: np.ndarray | None = None) -> set[str]:
    starts = {
        "edges": "The residual shows structure at edges",
        "resemble": "The residual shows structure: neighboring",
        "oppose": "The residual shows a pattern",
        "little": "Almost no noise was removed",
        "nothing": "Nothing was removed",
    }
    faults = find_faults(measure(noisy[None], denoised[None], of_noise))
    found = {kind for kind, start in starts.items() for fault in faults if fault.startswith(start)}
    assert len(found) == len(faults)
    return found


SHAPES = [(128, 120), (48, 44, 40)]


@pytest.mark.parametrize("trained", [True, False])
def test_advice_fits_whether_a_network_was_trained(trained):
    clean, noisy = phantom((64, 60))
    quality = replace(measure(noisy[None], (noisy - 0.1 * (noisy - clean))[None]), edges=0.5)
    advice = " ".join(find_faults(quality, trained))
    assert "Almost no noise" in advice
    assert "structure at edges" in advice
    assert ("Train longer" in advice, "training may be too short" in advice) == (trained, trained)
    assert ("Train on the image" in advice) is not trained


@pytest.mark.parametrize("shape", SHAPES)
def test_correlation_that_the_noise_had_before_is_no_fault(shape):
    clean, noisy = phantom(shape)
    noise = ndimage.correlate1d(noisy - clean, (1, 0.6), axis=0, mode="wrap")
    checked = check_noise((clean + noise)[None])
    assert checked.autocorrelation[0, 0] == pytest.approx(0.6 / 1.36, abs=0.1)
    assert not checked.autocorrelation[1:].any()
    assert kinds(clean + noise, clean) == {"resemble"}
    assert kinds(clean + noise, clean, checked.autocorrelation) == set()
    assert kinds(noisy, clean, checked.autocorrelation) == set(), "whiter than the noise"
    smooth = ndimage.gaussian_filter(clean, 9)
    assert kinds(clean + noise, smooth, checked.autocorrelation), "anatomy is still missed"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(3))
def test_silent_where_noise_was_removed(shape, seed):
    clean, noisy = phantom(shape, seed=seed)
    assert kinds(noisy, clean) == set()
    assert kinds(noisy, clean + 0.3 * (noisy - clean)) == set(), "some noise is left, no anatomy lost"


@pytest.mark.parametrize("shape", SHAPES)
def test_silent_where_noise_grows_with_the_signal(shape):
    clean = phantom(shape)[0]
    noise = np.random.default_rng(0).normal(size=shape) * (1 + clean.clip(0) / 5)
    assert kinds((clean + noise).astype(np.float32), clean) == set()


@pytest.mark.parametrize("shape", SHAPES)
def test_warns_of_blur(shape):
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    tiles = rng.integers(0, 6, [n // 8 for n in shape]) * 20.0
    clean = np.kron(tiles, np.ones((8,) * len(shape)))
    noisy = clean + rng.normal(0, 10, clean.shape)
    assert kinds(noisy, clean) == set()
    assert "edges" in kinds(noisy, gaussian_filter(clean, 1.5))


@pytest.mark.parametrize("shape", SHAPES)
def test_warns_of_light_smoothing(shape):
    from scipy.ndimage import gaussian_filter

    noisy = phantom(shape)[1]
    assert "oppose" in kinds(noisy, gaussian_filter(noisy, 0.5))


@pytest.mark.parametrize("shape", SHAPES)
def test_warns_of_correlated_noise(shape):
    from scipy.ndimage import gaussian_filter

    clean = phantom(shape)[0]
    noise = gaussian_filter(np.random.default_rng(0).normal(size=shape), 1)
    assert "resemble" in kinds((clean + 10 * noise / noise.std()).astype(np.float32), clean)


@pytest.mark.parametrize("shape", SHAPES)
def test_warns_where_almost_nothing_was_removed(shape):
    clean, noisy = phantom(shape)
    assert kinds(noisy, noisy - 0.2 * (noisy - clean)) == {"little"}


@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_constant_residual(offset, tmp_path):
    noisy = phantom((20, 20, 20))[1][None] + 1000
    assert kinds(noisy[0], noisy[0] + offset) == {"nothing"}
    paths = write_report(tmp_path, "x", image(noisy), noisy + offset, {})
    record = json.loads(paths.record.read_text())
    assert record["std_removed"] == 0
    assert record["autocorrelation_removed"][0][0] is None
    assert "Nothing was removed" in Page(paths.page.read_text()).text


def test_real_image_blurred_and_not(nibabel_data):
    from scipy.ndimage import gaussian_filter

    image = np.asarray(nibabel.load(nibabel_data / "example4d.nii.gz").dataobj, np.float32)[..., 0]
    noisy = image + np.random.default_rng(0).normal(0, 40, image.shape).astype(np.float32)
    assert kinds(noisy, image) == set()
    assert {"edges", "resemble"} <= kinds(noisy, gaussian_filter(noisy, 1.5))


@pytest.mark.parametrize("shape", [(40, 44), (32, 36, 24)])
def test_complex_images_are_shown_by_their_magnitude(shape, tmp_path):
    real, imaginary = phantom(shape, 10)[1], phantom(shape, 10, seed=1)[1]
    values = np.stack([real + 1j * imaginary] * 2, -1) if len(shape) == 3 else real + 1j * imaginary
    np.save(tmp_path / "x.npy", values.astype(np.complex64))
    volume = read_volume(tmp_path / "x.npy")
    denoised = volume.data - 5
    page = Page(write_report(tmp_path, "x", volume, denoised, {}).page.read_text())
    assert "Of complex voxels the length (magnitude) is shown." in page.text
    assert "Noisy minus denoised, of the real part, from" in page.text
    record = json.loads((tmp_path / "x_report.json").read_text())
    assert record["n_volumes"] == (2 if len(shape) == 3 else 1)
    first = decoded(page.all("img")[0]["src"])
    length = np.hypot(real, imaginary)
    plane = length if length.ndim == 2 else length[..., length.shape[-1] // 2]
    low, high = np.percentile(plane, [1, 99])
    close = np.clip((plane - low) / (high - low), 0, 1) * 255
    assert any(np.corrcoef(turned.ravel(), first.ravel())[0, 1] > 0.99 for turned in (close.T, close.T[::-1]))


def test_what_was_removed_is_named_where_a_bias_was_taken_off(tmp_path):
    page, _, _ = written(tmp_path)
    assert "Noisy minus denoised, from" in page.text
    clean, noisy = phantom((32, 36, 24))
    paths = write_report(tmp_path, "x", image(noisy[None]), clean[None] - 3, {}, expected=clean[None])
    page = Page(paths.page.read_text())
    assert "Noisy minus denoised, before the bias was taken off, from" in page.text
    assert any("before the bias was taken off" in attrs["alt"] for attrs in page.all("img"))
