# SPDX-License-Identifier: Apache-2.0
"""What a command line asks for, checked before the work begins."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from monai_n2v.apps.bids import Derivative
    from monai_n2v.apps.paths import Job
    from monai_n2v.bundle.options import TrainingOptions
    from monai_n2v.io.volume import Volume
    from monai_n2v.noise.noise_map import NoiseMap

_OF_TRAINING = (
    "scheme",
    "from_scratch",
    "epochs",
    "max_time",
    "spatial_dims",
    "footprint",
    "per_image",
    "set",
)


class UsageError(Exception):
    """The command was asked wrongly."""


def plan_command_jobs(args: argparse.Namespace) -> tuple[list[Job], Derivative | None]:
    """Say what is wrong with ``denoise`` before anything heavy is loaded or computed.

    Args:
        args: of ``monai-n2v denoise``.

    Returns:
        what to read and write, and of a BIDS dataset the derivative.

    Raises:
        UsageError: where the command was asked wrongly.
    """
    from monai_n2v.apps.paths import is_tree, plan_jobs
    from monai_n2v.io.images import check_source
    from monai_n2v.noise.magnitude import check_magnitude

    if args.input.exists() and not is_tree(args.input):
        check_source(args.input)
    asked = {"report": args.report, "residual": args.save_residual, "noise_map": args.save_noise_map}
    asked |= {"force": args.force, "skip_existing": args.skip_existing}
    derivative = None
    try:
        if args.bids or args.participant_label or args.filter:
            derivative = _plan_bids(args, asked)
            jobs = derivative.jobs
        else:
            jobs = plan_jobs(args.input, args.output, patterns=args.pattern, **asked)
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error
    try:
        check_magnitude(args.magnitude or "auto", args.coils)
    except ValueError as error:
        raise UsageError(f"--{error}") from error
    if args.model is not None and not args.model.exists():
        raise UsageError(f"--model must be a trained bundle or its weights, got {args.model}. Check the path.")
    given = ", ".join(
        {"scheme": "--scheme or --fast"}.get(name, "--" + name.replace("_", "-"))
        for name in _OF_TRAINING
        if vars(args)[name] not in (None, False, [], "auto")
    )
    if args.model is not None and given:
        raise UsageError(f"--model must come without options of a training, got {given}. Drop one of the two.")
    return jobs, derivative


def _plan_bids(args: argparse.Namespace, asked: dict[str, Any]) -> Derivative:
    """Plan a BIDS dataset; ``asked`` is what is to be written, and over what."""
    if not args.bids:
        raise UsageError("--participant-label and --filter must come with --bids, got them alone. Add --bids.")
    given = [f"--{name}" for name in ("pattern", "series") if vars(args)[name]]
    if given:
        raise UsageError(f"--bids must come without {given[0]}: names in BIDS say more. Use --filter.")
    from monai_n2v.apps.bids import plan_derivative

    wanted: dict[str, list[str]] = {"sub": [label.removeprefix("sub-") for label in args.participant_label]}
    for key, values in args.filter:
        wanted.setdefault(key, []).extend(values)
    return plan_derivative(args.input, args.output, {key: values for key, values in wanted.items() if values}, **asked)


def read_noise_map(args: argparse.Namespace, paths: Sequence[Path]) -> NoiseMap | None:
    """Read the noise map, where one is named, and refuse one that is to be denoised or written over.

    Args:
        args: of ``monai-n2v denoise`` or ``train``.
        paths: of images and of what will be written.

    Raises:
        UsageError: for such a map, and where there is none.
        ValueError: for a file that is none.
    """
    if args.noise_map is None:
        return None
    if not args.noise_map.exists():
        raise UsageError(f"--noise-map must be an existing file, got {args.noise_map}. Check the path.")
    if any(path.exists() and path.samefile(args.noise_map) for path in paths):
        raise UsageError(
            f"--noise-map must be another file than IN's images and what is written, got {args.noise_map}. "
            "Keep it in another folder."
        )
    from monai_n2v.noise.noise_map import NoiseMap

    return NoiseMap.of(args.noise_map)


def check_noise_map(noise_map: NoiseMap | None, loaded: Mapping[str, Volume]) -> None:
    """Refuse a noise map of another grid, before anything heavy is loaded or computed.

    Args:
        noise_map: that is to serve the images.
        loaded: those that were read already, by path.

    Raises:
        ValueError: for a map of another grid.
    """
    if noise_map is None:
        return
    for volume in loaded.values():
        noise_map.check_grid(volume.data.shape[1:], volume.source.affine, volume.path)


def training_options(args: argparse.Namespace, noise_map: NoiseMap | None) -> TrainingOptions:
    """The options of a training; loads torch and MONAI.

    Args:
        args: of ``monai-n2v denoise`` or ``train``.
        noise_map: that they name.

    Raises:
        UsageError: for a contradiction, an unknown device or an unknown key.
    """
    import numpy as np

    from monai_n2v.apps.inspect import choose_device
    from monai_n2v.bundle.options import TrainingOptions
    from monai_n2v.bundle.settings import check_settings

    try:
        check_settings(dict(args.set), parts=True)
        return TrainingOptions(
            **{name: vars(args)[name] for name in ("epochs", "max_time", "scheme", "spatial_dims", "seed")},
            volumes=args.volumes or "auto",
            prior=not args.from_scratch,
            device=choose_device(args.device),
            progress=not args.quiet and sys.stderr.isatty(),
            footprint=np.ones(args.footprint, np.uint8) if isinstance(args.footprint, tuple) else args.footprint,
            checkpoints=args.command == "train",
            resume=getattr(args, "resume", False),
            noise_map=noise_map,
            settings=dict(args.set),
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
