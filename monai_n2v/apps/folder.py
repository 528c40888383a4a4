# SPDX-License-Identifier: Apache-2.0
"""Denoising of files, one or many: look at them, train, denoise, write; a file that fails does not stop the others."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from monai_n2v.apps.choose import assumes_white_noise
from monai_n2v.apps.denoise import check_axes, say_slice_axis
from monai_n2v.apps.inspect import NoisyImage, sentence_of
from monai_n2v.apps.paths import Job
from monai_n2v.apps.train import train_network
from monai_n2v.bundle.options import PredictionOptions, TrainingOptions
from monai_n2v.bundle.resources import PRIOR
from monai_n2v.bundle.run import Denoiser
from monai_n2v.bundle.trained import TrainedNetwork, resolve_model
from monai_n2v.io.atomic import scratch
from monai_n2v.io.images import check_geometry, read_volume, save_volume
from monai_n2v.io.volume import Volume
from monai_n2v.metrics.residual import find_faults, measure
from monai_n2v.noise.check import NoiseCheck, check_noise, suggest_footprint
from monai_n2v.noise.magnitude import check_not_negative, tell_noise
from monai_n2v.transforms.components import are_components
from monai_n2v.transforms.noise_map import noise_gain

logger = logging.getLogger(__name__)

# Of a record: what the report shows elsewhere.
_NOT_SHOWN = ("status", "losses", "warnings")
_PRIOR_ALONE = "the prior alone, nothing was trained on this image"
_PRIOR_KEPT = "the prior alone, by the image itself better than what was trained"


@dataclass(frozen=True)
class Settings:
    """How images are denoised.

    Attributes:
        training: of the network, where there is no model.
        prediction: by the network.
        model: a trained bundle or its weights.
        per_image: whether every image gets a network of its own rather than all together one.
        series: of a DICOM folder with several.
    """

    training: TrainingOptions
    prediction: PredictionOptions
    model: Path | None = None
    per_image: bool = False
    series: str | None = None


@dataclass
class _Known:
    """What is known of an image before it is denoised; the clock runs while it is."""

    noisy: NoisyImage
    check: NoiseCheck
    warnings: list[str]
    notes: list[str]
    started: float = 0.0


class _Work:
    """The images of one call, and what is known of each.

    Args:
        jobs: what to read and write.
        settings: how.
        tell: called with a record per image.
    """

    def __init__(self, jobs: Sequence[Job], settings: Settings, tell: Callable[[dict[str, Any]], None]) -> None:
        self.jobs = {str(job.source): job for job in jobs}
        self.settings, self.tell = settings, tell
        self.known: dict[str, _Known] = {}
        self.network: TrainedNetwork | None = None
        self._volume: Volume | None = None

    def look_at(self, volume: Volume) -> None:
        """Look at an image that was read; refuse what cannot be denoised or written.

        Raises:
            ValueError: for such an image.
        """
        self._volume = volume
        if volume.path not in self.known:
            self._meet(volume)
        known = self.known[volume.path]
        known.started = time.perf_counter()
        if volume.data.shape != known.noisy.shape:  # another program has written the file anew
            raise ValueError(f"image must stay as it was, got another shape for {volume.path}. Denoise it once more.")
        if self.network is not None:
            check_axes(self.network, known.noisy)

    def _meet(self, volume: Volume) -> None:
        job = self.jobs[volume.path]
        noise_map = self.settings.prediction.noise_map
        noisy = NoisyImage.of(volume, noise_map)
        for output in (job.target, job.residual, job.noise_map):
            if output is not None:
                check_geometry(volume, output)
        logger.info(
            "%s: %d volume(s) of %s voxels, on %s.",
            job.source, noisy.shape[0], " x ".join(map(str, noisy.shape[1:])), self.settings.prediction.device,
        )  # fmt: skip
        for note in volume.notes:
            logger.info("%s", note)
        check_not_negative(volume.data, self.settings.prediction.magnitude, job.source)
        gain = 1 if noise_map is None else noise_gain(volume.data, noise_map)
        check = check_noise(volume.data / gain, volume.spacing)
        warnings: list[str] = []
        # The prior has seen noise that neighbors share; Noise2Void has not.
        is_blind = self.settings.model is None and assumes_white_noise(self.settings.training)
        in_doubt = is_blind or not check.noisy
        if in_doubt and (check.verdict == "WARN" or not check.noisy):
            text = check.sentences[0].partition(": ")[2]  # without the verdict
            warnings.append(f"{text[:1].upper()}{text[1:]} Ask monai-n2v check for more.")
            logger.warning("%s", warnings[0])
        doubts = [axis.sentence for axis in check.axes if in_doubt and axis.verdict != "PASS"]
        if doubts or not check.noisy:
            doubts = [check.sentences[0], *doubts, *suggest_footprint(check.axes)[1]]
        noisy = replace(noisy, image=volume.path, series=self.settings.series)
        self.known[volume.path] = _Known(noisy, check, warnings, [*volume.notes, *doubts])

    def read(self, loaded: Mapping[str, Volume]) -> list[str]:
        """Look at all images before a training.

        Args:
            loaded: images that have been read already, by path.

        Returns:
            the paths of those that can be denoised; the others are told of.
        """
        found: list[str] = []
        for path, job in self.jobs.items():
            try:
                volume = loaded[path] if path in loaded else read_volume(job.source, self.settings.series)
                self.look_at(volume)
            except Exception as error:  # noqa: BLE001 - whatever a file may hold, the others are done
                self.fail(path, error)
                continue
            found.append(path)
            # Of several images the files are handed on: who needs one reads it then, and memory is no question.
            if len(self.jobs) == 1:
                self.known[path].noisy = replace(self.known[path].noisy, image=volume)
        return found

    def train_and_predict(self, paths: Sequence[str]) -> None:
        """Train one network on images that were looked at, and denoise them by it."""
        if paths:
            with scratch() as folder:
                self.predict(paths, *self._train(paths, folder))

    def _train(self, paths: Sequence[str], folder: Path) -> tuple[TrainedNetwork, dict[str, Any]]:
        options, images = self.settings.training, [self.known[path] for path in paths]
        if isinstance(options.footprint, str):
            suggested = [image.check.footprint for image in images]
            alike = len({str(footprint) for footprint in suggested}) == 1
            options = replace(options, footprint=suggested[0] if alike else None)
            if not alike:
                logger.warning("The images ask for different footprints: none is used. Use --per-image.")
            if isinstance(options.footprint, np.ndarray):
                logger.info("Hiding footprints of %s voxels.", " x ".join(map(str, options.footprint.shape)))
        return train_network([image.noisy for image in images], folder, options)

    def predict(self, paths: Sequence[str], network: TrainedNetwork, trained: Mapping[str, Any]) -> None:
        """Denoise images by one network and write all that was asked for."""

        def tell(item: Mapping[str, Any], outcome: Mapping[str, Any] | Exception) -> None:
            path, volume, self._volume = str(item["path"]), self._volume, None
            if isinstance(outcome, Exception):
                self.fail(path, outcome)
                return
            assert volume is not None
            record = {"input": path, "output": item["target"], "status": "done", **trained}
            record |= {"device": self.settings.prediction.device, "spatial_dims": network.spatial_dims}
            self._finish(self.jobs[path], volume, outcome, record | denoiser.options)

        def check(volume: Volume) -> None:
            self.look_at(volume)
            say_slice_axis(network, self.known[volume.path].noisy)

        def item(path: str) -> dict[str, Any]:
            image, target = known[path].noisy.image if path in known else path, str(self.jobs[path].target)
            return {"image": image, "series": self.settings.series, "target": target, "path": path}

        self.network, known = network, self.known
        if trained.get("scheme") == "prior" or network.weights.name == Path(PRIOR).name:
            trained = {**trained, "network": _PRIOR_KEPT if trained.get("steps") else _PRIOR_ALONE}
        denoiser = Denoiser(network, self.settings.prediction, check)
        denoiser.run([item(path) for path in paths if not self.jobs[path].done], tell)

    def _finish(self, job: Job, volume: Volume, outcome: Mapping[str, Any], record: dict[str, Any]) -> None:
        """Write what was asked for beside the denoised image; the record is completed on the way."""
        known, output, noises = self.known[str(job.source)], outcome["pred"].numpy(), outcome.get("magnitude_noise")
        record["magnitude"] = f"the bias of {tell_noise(noises)} was taken off" if noises else "no bias was taken off"
        if len(output) > 1:
            record["volumes"] = "together" if are_components(outcome["image"]) else "apart"
        if self.settings.prediction.noise_map is not None:
            record["given_noise_map"] = self.settings.prediction.noise_map.path
        record["prediction_seconds"] = round(time.perf_counter() - known.started, 1)
        # The network is judged by what it made of the noise, not by the bias that was taken off after it.
        expected = outcome["noisy_mean"].numpy() if noises else None
        quality = measure(volume.data, output if expected is None else expected, known.check.autocorrelation)
        record["faults"] = record["warnings"] = find_faults(quality, record.get("network") != _PRIOR_ALONE)
        if job.residual is not None:
            save_volume(volume.data - output, volume, job.residual)
            record["residual"] = str(job.residual)
        if job.noise_map is not None:
            save_volume(_local_std(volume.data - output), volume, job.noise_map)
            record["noise_map"] = str(job.noise_map)
        record["total_seconds"] = round(time.perf_counter() - known.started, 1)
        if job.report is not None:
            from monai_n2v.report.write import write_report

            shown = {key: value for key, value in record.items() if key not in _NOT_SHOWN}
            paths = write_report(
                job.report, job.stem, replace(volume, notes=known.notes), output, shown,
                expected=expected, quality=quality, losses=record.get("losses"),
            )  # fmt: skip
            record["report"] = {name: str(path) for name, path in paths._asdict().items()}
        record["warnings"] = [*known.warnings, *record["warnings"]]
        self.tell(record)

    def fail(self, path: str, error: Exception) -> None:
        """Tell of an image that cannot be denoised."""
        logger.log(logging.DEBUG // 2, "%s failed.", path, exc_info=error)
        job = self.jobs[path]
        text = sentence_of(error, job.source)
        self.tell({"input": path, "output": str(job.target), "status": "failed", "error": text})


def denoise_jobs(
    jobs: Sequence[Job],
    settings: Settings,
    tell: Callable[[dict[str, Any]], None],
    loaded: Mapping[str, Volume] | None = None,
) -> None:
    """Denoise images one after the other.

    Args:
        jobs: what to read and write.
        settings: how.
        tell: called with a record per image: ``input``, ``output``, ``status`` (``"done"`` or ``"failed"``), ``error``
            of a failed one, and what is known of the run.
        loaded: images that have been read already, by path.

    Raises:
        ValueError: where no image is left to train on, or the model does not fit.
    """
    work, loaded = _Work(jobs, settings, tell), loaded or {}
    if settings.model is not None:
        work.network = resolve_model(settings.model)
        paths = work.read(loaded) if loaded else [path for path, job in work.jobs.items() if not job.done]
        if paths:
            work.predict(paths, work.network, {"model": str(settings.model)})
    elif settings.per_image or len(jobs) == 1:
        for job in (job for job in jobs if not job.done):
            alone = _Work([job], settings, tell)
            try:
                alone.train_and_predict(alone.read(loaded))
            except Exception as error:  # noqa: BLE001 - the other images are done
                alone.fail(str(job.source), error)
    else:
        kinds = {job.kind: [one for one in jobs if one.kind == job.kind] for job in jobs}
        for kind, alike in kinds.items():
            if not all(job.done for job in alike):
                _train_together(_Work(alike, settings, tell), loaded, kind, alone=len(kinds) == 1)


def _train_together(work: _Work, loaded: Mapping[str, Volume], kind: str, alone: bool) -> None:
    """Train one network on all images of a kind, and denoise them; where it fails, other kinds are done anyhow."""
    paths = work.read(loaded)
    if paths and work.settings.training.scheme != "prior":
        what = f"{kind} image" if kind else "image"
        logger.info("Training one network on %d %s%s.", len(paths), what, "s" if len(paths) > 1 else "")
    try:
        work.train_and_predict(paths)
    except Exception as error:
        if alone:
            raise
        for path in paths:
            if not work.jobs[path].done:
                work.fail(path, error)


def _local_std(residual: np.ndarray) -> np.ndarray:
    """Standard deviation of what was removed, in a window of 5 voxels around each voxel."""
    window = (1, *(5,) * (residual.ndim - 1))
    mean = ndimage.uniform_filter(residual, window, mode="reflect")
    square = ndimage.uniform_filter(residual * residual, window, mode="reflect")
    return np.sqrt(np.maximum(square - mean * mean, 0))
