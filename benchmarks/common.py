# SPDX-License-Identifier: Apache-2.0
"""What all benchmarks share: results that tell where they come from."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def _module() -> str:
    return ".".join(Path(sys.argv[0]).resolve().relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")


def machine() -> dict[str, Any]:
    """Kind of machine, versions, commit and command."""
    import torch

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    kind = platform.machine()
    # A GPU host may hold a copy of the tree without its history.
    commit = os.environ.get("MONAI_N2V_COMMIT") or git("rev-parse", "--short", "HEAD") + (
        "+" if git("status", "--porcelain", "monai_n2v", "bundles", "configs", "benchmarks/*.py") else ""
    )
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        kind = names[0] if names else kind
    return {
        "command": f"python -m {_module()} {shlex.join(sys.argv[1:])}".rstrip(),
        "commit": commit,
        "cpu": kind,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": {name: version(name) for name in ("torch", "monai", "numpy")},
    }


def save(name: str, results: dict[str, Any]) -> None:
    """Write ``results/<name>.json``."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    whole = path.with_suffix(".new")  # another process may be reading
    whole.write_text(json.dumps({"machine": machine(), **results}, indent=2) + "\n")
    whole.replace(path)
    print(path)


def load(name: str) -> dict[str, Any] | None:
    """Read ``results/<name>.json`` where there is one."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def origin(machine: dict[str, Any]) -> str:
    """Where numbers come from, in one line."""
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    place = machine["gpu"] or f"{machine['cpu']}, {machine['threads']} threads of {machine['cores']} cores"
    return f"`{machine['command']}` at commit `{machine['commit']}`; {place}; {versions}."
