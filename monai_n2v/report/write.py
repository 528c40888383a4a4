# SPDX-License-Identifier: Apache-2.0
"""The report of a run: a page to judge it by, a picture of before and after, and a record in JSON."""

import hashlib
import io
import json
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from monai_n2v import __version__
from monai_n2v.io.atomic import staged
from monai_n2v.io.nifti import NiftiSource
from monai_n2v.io.plain import to_plain
from monai_n2v.io.volume import Volume
from monai_n2v.metrics.residual import Quality, find_faults, measure
from monai_n2v.report.page import RESEARCH_ONLY, Shown, render_page
from monai_n2v.report.planes import Windows, before_after, choose_windows, cut_planes

# Of `Quality`, what the record holds under the same name.
_MEASURES = ("mean_noisy", "mean_denoised", "sigma_noisy", "sigma_denoised", "mean_removed", "std_removed")
_PACKAGES = ("monai", "torch", "pytorch-ignite", "numpy", "nibabel")


class ReportPaths(NamedTuple):
    """Where the parts of a report lie.

    Attributes:
        page: the HTML file, complete in itself.
        picture: before and after, PNG.
        record: of the run, JSON.
    """

    page: Path
    picture: Path
    record: Path


def report_paths(folder: Path, stem: str) -> ReportPaths:
    """Where `write_report` writes.

    Args:
        folder: of the report.
        stem: start of the file names.

    Returns:
        the three paths, whether they exist or not.
    """
    return ReportPaths(*(folder / f"{stem}_report.{suffix}" for suffix in ("html", "png", "json")))


def write_report(
    folder: Path,
    stem: str,
    volume: Volume,
    denoised: np.ndarray,
    record: Mapping[str, Any],
    *,
    expected: np.ndarray | None = None,
    quality: Quality | None = None,
    losses: Sequence[float] | None = None,
) -> ReportPaths:
    """Write ``<stem>_report.html``, ``.png`` and ``.json``.

    Planes are named and turned by the directions of the image's axes, where its source knows them. Otherwise the
    second axis shown runs upwards in NIfTI, downwards in other formats, as in TIFF and PNG.

    Args:
        folder: where; made if missing.
        stem: start of the file names.
        volume: the noisy image; its notes are shown as warnings, and the SHA-256 of its file is recorded.
        denoised: ``(n_volumes, *spatial)`` like ``volume.data``.
        record: what the caller knows of the run; measures, versions and use of memory are added. ``faults`` are those
            of the result, as `find_faults` returns them, where they are known.
        expected: ``(n_volumes, *spatial)``, the mean of the noisy values where it is another than the denoised image,
            as in magnitude images; what was removed is shown against it. Of complex voxels the magnitude is shown, and
            what was removed from the real part.
        quality: as `measure` returns it, where that has been done.
        losses: of the training, one per epoch.

    Returns:
        the paths of the three files.
    """
    shown = _shown(volume.source.is_complex, expected is not None)
    expected = denoised if expected is None else expected
    quality = quality or measure(volume.data, expected)
    directions = directions_of(volume.source.affine, volume.source.spatial_shape)
    upward = isinstance(volume.source, NiftiSource)
    noisy, result, mean = volume.data[0], denoised[0], expected[0]
    if volume.source.is_complex:
        # Lengths have no noise of zero mean: what was removed is that of the real part.
        removed, (noisy, result) = noisy - mean, (np.hypot(*parts[:2]) for parts in (volume.data, denoised))
        mean = noisy - removed
    planes = cut_planes(noisy, result, volume.spacing, directions, upward, mean)
    windows = choose_windows(planes, quality.std_removed)
    full = _complete(record, volume, quality, losses)
    full["mean_denoised"] = float(denoised.mean(dtype=np.float64))
    paths = report_paths(folder, stem)
    picture = io.BytesIO()
    before_after(planes, windows, _caption(windows, shown)).save(picture, format="PNG", optimize=True)
    page = render_page(stem, full, quality, planes, windows, shown)
    text = json.dumps(full, indent=4, allow_nan=False) + "\n"
    for target, content in zip(paths, (page.encode(), picture.getvalue(), text.encode())):
        with staged(target, volume.source.readers) as place:
            place.write_bytes(content)
    return paths


def directions_of(affine: np.ndarray | None, shape: Sequence[int]) -> tuple[str, ...]:
    """Anatomical directions of an image's axes, as `write_report` takes them.

    Args:
        affine: ``(4, 4)``, from voxel index to RAS, or None where nobody says where the image lies.
        shape: voxels along its three axes.

    Returns:
        for each axis of more than one voxel the letter to which it runs; empty where no orientation is known.
    """
    from nibabel.orientations import aff2axcodes

    if affine is None:
        return ()
    codes = [code for code, n in zip(aff2axcodes(affine), shape) if n > 1]
    return () if None in codes else tuple(codes)


def hash_source(source: Path) -> str:
    """SHA-256 of a file, or of the files of a folder one after the other, sorted by their path.

    Args:
        source: the file or folder.

    Returns:
        64 hexadecimal digits, those of ``sha256sum FILE`` or, for a flat folder, of ``cat FOLDER/* | sha256sum`` with
        ``LC_ALL=C``.
    """
    files = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while chunk := file.read(2**20):
                digest.update(chunk)
    return digest.hexdigest()


def _complete(
    record: Mapping[str, Any], volume: Volume, quality: Quality, losses: Sequence[float] | None
) -> dict[str, Any]:
    """The record with everything the report knows; numbers that do not exist are null."""
    full = {
        **record,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "input_sha256": hash_source(Path(volume.path)) if volume.path else None,
        "shape": volume.data.shape[1:],
        "n_volumes": len(volume.data) // (2 if volume.source.is_complex else 1),
        "spacing_mm": [round(float(side), 6) for side in volume.spacing],
        "normalization": record.get("normalization", {"mean": quality.mean_noisy, "std": quality.std_noisy}),
        **{name: getattr(quality, name) for name in _MEASURES},
        "autocorrelation_removed": quality.autocorrelation,
        "structure_at_edges": quality.edges,
        "losses": losses,
        "peak_memory_mb": _peak_memory(),
        "versions": {"monai-n2v": __version__, **{name: version(name) for name in _PACKAGES}},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "warnings": [*(record["faults"] if "faults" in record else find_faults(quality)), *volume.notes],
    }
    full.pop("faults", None)
    return to_plain(full)


def _peak_memory() -> dict[str, float]:
    """Largest memory this process held so far, in MB (10**6 bytes): on the host, and on a GPU where one was used."""
    peak = {}
    try:
        import resource
    except ImportError:  # Windows
        pass
    else:
        unit = 1 if sys.platform == "darwin" else 1024
        peak["host"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        peak["gpu"] = round(max(torch.cuda.max_memory_allocated(i) for i in range(torch.cuda.device_count())) / 1e6, 1)
    return peak


def _shown(is_complex: bool, has_bias: bool) -> Shown:
    removed = "noisy minus denoised" + (", of the real part" if is_complex else "")
    removed += ", before the bias was taken off" if has_bias else ""
    return Shown(removed, "Of complex voxels the length (magnitude) is shown." if is_complex else "")


def _caption(windows: Windows, shown: Shown) -> str:
    low, high = windows.image
    return (
        f"Noisy and denoised in one gray window, {low:.4g} to {high:.4g}. {shown.image}\n"
        f"Removed: {shown.removed}; {windows.removed[0]:.3g} to {windows.removed[1]:.3g}, three standard deviations.\n"
        "What was removed should look like noise, without anatomy.\n"
        f"{RESEARCH_ONLY}"
    )
