# SPDX-License-Identifier: Apache-2.0
"""``python -m monai_n2v.label``: make the folder of a MONAI Label app; write a denoised series back to a server."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

_START = "Serve it: monailabel start_server --app {folder} --studies STUDIES"


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m monai_n2v.label", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    init = commands.add_parser("init", help="make the folder of a MONAI Label app", allow_abbrev=False)
    init.add_argument("folder", metavar="DIR", type=Path, help="must not exist yet, or be empty")
    stow = commands.add_parser("stow", help="denoise a series of a DICOMweb server, store it there", allow_abbrev=False)
    stow.add_argument("--url", required=True, help="DICOMweb root, such as http://127.0.0.1:8042/dicom-web")
    stow.add_argument("--series", required=True, metavar="UID", help="Series Instance UID of the noisy series")
    stow.add_argument("--model", required=True, help="trained bundle: DIR/model/n2v_denoise_3d of the app")
    stow.add_argument("--device", default="auto")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: arguments; the process's own by default.

    Returns:
        0 where all went well, 1 where a series could not be denoised, 2 for a wrong question.
    """
    arguments = make_parser().parse_args(argv)
    if arguments.command == "init":
        from monai_n2v.label.folder import make_app

        try:
            make_app(arguments.folder)
        except OSError as error:
            print(error, file=sys.stderr)
            return 2
        print(_START.format(folder=arguments.folder))
        return 0
    from monai_n2v.denoising import choose_device
    from monai_n2v.label.stow import connect, denoise_series
    from monai_n2v.models import resolve_model

    try:
        network, client = resolve_model(arguments.model), connect(arguments.url)
        device = choose_device(arguments.device)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    try:
        series, n = denoise_series(client, arguments.series, network, device)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{series} {n} instances")
    return 0


if __name__ == "__main__":
    sys.exit(main())
