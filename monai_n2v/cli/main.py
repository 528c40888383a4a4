# SPDX-License-Identifier: Apache-2.0
"""The command ``monai-n2v``: the only place that prints or exits."""

import argparse
import json
import logging
import shlex
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai_n2v.bundle.settings import format_setting
from monai_n2v.cli.lean import load_lean_monai
from monai_n2v.cli.options import make_parser
from monai_n2v.cli.signals import ended_by_signals
from monai_n2v.cli.threads import considerate_threads
from monai_n2v.cli.validate import UsageError, check_noise_map, plan_command_jobs, read_noise_map, training_options

logger = logging.getLogger("monai_n2v")

TRACEBACKS = 5  # below DEBUG: what -vv shows
EXIT_FILE_FAILED, EXIT_USAGE = 1, 2
# What a record names that was written, in the order it is told.
_WRITTEN = {"output": "Denoised image", "residual": "What was removed", "noise_map": "Noise level"}
_WRITTEN |= {"page": "Report", "picture": "Before/after picture", "record": "Record of the run"}


class _Format(logging.Formatter):
    """Says of a warning that it is one."""

    def format(self, record: logging.LogRecord) -> str:
        text = _printable(super().format(record))
        return f"warning: {text}" if record.levelno == logging.WARNING else text


def _printable(text: str) -> str:
    """The same without what a terminal obeys: names of files may hold anything."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: arguments; those of the process by default.

    Returns:
        0 all done, 1 a file failed, 2 used wrongly, 128 and the signal's number interrupted (130 by Ctrl-C).
    """
    args = make_parser().parse_args(argv, argparse.Namespace(is_program=argv is None))
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Format())
    logger.addHandler(handler)
    levels = [logging.INFO, logging.DEBUG, TRACEBACKS]
    level_before = logger.level
    logger.setLevel(logging.WARNING if args.quiet else levels[min(args.verbose, 2)])
    commands = {"denoise": _denoise, "train": _train, "check": _check, "info": _info, "bundle": _bundle}
    try:
        with ended_by_signals(), considerate_threads():
            return commands[args.command](args)
    except KeyboardInterrupt as end:
        print("interrupted", file=sys.stderr)
        return 128 + getattr(end, "number", signal.SIGINT)
    except Exception as error:  # noqa: BLE001 - no bad input may end in a traceback
        if args.verbose > 1:
            traceback.print_exc()
        known = isinstance(error, (UsageError, ValueError, TypeError, OSError, FloatingPointError))
        text = " ".join(str(error).split())
        _print_errors([text if known else f"{type(error).__name__}: {text} Use -vv to see where."])
        asked_wrongly = isinstance(error, (UsageError, FileNotFoundError, FileExistsError, PermissionError))
        return EXIT_USAGE if asked_wrongly else EXIT_FILE_FAILED
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level_before)


def _denoise(args: argparse.Namespace) -> int:
    jobs, derivative = plan_command_jobs(args)
    n_jobs = sum(not job.done for job in jobs)
    if n_jobs == 0:
        logger.info("Every image has its result already: nothing to do.")
        return 0
    from monai_n2v.io.images import read_volume

    # torch and MONAI take seconds to load: a single file is read before.
    noise_map = read_noise_map(args, [path for job in jobs for path in (job.source, *job.outputs)])
    loaded = {str(job.source): read_volume(job.source, args.series) for job in jobs[: len(jobs) == 1]}
    check_noise_map(noise_map, loaded)
    if args.is_program:
        load_lean_monai(args.model, dict(args.set))
    from monai_n2v.apps.choose import starts_from_prior
    from monai_n2v.apps.folder import Settings, denoise_jobs
    from monai_n2v.bundle.options import PredictionOptions

    training = training_options(args, noise_map)
    prediction = PredictionOptions(
        training.device,
        args.tta or None,
        args.keep_padding,
        args.magnitude,
        args.coils,
        args.dtype,
        noise_map,
        args.wiener,
        args.volumes,
    )
    if args.model is None:
        epochs = f"for {args.epochs} epoch{'s' if args.epochs != 1 else ''}" if args.epochs else ""
        length = f"for {args.max_time:g} s" if args.max_time else epochs
        from_prior = starts_from_prior(training)
        helps = ", where that helps" if from_prior and args.scheme == "auto" and not epochs else ""
        start = "the prior" if from_prior else "random weights"
        train = f"Training on these images{helps}, from {start}, {length or 'for minutes'}"
        logger.info("%s.", "The prior denoises" if args.scheme == "prior" else train)
    settings = Settings(training, prediction, args.model, args.per_image, args.series)
    records: list[dict[str, Any]] = []
    if derivative is not None:
        derivative.describe()

    def tell(record: dict[str, Any]) -> None:
        if derivative is not None:
            derivative.complete(record)
        _tell(args, record, len(jobs))
        records.append(record)

    try:
        denoise_jobs(jobs, settings, tell, loaded)
    finally:
        failed = [record["error"] for record in records if record["status"] == "failed"]
        if len(jobs) > 1:
            logger.info("%d of %d images denoised.", len(records) - len(failed), n_jobs)
        _print_errors(failed)
    return EXIT_FILE_FAILED if failed else 0


def _print_errors(errors: Sequence[str]) -> None:
    for error in errors:
        print(f"error: {_printable(error)}", file=sys.stderr)


def _tell(args: argparse.Namespace, record: dict[str, Any], n_jobs: int) -> None:
    """Say what became of an image."""
    if args.json:
        print(json.dumps(record), flush=True)
    if record["status"] == "failed":
        return
    if record.get("steps") and (n_jobs == 1 or args.per_image):
        scheme = "" if args.scheme == "auto" else f" --scheme {args.scheme}"
        scheme += " --from-scratch" if args.from_scratch else ""
        scheme += f" --volumes {args.volumes}" if args.volumes else ""
        dims = f" --spatial-dims {args.spatial_dims}" if args.spatial_dims else ""
        sides = "x".join(map(str, args.footprint)) if isinstance(args.footprint, tuple) else args.footprint
        hidden = f" --footprint {sides}" if sides else ""
        predicted = " --tta" if args.tta else ""
        predicted += " --no-keep-padding" if args.keep_padding is False else ""
        predicted += f" --magnitude {args.magnitude}" if args.magnitude else ""
        predicted += f" --coils {args.coils:g}" if args.coils else ""
        predicted += f" --noise-map {shlex.quote(str(args.noise_map))}" if args.noise_map else ""
        # Where the clock decided, what it decided.
        by_clock = [("schedule", record["schedule"])] if "schedule" in record else []
        settings = "".join(f" --set {shlex.quote(format_setting(*item))}" for item in [*args.set, *by_clock])
        logger.info(
            "Trained %d steps in %.0f s; --epochs %d --seed %d%s%s%s%s%s repeats this run.",
            record["steps"], record["training_seconds"], record["epochs"],
            args.seed, scheme, dims, hidden, predicted, settings,
        )  # fmt: skip
    logger.debug("Record: %s", record)
    written = record | record.get("report", {})
    for name, what in _WRITTEN.items():
        if name in written:
            logger.info("%s: %s", what, written[name])
    for warning in record["faults"]:
        logger.warning("%s", warning)


def _train(args: argparse.Namespace) -> int:
    from monai_n2v.apps.paths import plan_sources
    from monai_n2v.io.images import check_writable, read_volume

    weights = args.output / "models" / "model.pt"
    try:
        sources = plan_sources(args.input, args.pattern)
        check_writable(weights, "MODELDIR")
        if weights.exists() and not (args.force or args.resume):
            raise FileExistsError(f"MODELDIR must not hold a network yet, got {weights}. Use --force to overwrite it.")
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error
    noise_map = read_noise_map(args, sources)
    loaded = {str(source): read_volume(source, args.series) for source in sources[: len(sources) == 1]}
    check_noise_map(noise_map, loaded)
    from monai_n2v.apps.inspect import read_images
    from monai_n2v.apps.train import train_network

    options = training_options(args, noise_map)
    if args.footprint == "auto":
        raise UsageError("--footprint must be a size in train, got auto. Ask monai-n2v check for one.")
    images, failed = read_images(sources, args.series, noise_map, loaded)
    logger.info("Training one network on %d image(s), on %s.", len(images), options.device)
    network, record = train_network(images, args.output, options)
    if record["steps"]:
        logger.info("Trained %d steps in %.0f s.", record["steps"], record["training_seconds"])
    logger.info("Bundle: %s; use it with monai-n2v denoise --model %s", network.bundle, network.bundle)
    if args.json:
        print(json.dumps({"output": str(args.output), **record}), flush=True)
    _print_errors(failed)
    return EXIT_FILE_FAILED if failed else 0


def _refuse_tree(path: Path) -> None:
    from monai_n2v.apps.paths import is_tree

    if is_tree(path):
        raise UsageError(
            f"IN must be one image or a folder with a DICOM series, got the folder {path}. Name a file in it."
        )


def _check(args: argparse.Namespace) -> int:
    from monai_n2v.io.images import read_volume

    _refuse_tree(args.input)
    volume = read_volume(args.input, args.series)
    residual = None
    if args.model is not None:
        from monai_n2v.apps.denoise import denoise_image
        from monai_n2v.bundle.options import PredictionOptions
        from monai_n2v.bundle.trained import resolve_model

        # A bundle of before has no such key, and takes no bias off.
        off = "off" if "magnitude" in resolve_model(args.model).keys else None
        prediction = PredictionOptions(device=args.device, magnitude=off)
        residual = volume.data - denoise_image(volume, model=args.model, prediction=prediction)[0]
    from monai_n2v.noise.check import check_noise

    try:
        check = check_noise(volume.data, volume.spacing, residual)
    except ValueError as error:
        raise ValueError(f"{error} File: {args.input}") from error
    if args.json:
        print(json.dumps({"input": str(args.input), **check.to_dict()}))
    else:
        print("\n".join([*check.sentences, *volume.notes]))
        if residual is not None and check.verdict == "WARN":
            print("What a network removed looks correlated, too, where it removed anatomy: train longer and ask again.")
    return 0


def _info(args: argparse.Namespace) -> int:
    from monai_n2v.apps.info import describe

    if not (args.input / "configs").is_dir() and not (args.input / "models").is_dir():
        _refuse_tree(args.input)
    facts = describe(args.input, args.series)
    if args.json:
        print(json.dumps(facts))
    else:
        for name, value in facts.items():
            print(f"{name}: {value}")
    return 0


def _bundle(args: argparse.Namespace) -> int:
    from monai_n2v.bundle.resources import copy_bundle, list_bundles

    if args.action == "list":
        bundles = list_bundles()
        print(json.dumps(bundles) if args.json else "\n".join(f"{name}: {task}" for name, task in bundles.items()))
        return 0
    folder = copy_bundle(args.name, args.folder)
    logger.info("Bundle: %s", folder)
    logger.info(
        "Train it on the images in DIR: python -m monai.bundle run --config_file %s --bundle_root %s --dataset_dir DIR",
        shlex.quote(str(folder / "configs" / "train.json")), shlex.quote(str(folder)),
    )  # fmt: skip
    return 0
