# SPDX-License-Identifier: Apache-2.0
"""Scoring a trained network in the bundles: images denoised plainly and through blind spots, scores collected."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.metrics import Cumulative
from monai.transforms import MapTransform
from monai.utils import string_list_all_gather

from monai_n2v.files import LoadNoisyd
from monai_n2v.intensity import RestoreIntensity
from monai_n2v.scores import (
    SCORES,
    average_repeats,
    data_range_of,
    score_blind,
    score_clean,
    score_repeats,
    score_residual,
)
from monai_n2v.staging import staged
from monai_n2v.transforms import RandN2VMask

__all__ = ["BlindSpotInferer", "ScoreDenoisingd", "ScoreTable", "SeparateBlindd", "image_loss"]


class BlindSpotInferer(Inferer):
    """Predict images plainly, and once more at blind spots, whose own values the network does not see.

    The blind spots are the same for images of one shape, whenever and in whatever order they come. Memory: beside the
    result, a masked copy of the images, the mask and one prediction.

    Args:
        inferer: what predicts images of any size.
        spatial_dims: axes of the network; a volume for a 2D network is masked slice by slice, along its last axis.
        mask_fraction: fraction of the voxels hidden at a time, see `RandN2VMask`.
        radius: see `RandN2VMask`.
        fill: see `RandN2VMask`.
        footprint: see `RandN2VMask`.
        n_masks: how often voxels are hidden, each time others; more tell the error more exactly.
        seed: of the blind spots.
    """

    def __init__(
        self,
        inferer: Inferer,
        spatial_dims: int,
        mask_fraction: float = 64 / 4096,
        radius: int = 5,
        fill: str = "uniform",
        footprint: Any = None,
        n_masks: int = 4,
        seed: int = 0,
    ) -> None:
        if n_masks < 1:
            raise ValueError(f"n_masks must be at least 1, got {n_masks}. Use for example 4.")
        self.inferer = inferer
        self.spatial_dims = spatial_dims
        self.masker = RandN2VMask(mask_fraction, radius, fill, footprint, batched=True)
        self.n_masks = n_masks
        self.seed = seed

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Predict.

        Args:
            inputs: ``(B, C, *spatial)``.
            network: as the inferer takes it, with as many channels out as in.
            args: further arguments of the network.
            kwargs: further keyword arguments of the network.

        Returns:
            ``(B, 2 * C, *spatial)``: plain predictions, then those at blind spots, nan elsewhere. See `SeparateBlindd`.
        """
        images: torch.Tensor = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        plain: torch.Tensor = self.inferer(images, network, *args, **kwargs)
        n_channels = plain.shape[1]
        output: torch.Tensor = plain.new_full((len(plain), 2 * n_channels, *plain.shape[2:]), torch.nan)
        output[:, :n_channels] = plain
        del plain
        self.masker.set_random_state(self.seed)
        for _ in range(self.n_masks):
            masked, spots = self._hide(images)
            predicted = self.inferer(masked, network, *args, **kwargs)
            output[:, n_channels:][spots] = predicted[spots]
        return output

    def _hide(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if images.ndim - 2 == self.spatial_dims:
            masked, mask = map(torch.as_tensor, self.masker(images))
        else:
            slices = images.movedim(-1, 1)
            hidden = map(torch.as_tensor, self.masker(slices.flatten(0, 1)))
            masked, mask = (x.unflatten(0, slices.shape[:2]).movedim(1, -1) for x in hidden)
        return masked, mask.bool()


class SeparateBlindd(MapTransform):
    """Separate the plain prediction from that at blind spots, as `BlindSpotInferer` returns them.

    Also gives ``val_loss``, the validation loss of the training: mean squared error at blind spots in standardized
    units, noise included. The blind prediction is moved by the mean of the plain one, as `RestoreIntensity` will move
    that.

    Args:
        keys: prediction ``(2 * C, *spatial)``, standardized.
        image_key: the standardized noisy image.
        blind_key: where the blind prediction goes.
    """

    def __init__(self, keys: str = "pred", image_key: str = "image", blind_key: str = "blind") -> None:
        super().__init__(keys)
        self.image_key = image_key
        self.blind_key = blind_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Separate ``data[key]``; returns a new dictionary."""
        d = dict(data)
        for key in self.key_iterator(d):
            plain, blind = d[key].chunk(2)
            spots = torch.isfinite(blind)
            error = (blind[spots] - torch.as_tensor(d[self.image_key])[spots]).double()
            d["val_loss"] = error.square().mean().item()
            d[self.blind_key] = blind - plain.flatten(1).mean(dim=1, dtype=torch.float64).to(blind).view(
                -1, *[1] * (blind.ndim - 1)
            )
            d[key] = plain
        return d


class ScoreDenoisingd(MapTransform):
    """Score a denoised image, in the units of the noisy one, against every reference there is.

    References are read here, one at a time, and let go of. Memory: beside the noisy image and both predictions, on the
    CPU, the noisy image restored, a reference, and the mean of the repeats. Channels are scored one by one; the scores
    are their means.

    Args:
        keys: denoised image ``(C, *spatial)``, restored.
        spatial_dims: axes of the network.
        data_range: that PSNR and SSIM refer to, in the units of the image; see `data_range_of` for None.
        sigma: standard deviation of the noise in the units of the image, where it is known; estimated for None.
        image_key: the standardized noisy image.
        blind_key: prediction at blind spots, standardized; taken out of the dictionary.
        score_key: where the scores go, a dictionary of numbers; `monai_n2v.scores` tells what they are.

    Raises:
        ValueError: for a ``data_range`` or ``sigma`` that is not above 0; on scoring, for a reference of another shape
            than its image or with NaN.
    """

    def __init__(
        self,
        keys: str = "pred",
        spatial_dims: int = 2,
        data_range: float | None = None,
        sigma: float | None = None,
        image_key: str = "image",
        blind_key: str = "blind",
        score_key: str = "scores",
    ) -> None:
        super().__init__(keys)
        for name, value in (("data_range", data_range), ("sigma", sigma)):
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}. Leave it out to have it measured.")
        self.spatial_dims = spatial_dims
        self.data_range = data_range
        self.sigma = sigma
        self.image_key = image_key
        self.blind_key = blind_key
        self.score_key = score_key
        self.load = LoadNoisyd("reference")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Score ``data[key]``; returns a new dictionary."""
        d = dict(data)
        restore, image, blind = RestoreIntensity(keep_mean=False), d[self.image_key], d.pop(self.blind_key)
        noisy, blind = (restore(x, image.meta).cpu().numpy() for x in (image, blind))
        for key in self.key_iterator(d):
            denoised = d[key].cpu().numpy()
            clean = self._read(d["clean"], denoised.shape) if "clean" in d else None
            paths = [d[name] for name in d if str(name).startswith("repeat_")]
            mean, variances = average_repeats(self._read(path, denoised.shape) for path in paths)
            channels = []
            for c, channel in enumerate(zip(noisy, denoised, blind)):
                repeats = (mean[c], variances[c] if variances else None) if paths else None
                channels.append(self._score(*channel, None if clean is None else clean[c], repeats))
            means = {name: float(np.mean([scores[name] for scores in channels])) for name in channels[0]}
            d[self.score_key] = {"val_loss": d["val_loss"], **means}
        return d

    def _score(
        self,
        noisy: np.ndarray,
        denoised: np.ndarray,
        blind: np.ndarray,
        clean: np.ndarray | None,
        repeats: tuple[np.ndarray, float | None] | None,
    ) -> dict[str, float]:
        """Score one channel."""
        data_range = self.data_range or data_range_of(noisy, clean)
        scores = {"data_range": data_range}
        if clean is not None:
            scores |= score_clean(noisy, denoised, clean, data_range, self.spatial_dims)
        if repeats is not None:
            scores |= score_repeats(noisy, denoised, *repeats, data_range)
        residual, alive = score_residual(noisy, denoised)
        scores |= residual
        if self.sigma is not None:
            scores["sigma"] = self.sigma
        # Constant padding holds no noise, and counts among the blind spots.
        return scores | score_blind(noisy, blind, alive * scores["sigma"] ** 2, data_range)

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
        score_key: where an item of the engine's output holds its scores.
    """

    def __init__(self, save_dir: str | Path | None = None, score_key: str = "scores") -> None:
        self.save_dir = None if save_dir is None else Path(save_dir)
        self.score_key = score_key
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
            scores = item[self.score_key]
            self._names.append(str(item["image"].meta.get("filename_or_obj", len(self._names))))
            values = [scores.get(name, math.nan) for name in SCORES]
            self._scores.append(
                torch.tensor(values, dtype=torch.float64), torch.tensor([name in scores for name in SCORES])
            )

    def finish(self, engine: Engine) -> None:
        """Put means and details where MONAI looks for them, and write the table."""
        values, given = self._scores.get_buffer()
        names = string_list_all_gather(self._names)
        columns = {name: values[:, k].numpy() for k, name in enumerate(SCORES) if given[:, k].any()}
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
