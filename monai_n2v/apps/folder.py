# SPDX-License-Identifier: Apache-2.0
"""Denoising of files, one or many: read, train, denoise, write; a faulty file does not stop the others."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from monai_n2v.apps.denoise import check_stack, denoise_with
from monai_n2v.apps.paths import Job
from monai_n2v.apps.train import TrainingPlan, train_network
from monai_n2v.bundle.trained import TrainedNetwork, resolve_model
from monai_n2v.data.rolling_window import default_budget
from monai_n2v.io.images import check_geometry, read_volume, save_volume
from monai_n2v.io.volume import Volume
from monai_n2v.metrics.residual import find_faults, measure
from monai_n2v.noise.check import NoiseCheck, check_noise, suggest_footprint
from monai_n2v.transforms.axes import LazyStack, Stack

__all__ = ["Settings", "denoise_jobs", "read_stacks"]

logger = logging.getLogger(__name__)

_NOISE_WINDOW = 5


@dataclass(frozen=True)
class Settings:
    """How images are denoised.

    Attributes:
        plan: of the training, where there is no model.
        model: a trained bundle or its weights.
        per_image: whether every image gets a network of its own rather than all together one.
        dtype: of the results; see `save_volume`.
        keep_padding: see `denoise_with`.
        series: of a DICOM folder with several.
        auto_footprint: whether each network hides what `check_noise` suggests for its images.
        tta: see `denoise_with`.
        keep_detail: see `denoise_with`.
    """

    plan: TrainingPlan
    model: Path | None = None
    per_image: bool = False
    dtype: str = "float32"
    keep_padding: bool = True
    series: str | None = None
    auto_footprint: bool = False
    tta: bool = False
    keep_detail: bool = True


@dataclass(frozen=True)
class _Checked:
    """An image, or how to read it again, and what is known of its noise."""

    volume: Volume | None
    stack: Stack | LazyStack
    check: NoiseCheck
    warnings: list[str]
    notes: list[str]


def denoise_jobs(
    jobs: Sequence[Job], settings: Settings, loaded: Mapping[Job, Volume] | None = None
) -> Iterator[dict[str, Any]]:
    """Denoise images one after the other.

    Args:
        jobs: what to read and write.
        settings: how.
        loaded: images that have been read already.

    Yields:
        a record per image: ``input``, ``output``, ``status`` (``"done"`` or ``"failed"``), ``error`` of a failed one,
        and what is known of the run.

    Raises:
        ValueError: where no image is left to train on, or the model does not fit.
    """
    with contextlib.ExitStack() as work:
        shared: tuple[TrainedNetwork, dict[str, Any]] | None = None
        read: dict[Job, _Checked] = {}
        if settings.model is not None:
            shared = resolve_model(settings.model), {"model": str(settings.model)}
            shared[0].averages(settings.tta)  # refuses before any work
        elif not settings.per_image and len(jobs) > 1:
            room = default_budget(torch.device("cpu")) // 2  # training holds its own copy of what it holds
            for job in jobs:
                try:
                    read[job] = _read(job, settings, loaded or {})
                    room -= read[job].stack.volumes.nbytes
                    if room < 0:
                        read = {
                            one: replace(checked, volume=None, stack=_reread(checked.stack, settings.series))
                            for one, checked in read.items()
                        }
                except Exception as error:  # noqa: BLE001 - whatever a file may hold, the others are done
                    yield _failed(job, error)
            if not read:
                return
            logger.info("Training one network on %d images.", len(read))
            shared = _train(read, settings, _folder(work))
            jobs = list(read)
        for job in jobs:
            started = time.perf_counter()
            try:
                one = read.pop(job) if job in read else _read(job, settings, loaded or {})
                volume = one.volume or replace(read_volume(job.source, settings.series), notes=one.notes)
                network, trained = shared or _train({job: one}, settings, _folder(work))
                record = {"input": str(job.source), "output": str(job.target), "status": "done", **trained}
                record |= {"device": settings.plan.device, "spatial_dims": network.spatial_dims}
                record["tta"] = network.averages(settings.tta)
                record["keep_detail"] = settings.keep_detail and network.keep_detail
                _finish(job, volume, network, settings, record, started)
                record["warnings"] = [*one.warnings, *record["warnings"]]
            except Exception as error:  # noqa: BLE001 - the other images are done
                record = _failed(job, error)
            yield record


def read_stacks(sources: Sequence[Path], series: str | None = None) -> tuple[list[Stack | LazyStack], list[str]]:
    """Read images to train on.

    Args:
        sources: files, and folders of DICOM series.
        series: of folders with several series.

    Returns:
        the volumes, read again when needed where all together exceed memory, and what is wrong with images that are
        none.

    Raises:
        ValueError: where no image is left.
    """
    stacks: list[Stack | LazyStack] = []
    faults: list[str] = []
    room = default_budget(torch.device("cpu")) // 2  # training holds its own copy of what it holds
    for source in sources:
        try:
            volume = read_volume(source, series)
            check_stack(volume.data, str(source))
        except Exception as error:
            if len(sources) == 1:
                raise
            faults.append(_sentence(error, source))
        else:
            stack = Stack(volume.data, volume.spacing, str(source))
            room -= volume.data.nbytes
            if room < 0 and len(sources) > 1:
                stacks = [_reread(one, series) for one in [*stacks, stack]]
            else:
                stacks.append(stack)
    if not stacks:
        raise ValueError(f"IN must hold an image to train on, got {len(faults)} faulty ones. The first: {faults[0]}")
    return stacks, faults


def _reread(stack: Stack | LazyStack, series: str | None) -> LazyStack:
    """Keep of an image only how to read it again."""
    if isinstance(stack, LazyStack):
        return stack
    return stack.let_go(lambda: read_volume(stack.name, series).data)


def _train(read: Mapping[Job, _Checked], settings: Settings, folder: Path) -> tuple[TrainedNetwork, dict[str, Any]]:
    plan = settings.plan
    if settings.auto_footprint:
        suggested = [one.check.footprint for one in read.values()]
        if len({str(footprint) for footprint in suggested}) == 1:
            plan = replace(plan, footprint=suggested[0])
        else:
            logger.warning("The images ask for different footprints: none is used. Use --per-image.")
        if plan.footprint is not None:
            logger.info("Hiding footprints of %s voxels.", " x ".join(map(str, plan.footprint.shape)))
    return train_network([one.stack for one in read.values()], folder, plan)


def _folder(work: contextlib.ExitStack) -> Path:
    return Path(work.enter_context(tempfile.TemporaryDirectory(prefix="monai_n2v_")))


def _failed(job: Job, error: Exception) -> dict[str, Any]:
    logger.log(logging.DEBUG // 2, "%s failed.", job.source, exc_info=error)
    error_text = _sentence(error, job.source)
    return {"input": str(job.source), "output": str(job.target), "status": "failed", "error": error_text}


def _sentence(error: Exception, source: Path) -> str:
    """What is wrong, in one line that names the file."""
    known = isinstance(error, (ValueError, OSError, FloatingPointError))
    while not known and isinstance(error.__cause__, Exception):  # MONAI wraps what goes wrong in a config
        error = error.__cause__
        known = isinstance(error, (ValueError, TypeError, OSError, FloatingPointError))
    text = " ".join(str(error).split()) if known else f"{type(error).__name__}: {error} Use -vv to see where."
    return text if str(source) in text else f"{text} ({source})"


def _read(job: Job, settings: Settings, loaded: Mapping[Job, Volume]) -> _Checked:
    volume = loaded[job] if job in loaded else read_volume(job.source, settings.series)
    check_stack(volume.data, str(job.source))
    for output in (job.target, job.residual, job.noise_map):
        if output is not None:
            check_geometry(volume, output)
    n_volumes, *shape = volume.data.shape
    logger.info(
        "%s: %d volume(s) of %s voxels, on %s.",
        job.source, n_volumes, " x ".join(str(n) for n in shape), settings.plan.device,
    )  # fmt: skip
    for note in volume.notes:
        logger.info("%s", note)
    check = check_noise(volume.data, volume.spacing)
    warnings: list[str] = []
    if check.verdict == "WARN" or not check.noisy:
        text = check.sentences[0].partition(": ")[2]  # without the verdict
        warnings.append(f"{text[:1].upper()}{text[1:]} Ask monai-n2v check for more.")
        logger.warning("%s", warnings[0])
    doubts = [axis.sentence for axis in check.axes if axis.verdict != "PASS"]
    if doubts or not check.noisy:
        doubts = [check.sentences[0], *doubts, *suggest_footprint(check.axes)[1]]
    notes = [*volume.notes, *doubts]
    return _Checked(replace(volume, notes=notes), _stack(job, volume), check, warnings, notes)


def _stack(job: Job, volume: Volume) -> Stack:
    return Stack(volume.data, volume.spacing, str(job.source))


def _finish(
    job: Job, volume: Volume, network: TrainedNetwork, settings: Settings, record: dict[str, Any], started: float
) -> None:
    """Denoise one image and write everything that was asked for; the record is completed on the way."""
    predicting = time.perf_counter()
    output = denoise_with(
        network,
        _stack(job, volume),
        settings.plan.device,
        settings.keep_padding,
        settings.tta,
        settings.keep_detail,
    )
    record["prediction_seconds"] = round(time.perf_counter() - predicting, 1)
    save_volume(output, volume, job.target, settings.dtype)
    quality = measure(volume.data, output)
    record["faults"] = record["warnings"] = find_faults(quality)
    if job.residual is not None:
        save_volume(volume.data - output, volume, job.residual)
        record["residual"] = str(job.residual)
    if job.noise_map is not None:
        save_volume(_local_std(volume.data - output), volume, job.noise_map)
        record["noise_map"] = str(job.noise_map)
    record["total_seconds"] = round(time.perf_counter() - started, 1)
    if job.report is not None:
        from monai_n2v.report.write import write_report

        shown = {key: value for key, value in record.items() if key not in ("status", "losses", "warnings", "faults")}
        losses = record.get("losses")
        paths = write_report(
            job.report, job.stem, volume, output, shown, path=job.source, quality=quality, losses=losses
        )
        record["report"] = {name: str(path) for name, path in paths._asdict().items()}


def _local_std(residual: np.ndarray) -> np.ndarray:
    """Standard deviation of what was removed, in a window of 5 voxels around each voxel."""
    window = (1, *(_NOISE_WINDOW,) * (residual.ndim - 1))
    mean = ndimage.uniform_filter(residual, window, mode="reflect")
    square = ndimage.uniform_filter(residual * residual, window, mode="reflect")
    spread: np.ndarray = np.sqrt(np.maximum(square - mean * mean, 0))
    return spread
