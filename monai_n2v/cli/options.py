# SPDX-License-Identifier: Apache-2.0
"""The options of ``monai-n2v``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from monai_n2v import __version__
from monai_n2v.bundle.resources import nearest
from monai_n2v.bundle.settings import check_settings, parse_setting

T = TypeVar("T", int, float)

_Switch = argparse.BooleanOptionalAction
_FORMATS = "NIfTI, NRRD, MHA/MHD, TIFF, PNG, NPY"


class _Parser(argparse.ArgumentParser):
    """Names the nearest option where one is misspelled; options are not abbreviated."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        """Look at the options before anything else can be missed."""
        given = list(sys.argv[1:] if args is None else args)
        has_commands = any(isinstance(action, argparse._SubParsersAction) for action in self._actions)
        for text in given:
            if text == "--" or (has_commands and not text.startswith("-")):
                break  # what follows are paths, or options of a command
            option = text.partition("=")[0]
            if option.startswith("--") and option not in self._option_string_actions:
                known = [name for name in self._option_string_actions if name.startswith("--")]
                found = nearest(option, known)
                step = f"Did you mean {found}?" if found else f"See {self.prog} --help."
                self.error(f"{option} must be an option of {self.prog}, got an unknown one. {step}")
        return super().parse_known_args(given, namespace)


def make_parser() -> argparse.ArgumentParser:
    """Build the parser; ``command`` of the parsed arguments names what to run."""
    parser = _Parser(
        prog="monai-n2v", description="Denoise medical images with a network trained on the noisy images alone."
    )
    parser.add_argument("--version", action="version", version=f"monai-n2v {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    _add_denoise(commands)
    _add_train(commands)
    _add_check(commands)
    _add_info(commands)
    _add_bundle(commands)
    return parser


def _add_denoise(commands: argparse._SubParsersAction[_Parser]) -> None:
    denoise = commands.add_parser(
        "denoise",
        help="denoise an image, a DICOM series, or a folder of them",
        description=f"Denoise an image ({_FORMATS}), a folder with a DICOM series, or a whole folder of images. "
        "Without --model a network is trained on the images themselves, which takes minutes; with --fast it is not.",
    )
    add = denoise.add_argument
    add("-i", "--input", required=True, type=Path, metavar="IN", help="noisy image, DICOM folder, or folder of images")
    add("-o", "--output", required=True, type=Path, metavar="OUT", help="the same kind, denoised; a folder is mirrored")
    add(
        "--model",
        type=Path,
        metavar="DIR|FILE",
        help="a trained bundle's folder (a program: run only those you trust), or a file of weights",
    )
    _add_training_options(denoise)
    add("--per-image", action="store_true", help="of a folder: a network for every image, not one for all")
    _add_choice_options(denoise)
    _add_bids_options(denoise)
    add("--dtype", choices=("float32", "input"), help="of OUT (float32); input: rounded and clipped to IN's type")
    add("--tta", action="store_true", help="average over flips and turns: a little better, 8 or 16 times slower")
    wiener = "weight of the Wiener filter that brings back detail, 0 to 1 (chosen by the image); 0: the network alone"
    add("--wiener", type=_share, metavar="W", help=wiener)
    add("--keep-padding", action=_Switch, help="leave constant padding (CT -1024, masked MR) as it is (default)")
    magnitude = "MR: take off what noise adds to dark regions. auto (default): where the air shows it; rician: always"
    add("--magnitude", choices=("auto", "rician", "off"), help=magnitude)
    coils = "how many coils a magnitude image was combined of by the root of the sum of squares (1)"
    add("--coils", type=_positive, metavar="N", help=coils)
    report = "also write <OUT>_report.png, .html and .json; beside OUT by default"
    add("--report", nargs="?", type=Path, const=True, metavar="DIR", help=report)
    add("--save-residual", action="store_true", help="also write what was removed, <OUT>_residual")
    add("--save-noise-map", action="store_true", help="also write the local noise level that was removed, <OUT>_noise")
    existing = denoise.add_mutually_exclusive_group()
    existing.add_argument("--force", action="store_true", help="overwrite what exists")
    existing.add_argument(
        "--skip-existing",
        action="store_true",
        help="leave out images that have all that is asked for; others are done anew",
    )
    add("--json", action="store_true", help="print one line of JSON per image on standard output")
    _add_volume(denoise)


def _add_train(commands: argparse._SubParsersAction[_Parser]) -> None:
    train = commands.add_parser(
        "train",
        help="train a network on images, for later use with denoise --model",
        description="Train one network on all images and write a bundle that stands on its own: for denoise --model, "
        "monai.bundle run, and MONAI Label.",
    )
    add = train.add_argument
    add("-i", "--input", required=True, type=Path, metavar="IN", help="noisy image, DICOM folder, or folder of images")
    add("-o", "--output", required=True, type=Path, metavar="MODELDIR", help="folder of the bundle to write")
    _add_training_options(train)
    _add_choice_options(train)
    existing = train.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true", help="go on with an interrupted training in MODELDIR")
    existing.add_argument("--force", action="store_true", help="overwrite the network in MODELDIR")
    add("--json", action="store_true", help="print the record of the training as a line of JSON")
    _add_volume(train)


def _add_check(commands: argparse._SubParsersAction[_Parser]) -> None:
    check = commands.add_parser(
        "check",
        help="does Noise2Void suit this image? Asked before any training",
        description="Measure the noise of an image and tell whether it is independent between voxels, as Noise2Void "
        "assumes: PASS, WARN or UNSURE, for the image and along each axis, in plain words.",
    )
    add = check.add_argument
    add("input", type=Path, metavar="IN", help="noisy image or DICOM folder")
    add("--model", type=Path, metavar="DIR|FILE", help="also look at what this trained network removes")
    add("--device", default="auto", help="for --model: auto (default), cpu, cuda or cuda:N")
    add("--series", metavar="UID|NUMBER", help="of a DICOM folder with several series: which one")
    add("--json", action="store_true", help="print JSON")
    _add_volume(check)


def _add_info(commands: argparse._SubParsersAction[_Parser]) -> None:
    info = commands.add_parser(
        "info",
        help="tell what an image or a trained network is",
        description="Tell what an image, a DICOM folder or a trained network is.",
    )
    info.add_argument("input", type=Path, metavar="FILE|MODEL", help="image, DICOM folder, bundle, or models/model.pt")
    info.add_argument("--series", metavar="UID|NUMBER", help="of a DICOM folder with several series: which one")
    info.add_argument("--json", action="store_true", help="print JSON")
    _add_volume(info)


def _add_bundle(commands: argparse._SubParsersAction[_Parser]) -> None:
    bundle = commands.add_parser(
        "bundle",
        help="list the MONAI Bundles of this package, or copy one",
        description="The MONAI Bundles of this package, for monai.bundle run and for changes of your own.",
    )
    actions = bundle.add_subparsers(required=True, metavar="ACTION", dest="action")
    copy = actions.add_parser("copy", help="copy a bundle into a new folder", description="Copy a bundle, untrained.")
    copy.add_argument("name", metavar="NAME", help="n2v_denoise_2d or n2v_denoise_3d")
    copy.add_argument("folder", type=Path, metavar="DIR", help="folder to make; must not exist yet, or be empty")
    _add_volume(copy)
    listing = actions.add_parser("list", help="name the bundles", description="Name the bundles and their tasks.")
    listing.add_argument("--json", action="store_true", help="print JSON")
    _add_volume(listing)


def _add_training_options(parser: argparse.ArgumentParser) -> None:
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--epochs", type=_positive_int, metavar="N", help="length of the training")
    budget.add_argument("--max-time", type=_positive, metavar="SECONDS", help="length of the training instead")
    add = parser.add_argument
    scheme = "what to train by: auto (default), n2v, recorrupted, renoised; prior: not at all"
    pairing = parser.add_mutually_exclusive_group()
    pairing.add_argument(
        "--scheme", choices=("auto", "n2v", "recorrupted", "renoised", "prior"), default="auto", help=scheme
    )
    fast = "scheme prior: without any training, in seconds"
    pairing.add_argument("--fast", dest="scheme", action="store_const", const="prior", help=fast)
    context = "of a series: other volumes that the network sees beside each; auto: 8 where their noise is independent"
    add("--context", type=_context, metavar="auto|N", help=context)
    add("--from-scratch", action="store_true", help="train from random weights by Noise2Void, as the paper does")
    add(
        "--spatial-dims",
        type=int,
        choices=(2, 3),
        help="2: slice by slice across the shortest axis; 3: volumes; by default what the image shows to be better",
    )
    uneven = "MR, coils: an image in IN's grid that tells how strong the noise is at each voxel, such as a g-factor map"
    add("--noise-map", type=Path, metavar="FILE", help=uneven)
    hidden = "for correlated noise: hide boxes of voxels, such as 3x1x1, or what check suggests (structN2V)"
    add("--footprint", type=_footprint, metavar="auto|SIZE", help=hidden)
    key = "another key of the bundle's configs, such as lr=0.001, fill=uniform or ema=0.999; repeatable"
    add("--set", action="append", type=_setting, default=[], metavar="KEY=VALUE", help=key)
    add("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    add("--seed", type=_seed, default=0, help="same seed, same result on the same machine (default 0)")


def _add_choice_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--pattern", action="append", default=[], metavar="GLOB", help="of a folder: only these, such as '*_T1.nii.gz'")
    add("--series", metavar="UID|NUMBER", help="of a DICOM folder with several series: which one")


def _add_bids_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--bids", action="store_true", help="IN is a BIDS dataset, OUT a derivative; a network for each kind of image")
    label = "of a BIDS dataset: only these participants, such as 01 02"
    add("--participant-label", nargs="+", default=[], metavar="LABEL", help=label)
    only = "of a BIDS dataset: only these images, such as suffix=T1w,FLAIR or ses=01; repeatable, all must hold"
    add("--filter", action="append", type=_filter, default=[], metavar="KEY=VALUE", help=only)


def _add_volume(parser: argparse.ArgumentParser) -> None:
    volume = parser.add_mutually_exclusive_group()
    volume.add_argument("-q", "--quiet", action="store_true", help="only warnings and errors")
    volume.add_argument("-v", "--verbose", action="count", default=0, help="more; -vv: with tracebacks")


def _number(kind: type[T], fits: Callable[[T], bool], rule: str) -> Callable[[str], T]:
    """Make what reads the text of an option as a number that must be ``rule``."""

    def read(text: str) -> T:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from None
        if not fits(value):
            raise argparse.ArgumentTypeError(f"must be {rule}, got {text}")
        return value

    return read


_positive = _number(float, lambda value: 0 < value < float("inf"), "above 0")
_share = _number(float, lambda value: 0 <= value <= 1, "a share from 0 to 1")
_positive_int = _number(int, lambda value: value >= 1, "at least 1")
_seed = _number(int, lambda value: 0 <= value < 2**32, "from 0 to 2**32 - 1")
_count = _number(int, lambda value: value >= 0, "a whole number from 0, or auto")
_whole = _number(int, lambda _: True, "")


def _context(text: str) -> str | int:
    return text if text == "auto" else _count(text)


def _footprint(text: str) -> str | tuple[int, ...]:
    if text == "auto":
        return text
    sides = tuple(map(_whole, text.lower().split("x")))
    if len(sides) not in (2, 3) or any(side < 1 or side % 2 == 0 for side in sides):
        raise argparse.ArgumentTypeError(f"must be auto or odd sides such as 3x1x1, got {text}")
    return sides


def _filter(text: str) -> tuple[str, list[str]]:
    key, _, values = text.partition("=")
    if not key or not all(values.split(",")):
        raise argparse.ArgumentTypeError(f"must be KEY=VALUE such as suffix=T1w, got {text}")
    return key, values.split(",")


def _setting(text: str) -> tuple[str, Any]:
    try:
        key, value = parse_setting(text)
        check_settings({key: value})
        return key, value
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("--set ")) from None
