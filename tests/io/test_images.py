# SPDX-License-Identifier: Apache-2.0
"""Every format: what is read is written back, whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
from samples import FORMATS, dicom_series, oblique_affine

from monai_n2v.io.find import find_images
from monai_n2v.io.images import check_target, default_target, read_volume, save_volume, split_name
from monai_n2v.io.volume import quantize

SHAPE = (9, 11, 6, 2)


def sample(name: str, folder, shape=SHAPE, dtype: str | None = None, seed: int = 0, **affine):
    """A file of a format with random stored values; returns its path and the values, ``(x, y[, z[, t]])``."""
    suffix, write, types, dims = FORMATS[name]
    shape = shape[: max(dims)] if len(shape) not in dims else shape
    kind = np.dtype(dtype or types[0])
    rng = np.random.default_rng(seed)
    if kind.kind == "f":
        data = rng.normal(size=shape).astype(kind)
    else:
        info = np.iinfo(kind)
        high = min(info.max, 2**24)  # float32 holds whole numbers up to there
        data = rng.integers(max(info.min, -high), high, shape).astype(kind)
    path = folder / f"sample{suffix}"
    write(path, data, oblique_affine(**affine))
    return path, data


def as_stack(data: np.ndarray) -> np.ndarray:
    return np.moveaxis(data, -1, 0) if data.ndim == 4 else data[None]


CASES = [(name, dtype, n) for name, (_, _, types, dims) in FORMATS.items() for dtype in types for n in dims]


@pytest.mark.parametrize(("name", "dtype", "n_axes"), CASES)
def test_write_of_read_is_the_same(name, dtype, n_axes, tmp_path):
    path, data = sample(name, tmp_path, SHAPE[:n_axes], dtype)
    volume = read_volume(path)
    assert volume.data.dtype == np.float32
    assert np.array_equal(volume.data, as_stack(data).astype(np.float32))
    assert volume.source.stored == np.dtype(dtype)
    out = tmp_path / "out" / path.name
    save_volume(volume.data, volume, out, "input")
    again = read_volume(out)
    assert again.source.stored == np.dtype(dtype)
    assert np.array_equal(again.data, volume.data)
    np.testing.assert_allclose(again.spacing, volume.spacing, rtol=1e-6)
    if volume.source.affine is None:
        assert again.source.affine is None
    else:
        np.testing.assert_allclose(again.source.affine, volume.source.affine, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "png"])
def test_float_results_are_kept_exactly(name, tmp_path):
    path, _ = sample(name, tmp_path)
    volume = read_volume(path)
    values = volume.data + np.float32(0.37)
    save_volume(values, volume, tmp_path / "out" / path.name)
    again = read_volume(tmp_path / "out" / path.name)
    assert again.source.stored == np.float32
    assert np.array_equal(again.data, values)


@pytest.mark.parametrize("name", FORMATS)
def test_whole_numbers_are_rounded_and_clipped(name, tmp_path):
    dtype = next(t for t in FORMATS[name][2] if np.dtype(t).kind in "iu")
    path, _ = sample(name, tmp_path, dtype=dtype)
    volume = read_volume(path)
    values = np.full_like(volume.data, 5.4)
    values.reshape(-1)[:2] = -1e30, 1e30
    save_volume(values, volume, tmp_path / "out" / path.name, "input")
    again = read_volume(tmp_path / "out" / path.name).data.reshape(-1)
    info = np.iinfo(dtype)
    assert again[0] == np.float32(info.min)
    assert again[1] == np.float32(info.max)
    assert (again[2:] == 5).all()


def test_metadata_kept_by_nrrd(tmp_path):
    path, _ = sample("nrrd", tmp_path)
    volume = read_volume(path)
    save_volume(volume.data, volume, tmp_path / "out.nrrd")
    before, after = (nrrd.read_header(str(p)) for p in (path, tmp_path / "out.nrrd"))
    assert after["type"] == "float"
    kept = [{k: str(v) for k, v in header.items() if k not in ("type", "endian")} for header in (before, after)]
    assert kept[0] == kept[1]


@pytest.mark.parametrize("name", ["mha", "mhd"])
def test_metadata_kept_by_metaimage(name, tmp_path):
    import itk

    path, _ = sample(name, tmp_path, SHAPE[:3])
    volume = read_volume(path)
    out = tmp_path / "out" / path.name
    save_volume(volume.data, volume, out)
    image = itk.imread(str(out))
    assert image["note"] == "a phantom"
    assert b"CompressedData = True" in out.read_bytes()
    assert len(list(out.parent.iterdir())) == (2 if name == "mhd" else 1)


def test_metadata_kept_by_imagej_tiff(tmp_path):
    path, _ = sample("imagej", tmp_path)
    volume = read_volume(path)
    np.testing.assert_allclose(volume.spacing, (0.3e-3, 0.4e-3, 1.5e-3), rtol=1e-6)
    save_volume(volume.data, volume, tmp_path / "out.tif")
    with tifffile.TiffFile(path) as before, tifffile.TiffFile(tmp_path / "out.tif") as after:
        assert after.series[0].axes == before.series[0].axes == "TZYX"
        assert after.imagej_metadata == before.imagej_metadata
        for tag in ("XResolution", "YResolution"):
            assert after.pages[0].tags[tag].value == before.pages[0].tags[tag].value


def test_metadata_kept_by_ome_tiff(tmp_path):
    path, _ = sample("ome", tmp_path, dtype="int16")
    volume = read_volume(path)
    np.testing.assert_allclose(volume.spacing, (0.25e-3,) * 3)
    save_volume(volume.data, volume, tmp_path / "out.ome.tif")
    with tifffile.TiffFile(tmp_path / "out.ome.tif") as after:
        assert after.is_ome
        assert after.series[0].axes == "TZYX"
        assert after.series[0].dtype == np.float32
        ome = after.ome_metadata
        assert after.pages[0].compression.name == "ADOBE_DEFLATE"
    assert 'Name="a phantom ünder µscope"' in ome.replace("&#252;", "ü").replace("&#181;", "µ")
    assert 'Type="float"' in ome
    assert 'PhysicalSizeX="0.25"' in ome


def test_metadata_kept_by_plain_tiff(tmp_path):
    path, _ = sample("tiff", tmp_path)
    volume = read_volume(path)
    np.testing.assert_allclose(volume.spacing[:2], (0.05, 0.1))
    save_volume(volume.data, volume, tmp_path / "out.tif")
    with tifffile.TiffFile(tmp_path / "out.tif") as after:
        page = after.pages[0]
        assert page.description == "a phantom"
        assert page.compression.name == "LZW"
        assert [page.tags[t].value for t in ("XResolution", "YResolution", "ResolutionUnit")] == [(200, 1), (100, 1), 3]


def test_metadata_kept_by_png(tmp_path):
    path, _ = sample("png", tmp_path)
    volume = read_volume(path)
    np.testing.assert_allclose(volume.spacing, (0.254, 0.508), rtol=1e-3)
    save_volume(volume.data, volume, tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as image:
        assert image.text == {"Comment": "a phantom"}
        np.testing.assert_allclose(image.info["dpi"], (100, 50), rtol=1e-3)


def test_png_result_as_float_tiff(tmp_path):
    path, data = sample("png", tmp_path)
    volume = read_volume(path)
    save_volume(volume.data + 0.25, volume, tmp_path / "out.tif")
    assert np.array_equal(read_volume(tmp_path / "out.tif").data[0], data + np.float32(0.25))


@pytest.mark.parametrize("name", ["nrrd", "mha"])
@pytest.mark.parametrize("dtype", ["float32", "input"])
def test_formats_with_geometry_become_nifti(name, dtype, tmp_path):
    path, data = sample(name, tmp_path, SHAPE[:3], "int16")
    volume = read_volume(path)
    save_volume(volume.data, volume, tmp_path / "out.nii.gz", dtype)
    image = nibabel.load(tmp_path / "out.nii.gz")
    np.testing.assert_allclose(image.affine, oblique_affine(), atol=1e-5)
    assert image.get_data_dtype() == (np.float32 if dtype == "float32" else np.int16)
    assert np.array_equal(np.asarray(image.dataobj), data)


def test_image_without_geometry_is_not_written_as_nifti(tmp_path):
    path, _ = sample("npy", tmp_path)
    volume = read_volume(path)
    with pytest.raises(ValueError, match="output must be of the input's kind"):
        save_volume(volume.data, volume, tmp_path / "out.nii.gz")
    with pytest.raises(ValueError, match="output must be of the input's kind"):
        check_target(tmp_path / "out.nii.gz", path)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    case=st.sampled_from(CASES),
    sides=st.lists(st.integers(2, 9), min_size=4, max_size=4),
    spacing=st.lists(st.floats(0.01, 20), min_size=3, max_size=3),
    left_handed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_round_trip_of_any_shape_and_affine(case, sides, spacing, left_handed, seed, tmp_path_factory):
    name, dtype, n_axes = case
    folder = tmp_path_factory.mktemp("any")
    path, _ = sample(name, folder, tuple(sides[:n_axes]), dtype, seed, spacing=tuple(spacing), left_handed=left_handed)
    volume = read_volume(path)
    save_volume(volume.data, volume, folder / "out" / path.name, "input")
    again = read_volume(folder / "out" / path.name)
    assert np.array_equal(again.data, volume.data)
    if volume.source.affine is not None:
        np.testing.assert_allclose(again.source.affine, volume.source.affine, rtol=1e-5, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=20),
    dtype=st.sampled_from(["uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]),
    slope=st.sampled_from([1.0, 0.5, -2.0, 1e-3]),
    intercept=st.floats(-2000, 2000),
)
def test_quantized_values_are_the_nearest_in_range(values, dtype, slope, intercept):
    array = np.array([values])
    stored = quantize(array, np.dtype(dtype), slope, intercept)
    info = np.iinfo(dtype)
    exact = (array - intercept) / slope
    assert stored.dtype == dtype
    wanted = np.clip(exact, float(info.min), float(info.max))
    assert (np.abs(stored.astype(np.float64) - wanted) <= 0.5 + 1e-9 * np.abs(wanted)).all()


def test_names_and_targets(tmp_path):
    names = ("a.b.nii.gz", "a.nii", "A.NII.GZ", "x.ome.tif", "folder", "x.txt")
    assert [split_name(tmp_path / n)[0] for n in names] == ["a.b", "a", "A", "x.ome", "folder", "x.txt"]
    assert default_target(tmp_path / "a.nii.gz").name == "a_denoised.nii.gz"
    assert default_target(tmp_path / "a.png", tmp_path / "out") == tmp_path / "out" / "a_denoised.png"
    assert default_target(tmp_path).name == f"{tmp_path.name}_denoised"


@pytest.mark.parametrize(
    ("source", "target"),
    [("a.nii", "b.nii.gz"), ("a.mha", "b.mhd"), ("a.mha", "b.nii.gz"), ("a.png", "b.tif"), ("a.hdr", "b.nii")],
)
def test_suitable_targets_pass(source, target, tmp_path):
    check_target(tmp_path / target, tmp_path / source)


@pytest.mark.parametrize(
    ("source", "target"),
    [("a.nii", "b.mha"), ("a.nii", "b"), ("a.nii", "b.txt"), ("a.tif", "b.nii"), ("a.npy", "b.nii.gz")],
)
def test_unsuitable_targets_refused(source, target, tmp_path):
    with pytest.raises(ValueError, match="output must be of the input's kind"):
        check_target(tmp_path / target, tmp_path / source)


def test_find_images_of_every_kind(tmp_path):
    for name in ("nifti", "nifti pair", "nrrd", "mhd", "png"):
        folder = tmp_path / name
        folder.mkdir()
        sample(name, folder)
    dicom_series(tmp_path / "series", np.zeros((4, 5, 3), np.uint16), oblique_affine())
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden").mkdir()
    sample("png", tmp_path / ".hidden")
    found = [item["image"] for item in find_images(tmp_path)]
    names = ["mhd/sample.mhd", "nifti/sample.nii.gz", "nifti pair/sample.hdr", "nrrd/sample.nrrd", "png/sample.png"]
    assert found == [str(path) for path in sorted(tmp_path / n for n in [*names, "series"])]


@pytest.mark.parametrize("axes", ["TYX", "CYX", "TZYX"])
def test_axes_of_plain_stacks_kept(axes, tmp_path):
    data = np.random.default_rng(0).normal(size=(2, 3, 9, 8)[-len(axes) :]).astype(np.float32)
    tifffile.imwrite(tmp_path / "x.tif", data, metadata={"axes": axes, "note": "mine"}, photometric="minisblack")
    volume = read_volume(tmp_path / "x.tif")
    assert len(volume.data) == data.shape[0]
    save_volume(volume.data, volume, tmp_path / "y.tif")
    with tifffile.TiffFile(tmp_path / "y.tif") as file:
        assert file.series[0].axes == axes
        assert file.shaped_metadata[0]["note"] == "mine"
    assert np.array_equal(read_volume(tmp_path / "y.tif").data, volume.data)


def test_tags_beyond_ascii_kept(tmp_path):
    data = np.zeros((9, 8), np.float32)
    tifffile.imwrite(
        tmp_path / "x.tif", data, description="3 µm".encode(), metadata=None, datetime="2021:03:04 10:11:12"
    )
    volume = read_volume(tmp_path / "x.tif")
    save_volume(volume.data, volume, tmp_path / "y.tif")
    with tifffile.TiffFile(tmp_path / "y.tif") as file:
        assert file.pages[0].description == "3 µm"
        assert file.pages[0].datetime is not None


def test_skips_of_nrrd_are_not_repeated(tmp_path):
    header = b"NRRD0004\ntype: short\ndimension: 3\nsizes: 4 5 6\nkinds: None none ???\nencoding: raw\nendian: little\n"
    values = np.arange(120, dtype="<i2")
    (tmp_path / "x.nrrd").write_bytes(header + b"byte skip: 10\n\n" + bytes(10) + values.tobytes())
    volume = read_volume(tmp_path / "x.nrrd")
    assert volume.data.shape == (1, 4, 5, 6)
    save_volume(volume.data, volume, tmp_path / "y.nrrd", "input")
    assert np.array_equal(read_volume(tmp_path / "y.nrrd").data, volume.data)


def test_complex_kind_of_nrrd_refused(tmp_path):
    nrrd.write(str(tmp_path / "x.nrrd"), np.zeros((2, 9, 9), np.float32), {"kinds": ["complex", "domain", "domain"]})
    with pytest.raises(ValueError, match="complex voxels"):
        read_volume(tmp_path / "x.nrrd")


@pytest.mark.parametrize(("field", "message"), [("ElementToIntensityFunctionOffset = -1000", "slope or an offset")])
def test_metaimage_with_an_offset_refused(field, message, tmp_path):
    text = f"ObjectType = Image\nNDims = 2\nDimSize = 8 8\nElementType = MET_UCHAR\n{field}\nElementDataFile = LOCAL\n"
    (tmp_path / "x.mha").write_bytes(text.encode() + bytes(64))
    with pytest.raises(ValueError, match=message):
        read_volume(tmp_path / "x.mha")


def test_animated_png_refused(tmp_path):
    frames = [Image.fromarray(np.full((9, 9), k, np.uint8)) for k in range(3)]
    frames[0].save(tmp_path / "x.png", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match="got 3 frames"):
        read_volume(tmp_path / "x.png")


@pytest.mark.parametrize(
    "name",
    [
        "ct_3d/totalseg_aorta_ct_1p5mm_noisy.nii.gz",
        "clean_mri_3d/colin27_ch2_1mm.nii.gz",
        "gowt1/t01.tif",
        "cryoet/13pf_MT.tif",
        "dicom_ct_pancreas",
        "dicom_mr_t1",
    ],
)
def test_real_images_survive(name, real_data, tmp_path):
    volume = read_volume(real_data / name)
    out = default_target(real_data / name, tmp_path)
    save_volume(volume.data, volume, out, "input")
    again = read_volume(out)
    assert np.array_equal(again.data, volume.data)
    assert again.spacing == volume.spacing
    assert again.source.stored == volume.source.stored
    if volume.source.affine is not None:
        assert np.array_equal(again.source.affine, volume.source.affine)


def studies(folder: Path) -> Path:
    """A folder of MONAI Label's: two noisy images, copies of the first by two records, one that is none, labels."""
    info = {"a": {}, "b": {}, "better": {"n2v_source": "a", "n2v_model": "m"}, "a_denoised": {}, "c_denoised": {}}
    objects = {name: {"image": {"ext": ".npy", "info": one}, "labels": {}} for name, one in info.items()}
    for name in [*info, "labels/final/a", "labels/n2v_residual/a", "sub/d"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{name}.npy", np.random.default_rng(0).normal(100, 10, (20, 20)).astype(np.float32))
    (folder / "datastore_v2.json").write_text(json.dumps({"labels_dir": "labels", "objects": objects}))
    return folder


def test_find_images_passes_over_what_monai_label_made(tmp_path, caplog):
    caplog.set_level("INFO")
    top = tmp_path / "above"
    found = find_images(studies(top / "studies").parent)
    names = [str(Path(item["image"]).relative_to(top / "studies")) for item in found]
    assert names == ["a.npy", "b.npy", "c_denoised.npy", "sub/d.npy"], "without its source it is an image of its own"
    assert f"{top}: 2 denoised copies and 2 labels of MONAI Label are skipped." in caplog.messages
    for name in ("a", "b", "c_denoised", "sub/d"):
        (top / "studies" / f"{name}.npy").unlink()
    with pytest.raises(FileNotFoundError, match="got 2 denoised copies and 2 labels of MONAI Label alone below"):
        find_images(top)


@pytest.mark.parametrize("record", ["", "[]", '{"objects": 3}', '{"objects": {"a": null}}'])
def test_find_images_takes_a_folder_with_another_record_as_it_is(tmp_path, record):
    folder = studies(tmp_path)
    (folder / "datastore_v2.json").write_text(record)
    assert len(find_images(folder)) == 8


@pytest.mark.parametrize(
    ("pattern", "names"), [("a*", ["a.npy"]), (["b.npy", "sub/*"], ["b.npy", "sub/d.npy"]), (None, 4), ([], 4)]
)
def test_find_images_by_pattern(tmp_path, pattern, names):
    found = [str(Path(item["image"]).relative_to(tmp_path)) for item in find_images(studies(tmp_path), None, pattern)]
    assert (found if isinstance(names, list) else len(found)) == names
    with pytest.raises(FileNotFoundError, match=r"pattern must match an image below .*, got better\* x\*\. Check"):
        find_images(tmp_path, pattern=["better*", "x*"])


def test_find_images_recursive_sorted_hidden_left_out(tmp_path):
    for name in ("b.nii.gz", "sub/a.PNG", "sub/c.tif", "notes.txt", ".hidden/x.nii", "sub/._c.tif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert len(find_images(tmp_path, exclude=tmp_path / "sub")) == 1
    assert [item["image"] for item in find_images(tmp_path)] == [
        str(tmp_path / name) for name in ("b.nii.gz", "sub/a.PNG", "sub/c.tif")
    ]


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("", FileNotFoundError, "dataset_dir must be a folder with images"),
        ("missing", FileNotFoundError, "dataset_dir must be an existing folder"),
        ("file", NotADirectoryError, "dataset_dir must be a folder, got the file"),
        ("empty", FileNotFoundError, "got none below"),
    ],
)
def test_find_images_mistakes_named(tmp_path, name, error, message):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(error, match=message):
        find_images(str(tmp_path / name) if name else "")


@pytest.mark.parametrize("shape", [(9, 10), (9, 10, 8), (9, 10, 8, 3), (9, 1, 8)])
@pytest.mark.parametrize("kind", ["<c8", "<c16", ">c8"])
def test_complex_array_is_read_by_its_parts_and_written_complex(kind, shape, tmp_path):
    rng = np.random.default_rng(0)
    values = (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(kind)
    np.save(tmp_path / "x.npy", values)
    volume = read_volume(tmp_path / "x.npy")
    assert volume.data.shape == (2 * int(np.prod(shape[3:])), *(n for n in shape[:3] if n > 1))
    first = values[..., 0] if len(shape) == 4 else values
    np.testing.assert_allclose(volume.data[0].ravel() + 1j * volume.data[1].ravel(), first.ravel(), rtol=1e-6)
    assert "real and imaginary part" in volume.notes[0]
    for dtype, stored in (("float32", np.complex64), ("input", np.dtype(kind).newbyteorder("="))):
        save_volume(volume.data, volume, tmp_path / "y.npy", dtype)
        written = np.load(tmp_path / "y.npy")
        assert written.dtype == stored
        np.testing.assert_allclose(written, values, rtol=1e-6)
