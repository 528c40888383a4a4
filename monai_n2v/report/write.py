# SPDX-License-Identifier: Apache-2.0
"""The report of a run: a page to judge it by, a picture of before and after, and a record in JSON."""

from __future__ import annotations

import hashlib
import io
import json
import math
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
from monai_n2v.metrics.residual import Quality, find_faults, measure
from monai_n2v.report.page import RESEARCH_ONLY, render_page
from monai_n2v.report.planes import Windows, before_after, choose_windows, cut_planes

__all__ = ["ReportPaths", "directions_of", "hash_source", "report_paths", "write_report"]

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
    noisy: np.ndarray,
    denoised: np.ndarray,
    spacing: Sequence[float],
    record: Mapping[str, Any],
    *,
    quality: Quality | None = None,
    source: Path | None = None,
    losses: Sequence[float] | None = None,
    notes: Sequence[str] = (),
    directions: Sequence[str] = (),
    upward: bool = True,
) -> ReportPaths:
    """Write ``<stem>_report.html``, ``.png`` and ``.json``.

    Args:
        folder: where; made if missing.
        stem: start of the file names.
        noisy: ``(n_volumes, *spatial)``, 2 or 3 spatial axes.
        denoised: of the same shape.
        spacing: voxel sides in mm, one per spatial axis.
        record: what the caller knows of the run; measures, versions and use of memory are added.
        quality: as `measure` returns it, where that has been done.
        source: the file that was denoised, or the folder of its DICOM files, to record its SHA-256.
        losses: of the training, one per epoch.
        notes: sentences on assumptions that do not hold for this image, shown as warnings.
        directions: for each spatial axis the letter to which it runs, as `nibabel.aff2axcodes` tells; without them
            planes are named by their axes.
        upward: whether the second axis shown runs upwards, as in NIfTI; downwards otherwise, as in TIFF and PNG.

    Returns:
        the paths of the three files.
    """
    quality = quality or measure(noisy, denoised)
    warnings = [*find_faults(quality), *notes]
    planes = cut_planes(noisy[0], denoised[0], spacing, directions, upward)
    windows = choose_windows(planes, quality.std_removed)
    full = _complete(record, quality, noisy, spacing, source, losses, warnings)
    paths = report_paths(folder, stem)
    picture = io.BytesIO()
    before_after(planes, windows, _caption(windows)).save(picture, format="PNG", optimize=True)
    page = render_page(stem, full, quality, planes, windows, losses)
    text = json.dumps(full, indent=4, allow_nan=False) + "\n"
    for path, content in zip(paths, (page.encode(), picture.getvalue(), text.encode())):
        with staged(path) as place:
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
    record: Mapping[str, Any],
    quality: Quality,
    noisy: np.ndarray,
    spacing: Sequence[float],
    source: Path | None,
    losses: Sequence[float] | None,
    warnings: Sequence[str],
) -> dict[str, Any]:
    """The record with everything the report knows; numbers that do not exist are null."""
    full = {
        **record,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "input_sha256": hash_source(source) if source is not None else None,
        "shape": list(noisy.shape[1:]),
        "n_volumes": len(noisy),
        "spacing_mm": [round(float(side), 6) for side in spacing],
        "normalization": record.get("normalization", {"mean": quality.mean_noisy, "std": quality.std_noisy}),
        "mean_noisy": quality.mean_noisy,
        "mean_denoised": quality.mean_denoised,
        "sigma_noisy": quality.sigma_noisy,
        "sigma_denoised": quality.sigma_denoised,
        "mean_removed": quality.mean_removed,
        "std_removed": quality.std_removed,
        "autocorrelation_removed": [list(row) for row in quality.autocorrelation],
        "structure_at_edges": quality.edges,
        "losses": None if losses is None else [float(loss) for loss in losses],
        "peak_memory_mb": _peak_memory(),
        "versions": {"monai-n2v": __version__, **{name: version(name) for name in _PACKAGES}},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "warnings": list(warnings),
    }
    plain: dict[str, Any] = _plain(full)
    return plain


def _plain(value: Any) -> Any:
    """The same as JSON has it: paths become text, numpy's numbers Python's, nan and infinity None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return _plain(value.tolist())
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


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


def _caption(windows: Windows) -> str:
    low, high = windows.image
    return (
        f"Noisy and denoised in one gray window, {low:.4g} to {high:.4g}. "
        f"Removed: {windows.removed[0]:.3g} to {windows.removed[1]:.3g}, three standard deviations.\n"
        "What was removed should look like noise, without anatomy.\n"
        f"{RESEARCH_ONLY}"
    )
