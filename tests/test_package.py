# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import monai_n2v

LAYERS = [
    {"strata", "footprints", "precision", "blocks"},
    {"masking", "correlation", "traces"},
    {"transforms", "intensity", "losses", "networks", "noise"},
    {"data", "engines", "inference", "wording"},
    {"volumes", "files", "report", "bundles", "assumption"},
    {"models"},
    {"denoising"},
    {"cli"},
]
# Modules of one layer that build on a sibling.
WITHIN = {("files", "volumes")}


def imported_modules(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("monai_n2v"):
            names |= {node.module.partition(".")[2]} if "." in node.module else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[2] for alias in node.names if alias.name.startswith("monai_n2v")}
    return names - {"", "__version__"}


def test_imports_go_one_way():
    package = Path(monai_n2v.__file__).parent
    level = {name: i for i, layer in enumerate(LAYERS) for name in layer}
    modules = {path.stem for path in package.glob("*.py")} - {"__init__"}
    assert modules == set(level), "every module has its layer"
    for module in modules:
        for other in imported_modules(package / f"{module}.py"):
            assert level[other] < level[module] or (module, other) in WITHIN, f"{module} imports {other}"


def loaded_after(statement: str) -> set[str]:
    code = f"{statement}; import sys; print('\\n'.join(sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize("statement", ["import monai_n2v", "import monai_n2v.cli"])
def test_import_loads_nothing_heavy(statement):
    heavy = {"torch", "monai", "ignite", "nibabel", "itk", "numpy", "matplotlib", "PIL"}
    assert not loaded_after(statement) & heavy


def test_volumes_load_neither_torch_nor_monai():
    assert not loaded_after("import monai_n2v.volumes") & {"torch", "monai"}


@pytest.mark.parametrize("name", [n for n in monai_n2v.__all__ if n != "__version__"])
def test_public_names_resolve_and_are_documented(name):
    assert name in dir(monai_n2v)
    assert getattr(monai_n2v, name).__doc__


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = monai_n2v.nothing


def test_no_name_of_monai_is_reused():
    import monai.handlers
    import monai.inferers
    import monai.networks.nets
    import monai.transforms

    ours = {
        name
        for path in Path(monai_n2v.__file__).parent.glob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef)
        for name in [node.name]
    }
    theirs = {n for m in (monai.transforms, monai.handlers, monai.inferers, monai.networks.nets) for n in dir(m)}
    assert not ours & theirs
