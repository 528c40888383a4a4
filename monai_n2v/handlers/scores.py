# SPDX-License-Identifier: Apache-2.0
"""Scoring a trained network in the bundles: every image against what there is, scores collected."""

import csv
import math
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.metrics import Cumulative
from monai.transforms import MapTransform
from monai.utils import string_list_all_gather

from monai_n2v.io.atomic import staged
from monai_n2v.metrics import reference
from monai_n2v.transforms.files import LoadNoisyd
from monai_n2v.transforms.intensity import RestoreIntensity
from monai_n2v.transforms.noise_map import MultiplyByNoiseMapd


class ScoreDenoisingd(MapTransform):
    """Score a denoised image, in the units of the noisy one, against every reference there is.

    References are read here, one at a time, and let go of. Memory, on the CPU: beside the noisy image and both
    predictions, the noisy image restored, and the blind prediction restored, or a reference and the mean of those
    before. Channels are scored one by one; the scores are their means.

    It takes the image as it was read (``noisy``), what `SeparateBlindd` leaves (``blind``), and ``clean`` and
    ``repeat_<k>`` as `find_scored_images` names them. It gives ``d["scores"]``, a dictionary of the numbers that
    `metrics.reference` describes; ``d["blind"]`` is taken out.

    Args:
        keys: denoised image ``(C, *spatial)``, restored.
        spatial_dims: axes of the network.
        data_range: that PSNR and SSIM refer to, in the units of the image; see `data_range_of` for None.
        sigma: standard deviation of the noise in the units of the image, where it is known; estimated for None.

    Raises:
        ValueError: for a ``data_range`` or ``sigma`` that is not above 0; on scoring, for a reference of another shape
            than its image or with NaN.
    """

    def __init__(
        self, keys: str = "pred", spatial_dims: int = 2, data_range: float | None = None, sigma: float | None = None
    ) -> None:
        super().__init__(keys)
        for name, value in (("data_range", data_range), ("sigma", sigma)):
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}. Leave it out to have it measured.")
        self.spatial_dims = spatial_dims
        self.data_range = data_range
        self.sigma = sigma
        self.load = LoadNoisyd("reference")
        self.multiply = MultiplyByNoiseMapd("blind")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Score ``data[key]``; returns a new dictionary."""
        d = dict(data)
        image, blind = d["image"], d.pop("blind")
        for key in self.key_iterator(d):
            denoised = d[key].cpu().numpy()
            noisy = d["noisy"].cpu().numpy()
            # One kind of reference after the other, so that few volumes are held at a time.
            found = self._score_clean(noisy, denoised, d.get("clean"))
            ranges = [scores["data_range"] for scores in found]
            d["blind"] = RestoreIntensity(keep_mean=False)(blind, image.meta)
            found += self._score_alone(noisy, denoised, self.multiply(d).pop("blind").cpu().numpy(), ranges)
            del d["blind"]
            found += self._score_repeats(noisy, denoised, [d[k] for k in d if str(k).startswith("repeat_")], ranges)
            names = dict.fromkeys(name for scores in found for name in scores)
            means = {name: float(np.mean([scores[name] for scores in found if name in scores])) for name in names}
            d["scores"] = {"val_loss": d["val_loss"], **means}
        return d

    def _score_clean(self, noisy: np.ndarray, denoised: np.ndarray, path: str | None) -> list[dict[str, float]]:
        """Range of every channel, with scores against a clean image where there is one."""
        if path is None:
            return [{"data_range": self.data_range or reference.data_range_of(before)} for before in noisy]
        found = []
        for before, after, clean in zip(noisy, denoised, self._read(path, noisy.shape)):
            data_range = self.data_range or reference.data_range_of(before, clean)
            scores = reference.score_clean(before, after, clean, data_range, self.spatial_dims)
            found.append({"data_range": data_range, **scores})
        return found

    def _score_alone(
        self, noisy: np.ndarray, denoised: np.ndarray, blind: np.ndarray, ranges: Sequence[float]
    ) -> list[dict[str, float]]:
        """Scores of every channel that need no reference."""
        found = []
        for before, after, predicted, data_range in zip(noisy, denoised, blind, ranges):
            scores, alive = reference.score_residual(before, after)
            if self.sigma is not None:
                scores["sigma"] = self.sigma
            # Constant padding holds no noise, and counts among the blind spots.
            variance = alive * scores["sigma"] ** 2
            found.append(scores | reference.score_blind(before, predicted, variance, data_range))
        return found

    def _score_repeats(
        self, noisy: np.ndarray, denoised: np.ndarray, paths: Sequence[str], ranges: Sequence[float]
    ) -> list[dict[str, float]]:
        """Scores of every channel against further exposures."""
        if not paths:
            return []
        mean, variances = reference.average_repeats(self._read(path, noisy.shape) for path in paths)
        return [
            reference.score_repeats(before, after, mean[c], variances[c] if variances else None, ranges[c])
            for c, (before, after) in enumerate(zip(noisy, denoised))
        ]

    def _read(self, path: str, shape: tuple[int, ...]) -> np.ndarray:
        values = np.asarray(self.load({"reference": path})["reference"])
        if values.shape != shape:
            raise ValueError(
                f"reference must have the shape of its image, {shape}, got {values.shape} for {path}. "
                "Resample it to the image."
            )
        if not np.isfinite(values).all():
            raise ValueError(f"reference must be finite, got NaN or infinite voxels for {path}. Replace them first.")
        return values


def image_loss(output: Sequence[Mapping[str, Any]]) -> float:
    """The validation loss of the one image of an evaluator's output, for the key metric."""
    return float(output[0]["val_loss"])


class ScoreTable:
    """Collect the scores of every image: a table, their means as metrics, and each as a metric detail.

    The table, ``scores.csv``, has a line per image and a column per score. The means, over the images that have a
    number, go to ``engine.state.metrics``, each image's to ``engine.state.metric_details``, where MONAI's
    ``MetricsSaver`` finds both. Attach it before that. Scores of all ranks are gathered.

    Args:
        save_dir: folder of the table; None to write none.
    """

    def __init__(self, save_dir: str | Path | None = None) -> None:
        self.save_dir = None if save_dir is None else Path(save_dir)
        self._names: list[str] = []
        self._scores = Cumulative()

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator."""
        engine.add_event_handler(Events.EPOCH_STARTED, self.reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.finish)

    def reset(self, engine: Engine) -> None:  # noqa: ARG002 - Ignite hands it over
        """Forget the images of an earlier run."""
        self._names = []
        self._scores.reset()

    def __call__(self, engine: Engine) -> None:
        """Take in the images of an iteration."""
        for item in engine.state.output:
            scores = item["scores"]
            self._names.append(str(item["image"].meta.get("filename_or_obj", len(self._names))))
            values = [scores.get(name, math.nan) for name in reference.SCORES]
            self._scores.append(
                torch.tensor(values, dtype=torch.float64), torch.tensor([name in scores for name in reference.SCORES])
            )

    def finish(self, engine: Engine) -> None:
        """Put means and details where MONAI looks for them, and write the table."""
        values, given = self._scores.get_buffer()
        names = string_list_all_gather(self._names)
        columns = {name: values[:, k].numpy() for k, name in enumerate(reference.SCORES) if given[:, k].any()}
        for name, column in columns.items():
            numbers = column[~np.isnan(column)]
            engine.state.metrics[name] = float(numbers.mean()) if numbers.size else math.nan
            # float32 numbers MetricsSaver writes with all their digits, of others four behind the point.
            engine.state.metric_details[name] = torch.from_numpy(column).float()[:, None]
        if self.save_dir is not None and engine.state.rank == 0:
            with staged(self.save_dir / "scores.csv") as place, place.open("w", newline="") as file:
                table = csv.writer(file)
                table.writerow(["filename", *columns])
                table.writerows([name, *(f"{v:.6g}" for v in row)] for name, row in zip(names, zip(*columns.values())))
