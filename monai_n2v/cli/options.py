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
_IN = "noisy image, DICOM folder, or folder of images"
_SERIES = "which series of a DICOM folder that holds several"


def _formatter(prog: str) -> argparse.HelpFormatter:
    """Put an option and its help on one line, in a terminal of any width above 80 columns."""
    return argparse.HelpFormatter(prog, max_help_position=27)


class _Parser(argparse.ArgumentParser):
    """Names the nearest option where one is misspelled; options are not abbreviated."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_formatter, **options)

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
        usage="monai-n2v denoise -i IN -o OUT [options]",
        description=f"Denoise an image ({_FORMATS}), a DICOM folder, or a whole folder of images. "
        "Without --fast or --model a network trains on these images, which takes minutes.",
    )
    add = denoise.add_argument
    add("-i", "--input", required=True, type=Path, metavar="IN", help=_IN)
    add("-o", "--output", required=True, type=Path, metavar="OUT", help="the same kind, denoised; a folder is mirrored")
    _add_common_training(denoise)
    model = "trained bundle (a program: run only those you trust) or weights"
    add("--model", type=Path, metavar="DIR|FILE", help=model)
    report = "also write OUT_report (.html, .png, .json), into DIR"
    add("--report", nargs="?", type=Path, const=True, metavar="DIR", help=report)
    existing = denoise.add_mutually_exclusive_group()
    existing.add_argument("--force", action="store_true", help="overwrite what exists")
    skip = "leave out images that have all that is asked for"
    existing.add_argument("--skip-existing", action="store_true", help=skip)
    _add_volume(denoise)

    add = denoise.add_argument_group("results").add_argument
    add("--dtype", choices=("float32", "input"), help="of OUT (float32); input: rounded and clipped to IN's type")
    add("--save-residual", action="store_true", help="also write what was removed, OUT_residual")
    add("--save-noise-map", action="store_true", help="also write the local noise level that was removed, OUT_noise")
    add("--tta", action="store_true", help="average over flips and turns: a little better, 8 or 16 times slower")
    wiener = "weight of the Wiener filter that brings back detail, 0 to 1 (chosen by the image); 0: the network alone"
    add("--wiener", type=_share, metavar="W", help=wiener)
    add("--keep-padding", action=_Switch, help="leave constant padding (CT -1024, masked MR) as it is (default)")
    add("--json", action="store_true", help="print one line of JSON per image on standard output")
    _add_rare_training(denoise)
    mr = denoise.add_argument_group("MR")
    magnitude = "remove the bias of noise in dark regions. auto (default): where the air shows it; rician: always"
    mr.add_argument("--magnitude", choices=("auto", "rician", "off"), help=magnitude)
    coils = "number of coils that the magnitude image combines by the root of the sum of squares (1)"
    mr.add_argument("--coils", type=_positive, metavar="N", help=coils)
    _add_series(mr)
    folder = _add_folder(denoise)
    folder.add_argument("--per-image", action="store_true", help="train a network for every image, not one for all")
    _add_bids(denoise)


def _add_train(commands: argparse._SubParsersAction[_Parser]) -> None:
    train = commands.add_parser(
        "train",
        help="train a network on images, for later use with denoise --model",
        usage="monai-n2v train -i IN -o MODELDIR [options]",
        description="Train one network on all images and write a bundle that stands on its own: for denoise --model, "
        "monai.bundle run, and MONAI Label.",
    )
    add = train.add_argument
    add("-i", "--input", required=True, type=Path, metavar="IN", help=_IN)
    add("-o", "--output", required=True, type=Path, metavar="MODELDIR", help="folder of the bundle to write")
    _add_common_training(train)
    existing = train.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true", help="continue an interrupted training in MODELDIR")
    existing.add_argument("--force", action="store_true", help="overwrite the network in MODELDIR")
    add("--json", action="store_true", help="print the record of the training as a line of JSON")
    _add_volume(train)
    _add_rare_training(train)
    _add_series(train.add_argument_group("MR"))
    _add_folder(train)


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
    add("--series", metavar="UID|NUMBER", help=_SERIES)
    add("--json", action="store_true", help="print JSON")
    _add_volume(check)


def _add_info(commands: argparse._SubParsersAction[_Parser]) -> None:
    info = commands.add_parser(
        "info",
        help="tell what an image or a trained network is",
        description="Tell what an image, a DICOM folder or a trained network is.",
    )
    info.add_argument("input", type=Path, metavar="FILE|MODEL", help="image, DICOM folder, bundle, or models/model.pt")
    info.add_argument("--series", metavar="UID|NUMBER", help=_SERIES)
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


def _add_common_training(parser: argparse.ArgumentParser) -> None:
    pairing = parser.add_mutually_exclusive_group()
    fast = "use the prior alone: seconds, without training"
    pairing.add_argument("--fast", dest="scheme", action="store_const", const="prior", default="auto", help=fast)
    scheme = "auto (default), n2v, recorrupted, renoised or prior"
    choices = ("auto", "n2v", "recorrupted", "renoised", "prior")
    pairing.add_argument("--scheme", choices=choices, default="auto", metavar="NAME", help=scheme)
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--max-time", type=_positive, metavar="SECONDS", help="length of the training")
    budget.add_argument("--epochs", type=_positive_int, metavar="N", help="the same in epochs")
    device = "auto (default), cpu, cuda or cuda:N"
    parser.add_argument("--device", default="auto", help=device)


def _add_rare_training(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("training").add_argument
    add("--seed", type=_seed, default=0, help="same seed, same result on the same machine (default 0)")
    add("--from-scratch", action="store_true", help="train Noise2Void from random weights, as the paper does")
    dims = "2: slice by slice across the shortest axis; 3: volumes; by default what the image shows to be better"
    add("--spatial-dims", type=int, choices=(2, 3), help=dims)
    hidden = "for correlated noise: hide boxes of voxels, such as 3x1x1, or what check suggests (structN2V)"
    add("--footprint", type=_footprint, metavar="auto|SIZE", help=hidden)
    key = "another key of the bundle's configs, such as lr=0.001, fill=uniform or ema=0.999; repeatable"
    add("--set", action="append", type=_setting, default=[], metavar="KEY=VALUE", help=key)


def _add_series(group: argparse._ArgumentGroup) -> None:
    uneven = "an image in IN's grid with the noise level of each voxel, such as a g-factor map"
    group.add_argument("--noise-map", type=Path, metavar="FILE", help=uneven)
    volumes = "of a series of 6 and more; auto: together where their noise is independent"
    group.add_argument("--volumes", choices=("auto", "together", "apart"), help=volumes)


def _add_folder(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    group = parser.add_argument_group("folders")
    pattern = "only images that match, such as '*_T1.nii.gz'; repeatable"
    group.add_argument("--pattern", action="append", default=[], metavar="GLOB", help=pattern)
    group.add_argument("--series", metavar="UID|NUMBER", help=_SERIES)
    return group


def _add_bids(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("BIDS datasets").add_argument
    add("--bids", action="store_true", help="IN is a BIDS dataset, OUT a derivative; a network for each kind of image")
    label = "only these participants, such as 01 02"
    add("--participant-label", nargs="+", default=[], metavar="LABEL", help=label)
    only = "only these images, such as suffix=T1w,FLAIR or ses=01; repeatable, all must hold"
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
_whole = _number(int, lambda _: True, "")


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
