# SPDX-License-Identifier: Apache-2.0
"""The command ``monai-n2v``: the only place that prints or exits."""

from __future__ import annotations

import argparse
import logging
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from monai_n2v import __version__

__all__ = ["main"]

logger = logging.getLogger("monai_n2v")

T = TypeVar("T", int, float)
EXIT_FILE_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


class UsageError(Exception):
    """The command was asked wrongly."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: arguments; those of the process by default.

    Returns:
        0 done, 1 the file is at fault, 2 asked wrongly, 130 interrupted.
    """
    args = _parser().parse_args(argv)
    handler = logging.StreamHandler(sys.stderr)
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if args.quiet else logging.DEBUG if args.verbose else logging.INFO)
    try:
        args.run(args)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001 - no bad input may end in a traceback
        if args.verbose > 1:
            traceback.print_exc()
        cause = _first_cause(error)
        known = isinstance(cause, (UsageError, ValueError, TypeError, OSError))
        text = " ".join(str(cause).split())
        print(
            f"error: {text}" if known else f"error: {type(cause).__name__}: {text} Use -vv to see where.",
            file=sys.stderr,
        )
        asked_wrongly = isinstance(cause, (UsageError, FileNotFoundError, FileExistsError, PermissionError))
        return EXIT_USAGE if asked_wrongly else EXIT_FILE_FAILED
    finally:
        logger.removeHandler(handler)
    return 0


def _first_cause(error: BaseException) -> BaseException:
    """The exception MONAI wrapped into its own, unless one of ours stands on top."""
    while not isinstance(error, (UsageError, ValueError, OSError)) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="monai-n2v", description="Denoise medical images with a network trained on the noisy images alone."
    )
    parser.add_argument("--version", action="version", version=f"monai-n2v {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    denoise = commands.add_parser(
        "denoise",
        help="denoise a NIfTI file",
        description="Denoise a NIfTI file (2D, 3D, or 4D with volumes along the last axis). Without --model a network "
        "is trained on the file itself, which takes minutes.",
    )
    denoise.set_defaults(run=_denoise)
    add = denoise.add_argument
    add("-i", "--input", required=True, type=Path, metavar="IN", help="noisy image, .nii or .nii.gz")
    add("-o", "--output", required=True, type=Path, metavar="OUT", help="denoised image, .nii or .nii.gz")
    add("--model", type=Path, metavar="DIR|FILE", help="a trained bundle's folder, or its models/model.pt")
    budget = denoise.add_mutually_exclusive_group()
    budget.add_argument("--epochs", type=_positive_int, metavar="N", help="length of the training")
    budget.add_argument("--max-time", type=_positive, metavar="SECONDS", help="length of the training instead")
    add("--fast", action="store_true", help="a shorter training with a smaller network")
    add(
        "--spatial-dims",
        type=int,
        choices=(2, 3),
        help="2: slice by slice across the shortest axis; 3: volumes (default)",
    )
    add("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    add("--seed", type=_seed, default=0, help="same seed, same result on the same machine (default 0)")
    add(
        "--dtype",
        choices=("float32", "input"),
        default="float32",
        help="of OUT; input: rounded and clipped to IN's type",
    )
    add(
        "--report",
        nargs="?",
        type=Path,
        const=True,
        metavar="DIR",
        help="also write <OUT>_report.html, .png, .json; beside OUT by default",
    )
    add("--force", action="store_true", help="overwrite OUT")
    volume = denoise.add_mutually_exclusive_group()
    volume.add_argument("-q", "--quiet", action="store_true", help="only warnings and errors")
    volume.add_argument("-v", "--verbose", action="count", default=0, help="more; -vv: with tracebacks")
    return parser


def _number(kind: type[T], text: str) -> T:
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from None


def _positive(text: str) -> float:
    value = _number(float, text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


def _positive_int(text: str) -> int:
    value = _number(int, text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


def _seed(text: str) -> int:
    value = _number(int, text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"must be from 0 to 2**32 - 1, got {text}")
    return value


def _check_paths(args: argparse.Namespace) -> None:
    """Say what is wrong with the question before anything heavy is loaded or computed."""
    if not args.input.exists():
        raise UsageError(f"IN must be an existing file, got {args.input}. Check the path.")
    if args.input.is_dir():
        raise UsageError(f"IN must be a file, got the folder {args.input}. Pass one NIfTI file.")
    from monai_n2v.volumes import NIFTI_SUFFIXES, check_target, stem_of

    if not args.input.name.lower().endswith(NIFTI_SUFFIXES):
        suffixes = ", ".join(NIFTI_SUFFIXES)
        raise ValueError(f"IN must be a NIfTI file ({suffixes}), got {args.input}. Use the 2D bundle for TIFF and PNG.")
    try:
        check_target(args.output)
        if args.report is not None:
            check_target(_report_folder(args) / "report.nii")
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error
    outputs = [args.output]
    if args.report is not None:
        outputs += [
            _report_folder(args) / f"{stem_of(args.output)}_report.{suffix}" for suffix in ("html", "png", "json")
        ]
    for path in outputs:
        if path.exists() and path.samefile(args.input):
            raise UsageError(f"OUT must not be IN, got {path} for both. Choose another name.")
        if path.exists() and not args.force:
            raise UsageError(f"OUT must not exist yet, got {path}. Use --force to overwrite it.")
    if args.model is not None and not args.model.exists():
        raise UsageError(f"--model must be a trained bundle or its weights, got {args.model}. Check the path.")
    if args.model is not None and (args.fast or args.epochs or args.max_time or args.spatial_dims):
        raise UsageError(
            "--model must stand alone, got settings of a training too. "
            "Drop --fast, --epochs, --max-time and --spatial-dims."
        )


def _report_folder(args: argparse.Namespace) -> Path:
    folder: Path = args.output.parent if args.report is True else args.report
    return folder


def _denoise(args: argparse.Namespace) -> None:
    started = time.perf_counter()
    _check_paths(args)
    from monai_n2v.volumes import read_nifti, save_nifti, stem_of, to_nifti

    volume = read_nifti(args.input)

    # torch and MONAI take seconds to load: only now, when the file is known to be readable.
    from monai_n2v.denoising import check_stack, choose_device, denoise_stack

    check_stack(volume.data, str(args.input))
    try:
        device = choose_device(args.device)
    except ValueError as error:
        raise UsageError(str(error)) from error
    n_volumes, *shape = volume.data.shape
    size = " x ".join(str(n) for n in shape)
    logger.info("%s: %d volume(s) of %s voxels, on %s.", args.input, n_volumes, size, device)
    if args.model is None:
        length = (
            f"for {args.max_time:g} s"
            if args.max_time
            else f"for {args.epochs} epochs"
            if args.epochs
            else "for minutes"
        )
        logger.info("Training a network on this image alone %s.", length)
    data, record = denoise_stack(
        volume.data,
        volume.spacing,
        model=args.model,
        seed=args.seed,
        device=device,
        spatial_dims=args.spatial_dims,
        epochs=args.epochs,
        max_time=args.max_time,
        fast=args.fast,
        progress=not args.quiet and sys.stderr.isatty(),
    )
    if args.model is None:
        fast = " --fast" if args.fast else ""
        dims = f" --spatial-dims {args.spatial_dims}" if args.spatial_dims else ""
        logger.info(
            "Trained %d steps in %.0f s; --epochs %d --seed %d%s%s repeats this run.",
            record["steps"], record["training_seconds"], record["epochs"], args.seed, fast, dims,
        )  # fmt: skip
    logger.debug("Record: %s", record)
    save_nifti(to_nifti(data, volume.source, args.dtype), args.output)
    logger.info("Denoised image: %s", args.output)
    if args.report is not None:
        from monai_n2v.report import directions_of, write_report

        record |= {"input": str(args.input), "output": str(args.output)}
        record["total_seconds"] = round(time.perf_counter() - started, 1)
        paths = write_report(
            _report_folder(args), stem_of(args.output), volume.data, data, volume.spacing, record,
            source=args.input, directions=directions_of(volume.source),
        )  # fmt: skip
        logger.info("Report: %s", paths.page)
        logger.info("Before/after picture: %s", paths.picture)
        logger.info("What was removed should look like noise: where it shows anatomy, train longer.")
        logger.info("Record of the run: %s", paths.record)


if __name__ == "__main__":
    sys.exit(main())
