# SPDX-License-Identifier: Apache-2.0
"""Write the reference pages that follow from the code: ``python docs/generate.py``. A test compares them."""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"
NOTICE = "<!-- Written by `python docs/generate.py`; do not edit. -->"
COMMANDS = ("denoise", "train", "check", "info", "bundle copy", "bundle list")
# Entries that put the bundle together; nobody sets them.
WIRING = ("imports", "initialize", "run", "finalize", "network", "check", "divisor", "handlers", "spatial_dims")
ROOMS = (
    "transforms",
    "losses",
    "networks",
    "data",
    "inferers",
    "handlers",
    "bundle",
    "noise",
    "metrics",
    "io",
    "report",
)

CONFIGS = {"train": "Training", "inference": "Inference", "evaluate": "Scoring, laid over train.json"}
# What the README of the bundles does not say, or says of several keys together.
MEANINGS = {
    "bundle_root": "folder of the bundle",
    "resume": "whether to continue from the latest checkpoint",
    "clean_dir": "clean images of the same names, to score against",
    "repeat_dirs": "folders with further noisy images of the same objects, to score against",
    "data_range": "range of intensities that PSNR and SSIM refer to",
    "sigma": "standard deviation of the noise, where it is known",
    "ckpt_path": "last weights, below `<output_dir>/models` by default",
    "best_ckpt_path": "best weights by the validation loss, beside them",
    "log_dir": "folder of TensorBoard logs and `config.json`",
    "save_config": "whether `config.json` is written there; it repeats the run",
    "prior_path": "file of the prior",
    "device": "first GPU where there is one, else the CPU",
    "output_dir": "folder where everything goes",
    "val_length": "batches of a validation",
    "patch_size": "voxels along each side of a training patch",
    "batch_size": "patches per step",
    "features": "width of the network at each level; give inference those of the training",
    "lr": "learning rate",
    "fill": "what hidden voxels are replaced by: `uniform` (a random neighbor), `mean` or `median`",
    "footprint": "voxels that are hidden together, for correlated noise (structN2V)",
    "radius": "half side of the window of neighbors, in voxels",
    "mask_fraction": "share of the voxels that is hidden",
    "tile_size": "sides of a tile with its halo; null for the largest that memory permits",
    "halo": "context around each tile that is cropped, in voxels",
    "keep_padding": "constant padding (CT -1024, masked MR) stays exactly as it was",
    "keep_mean": "voxels outside of the padding keep their mean; false where the noise has another mean than zero",
    "memory_gib": "memory for images; the others are read in turn",
    "cache_dir": "folder for preprocessed images",
    "rank": "number of the process; `multi_gpu_train.json` sets it",
    "coils": "number of coils that a magnitude image combines by the root of the sum of squares; null for one",
    "magnitude": "remove the bias of a magnitude image: `auto` where the air shows it, `rician` always, `off` never",
    "n_masks": "how often voxels are hidden for the blind scores",
}


def command_line() -> str:
    """Options of every command, in the groups of ``--help``."""
    from monai_n2v.cli.options import make_parser

    lines = [
        "# Command line",
        "",
        NOTICE,
        "",
        "What a command says goes to standard error; `--json` prints to standard output. `--help` shows the same as this page,",
        "`monai-n2v --version` the version. Exit codes: [errors](errors.md).",
        "",
    ]
    for command in COMMANDS:
        parser: argparse.ArgumentParser = make_parser()
        for word in command.split():
            parser = next(a for a in parser._actions if a.choices and word in a.choices).choices[word]  # type: ignore[index, call-overload]
        lines += [f"## monai-n2v {command}", "", str(parser.description), ""]
        for group in parser._action_groups:
            rows = [row(action) for action in group._group_actions if not isinstance(action, argparse._HelpAction)]
            if rows:
                title = {"options": "", "positional arguments": ""}.get(str(group.title), f" {group.title}")
                lines += [f"| option{':' if title else ''}{title} | |", "| --- | --- |", *rows, ""]
    return "\n".join(lines).rstrip() + "\n"


def row(action: argparse.Action) -> str:
    """An option as a row: its names, its value, its help."""
    value = str(action.metavar or " or ".join(map(str, action.choices or ())) or action.dest.upper())
    value = value.replace("|", " or ")
    names = ", ".join(f"`{name}`" for name in action.option_strings)
    takes = action.nargs != 0 and not isinstance(action, argparse.BooleanOptionalAction)
    shown_value = "" if not takes else f"`[{value}]`" if action.nargs == "?" else f"`{value}`"
    return f"| {' '.join(part for part in (names, shown_value) if part)} | {action.help} |"


def meanings() -> dict[str, str]:
    """What keys mean, from the table in the bundles' README."""
    readme = (ROOT / "bundles" / "n2v_denoise_3d" / "docs" / "README.md").read_text()
    found: dict[str, str] = {}
    for keys, meaning in re.findall(r"^\| (`[^|]+`) \| ([^|]+) \|$", readme, re.MULTILINE):
        names, parts = re.findall(r"`(\w+)`", keys), meaning.split("; ")
        found |= zip(names, parts if len(parts) == len(names) else [meaning] * len(names))
    return found


def keys() -> str:
    """Keys of the bundles' configs with their defaults."""
    lines = [
        "# Keys of the bundles",
        "",
        NOTICE,
        "",
        "Set them by `--KEY VALUE` after `monai.bundle run`, or by `--set KEY=VALUE` after `monai-n2v`. A default that begins with",
        "`$` is Python, and `@key` is another key. Where 2D differs from 3D, both are shown.",
        "",
    ]
    told = meanings() | MEANINGS
    for config, title in CONFIGS.items():
        two, three = (
            json.loads((ROOT / "bundles" / f"n2v_denoise_{d}d" / "configs" / f"{config}.json").read_text())
            for d in (2, 3)
        )
        lines += [f"## {title}: {config}.json", "", "| key | default | meaning |", "| --- | --- | --- |"]
        for name in settable(three):
            default = f"`{shown(three[name])}`"
            if two.get(name) != three[name]:
                default += f", 2D `{shown(two[name])}`"
            lines.append(f"| `{name}` | {default} | {told[name]} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def settable(config: Mapping[str, Any]) -> list[str]:
    """Keys that hold a value, not a part of the program."""
    return [
        name
        for name, value in config.items()
        if name not in WIRING
        and not name.startswith("_")
        and not isinstance(value, dict)
        and "_target_" not in json.dumps(value)
    ]


def shown(value: Any) -> str:
    return value.replace("|", "\\|") if isinstance(value, str) else json.dumps(value)


def public_names(room: str) -> Iterator[tuple[str, str]]:
    """Names of a package or module and the first lines of their docstrings, without importing them."""
    folder = ROOT / "monai_n2v" / room
    if not folder.is_dir():
        yield from _documented(folder.with_suffix(".py"), None)
        return
    for node in ast.parse((folder / "__init__.pyi").read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            module = folder.joinpath(*node.module.split(".")).with_suffix(".py")
            yield from _documented(module, [alias.name for alias in node.names])


def _documented(module: Path, names: list[str] | None) -> Iterator[tuple[str, str]]:
    for node in ast.parse(module.read_text()).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_"):
            text = ast.get_docstring(node)
            if text and (names is None or node.name in names):
                first = " ".join(text.split("\n\n")[0].split())
                yield node.name, re.sub(r":py:class:| \(\[\d\]_[^)]*\)|[ ,]*\[\d\]_", "", first.replace("``", "`"))


def python() -> str:
    """Public names, room by room."""
    lines = [
        "# Python",
        "",
        NOTICE,
        "",
        "`help()` shows arguments, shapes and units of each name. Aliases of dictionary transforms (`...D`, `...Dict`) are left out.",
        "",
    ]
    tree = ast.parse((ROOT / "monai_n2v" / "apps" / "denoise.py").read_text())
    denoise = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "denoise")
    lines += [
        "## monai_n2v.denoise",
        "",
        "```",
        f"denoise({ast.unparse(denoise.args)})",
        "",
        ast.get_docstring(denoise) or "",
        "```",
        "",
    ]
    for room in ROOMS:
        lines += [f"## monai_n2v.{room}", "", "| name | what it is |", "| --- | --- |"]
        found = dict(public_names(room))
        lines += [f"| `{name}` | {what.replace('|', chr(92) + '|')} |" for name, what in sorted(found.items())]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


PAGES = {"command-line.md": command_line, "keys.md": keys, "python.md": python}

if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    for name, page in PAGES.items():
        (REFERENCE / name).write_text(page())
