# SPDX-License-Identifier: Apache-2.0
"""How to train and how to predict: one object each, from the command line, Python and MONAI Label to the bundles."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from monai_n2v.noise.magnitude import check_magnitude
from monai_n2v.noise.noise_map import NoiseMap
from monai_n2v.transforms.components import check_volumes
from monai_n2v.transforms.wiener import check_weight

# Where network input and target come from; each but n2v is explained in its overlay in ``configs/``.
SCHEMES = ("auto", "n2v", "recorrupted", "renoised", "prior")
# Those that draw one noise for all that they train on.
_OF_ONE_NOISE = ("recorrupted", "renoised")


@dataclass(frozen=True)
class PredictionOptions:
    """How a trained network denoises; None stands for what its bundle's ``inference.json`` says.

    Attributes:
        device: as torch names it.
        tta: whether to average over flips and turns (see `SymmetricInferer`).
        keep_padding: whether constant padding stays exactly what it is (see `RestorePaddingd`).
        magnitude: whether the bias of magnitude images is taken off, ``"auto"``, ``"rician"`` or ``"off"`` (see
            `RemoveMagnitudeBiasd`).
        coils: how many coils a magnitude image was combined of; None for 1.
        dtype: of written files, ``"float32"`` or ``"input"`` (see `SaveDenoisedd`).
        noise_map: how the noise varies over the images (see `DivideByNoiseMapd`).
        wiener: weight of the Wiener filter in the result, from 0 to 1 (see `WienerFilterd`).
        volumes: whether those of a series are denoised ``"together"`` or ``"apart"``; ``"auto"`` where their noise is
            independent (see `PrincipalComponentsd`).
    """

    device: str = "cpu"
    tta: bool | None = None
    keep_padding: bool | None = None
    magnitude: str | None = None
    coils: float | None = None
    dtype: str | None = None
    noise_map: NoiseMap | None = None
    wiener: float | None = None
    volumes: str | None = None

    def __post_init__(self) -> None:
        """Refuse texts, of which "false" would count as true."""
        for name in ("tta", "keep_padding"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, bool):
                raise ValueError(f"{name} must be True or False, got {value!r}. Pass the boolean, not the text.")
        check_magnitude("auto" if self.magnitude is None else self.magnitude, self.coils)
        check_weight(0 if self.wiener is None else self.wiener)
        check_volumes("auto" if self.volumes is None else self.volumes)

    def keys(self) -> dict[str, Any]:
        """The keys of ``inference.json`` that these options set."""
        chosen = {name: value for name, value in vars(self).items() if name != "device" and value is not None}
        return {"device": f"$torch.device('{self.device}')", **chosen}


@dataclass(frozen=True)
class TrainingOptions:
    """How long and with what to train.

    Attributes:
        epochs: length of the training; the overlays' default where neither this nor ``max_time`` is given.
        max_time: length of the training in seconds instead, a limit; at least one step.
        scheme: ``"n2v"``, ``"recorrupted"``, ``"renoised"``, or ``"prior"`` for no training at all, which takes
            seconds; ``"auto"`` takes what suits the noise.
        volumes: whether those of a series are denoised ``"together"`` or ``"apart"``; ``"auto"`` where their noise is
            independent (see `PrincipalComponentsd`).
        prior: whether training starts from the bundle's prior; from random weights otherwise, as in the paper.
        spatial_dims: 2 to denoise volumes slice by slice, across their shortest axis; 3 for volumes; where it
            is None, what the image shows to be better.
        footprint: structN2V, a 0/1 array with one odd-sided axis per spatial axis of the images, or None; ``"auto"``
            for what `check_noise` suggests.
        seed: source of all randomness.
        device: as torch names it.
        progress: whether to show a bar on standard error.
        checkpoints: whether to save the state after every epoch, so that the training can be resumed.
        resume: whether to go on from the checkpoint in the folder.
        noise_map: how the noise varies over the images (see `DivideByNoiseMapd`).
        settings: further values by key of the bundle's ``train.json`` or ``inference.json``, such as ``{"lr": 0.001}``.
    """

    epochs: int | None = None
    max_time: float | None = None
    scheme: str = "auto"
    volumes: str = "auto"
    prior: bool = True
    spatial_dims: int | None = None
    seed: int = 0
    device: str = "cpu"
    progress: bool = False
    footprint: np.ndarray | str | None = None
    checkpoints: bool = False
    resume: bool = False
    noise_map: NoiseMap | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse values of another kind, and contradictions."""
        rules = {int: "a whole number", float: "a number", bool: "True or False"}
        for name, kind in {"epochs": int, "seed": int, "max_time": float, "prior": bool}.items():
            value, kinds = getattr(self, name), (int, float) if kind is float else kind
            if value is not None and (not isinstance(value, kinds) or isinstance(value, bool) != (kind is bool)):
                raise ValueError(f"{name} must be {rules[kind]}, got {value!r}. Pass it without quotes.")
        if self.epochs is not None and self.max_time is not None:
            raise ValueError(
                f"epochs must come without max_time, got max_time {self.max_time:g} too. Drop one of the two."
            )
        if self.epochs is not None and self.epochs < 1:
            raise ValueError(f"epochs must be at least 1, got {self.epochs}. Use for example 100.")
        if self.max_time is not None and not 0 < self.max_time < float("inf"):
            raise ValueError(f"max_time must be above 0 seconds, got {self.max_time:g}. Use for example 120.")
        if self.scheme not in SCHEMES:
            raise ValueError(f"scheme must be one of {', '.join(SCHEMES)}, got {self.scheme!r}. Leave it out for auto.")
        check_volumes(self.volumes)
        if self.volumes == "together" and self.scheme in _OF_ONE_NOISE:
            raise ValueError(
                f"scheme must be auto, n2v or prior with volumes together, got {self.scheme}. "
                "It draws one noise, and components of volumes differ in theirs: drop one of them."
            )
        length = next((name for name in ("epochs", "max_time") if getattr(self, name) is not None), None)
        if self.scheme == "prior" and length:
            raise ValueError(f"scheme prior must come without {length}: it does not train. Drop one of them.")
        if not self.prior and self.scheme in ("recorrupted", "renoised", "prior"):
            raise ValueError(
                f"scheme {self.scheme} must start from the prior, got a training from scratch. Drop one of them."
            )
        if self.spatial_dims not in (None, 2, 3):
            raise ValueError(f"spatial_dims must be 2 or 3, got {self.spatial_dims}. Use 3 for volumes.")
        if self.resume and self.max_time is not None:
            raise ValueError("resume must come with epochs, got max_time. A time says nothing about what is left.")

    def volumes_for(self, scheme: str) -> str:
        """How series are denoised after a training of a scheme: apart after one that draws one noise for all."""
        return "apart" if scheme in _OF_ONE_NOISE else self.volumes
