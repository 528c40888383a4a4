# SPDX-License-Identifier: Apache-2.0
"""``python -m monai_n2v.label``: make the folder of a MONAI Label app; write a denoised series back to a server."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from monai_n2v.bundle.resources import copy_bundle, list_bundles
from monai_n2v.io.atomic import staged

_MAIN = '''"""MONAI Label app for Noise2Void; segmentation bundles in ``model/`` are served too, alone and after it."""

from monai_n2v.label.app import DenoisingApp  # noqa: F401 - MONAI Label looks for it here
'''


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


def make_app(folder: Path) -> Path:
    """Make the folder of an app; MONAI Label need not be installed.

    Args:
        folder: must not exist yet, or be empty.

    Returns:
        ``folder``, with ``main.py`` and the bundles in ``model/``.

    Raises:
        FileExistsError: where something is in the folder.
        PermissionError: where it cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"DIR must not exist yet or be an empty folder, got {folder}. Name another one.")
    with staged(folder) as stage:
        (stage / "model").mkdir(parents=True)
        for name in list_bundles():
            copy_bundle(name, stage / "model" / name)
        (stage / "main.py").write_text(_MAIN)
    return folder


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: arguments; the process's own by default.

    Returns:
        0 where all went well, 1 where a series could not be denoised, 2 for a wrong question.
    """
    arguments = make_parser().parse_args(argv)
    if arguments.command == "init":
        try:
            make_app(arguments.folder)
        except OSError as error:
            print(error, file=sys.stderr)
            return 2
        print(f"Serve it: monailabel start_server --app {arguments.folder} --studies STUDIES")
        return 0
    from monai_n2v.apps.inspect import choose_device
    from monai_n2v.bundle.trained import resolve_model
    from monai_n2v.label.stow import connect, denoise_series

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
