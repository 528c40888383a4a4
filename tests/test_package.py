# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import monai_n2v

LAYERS = [
    {"strata", "footprints", "precision", "staging", "padding", "quality", "planes", "blocks"}
    | {"memory", "tiles", "folding", "transfer"},
    {"masking", "formats.base", "correlation", "traces", "symmetries", "resources", "workflows"},
    {"formats.dicom_derived", "charts"},
    {"transforms", "intensity", "losses", "networks", "formats.nifti", "formats.nrrd", "formats.metaimage"}
    | {"formats.tiff", "formats.png", "formats.npy", "formats.dicom", "page", "noise", "scores"},
    {"ahead", "patches", "predictor"},
    {"windows"},
    {"overrides", "averaging", "blindness", "checkpoints", "detail", "distributed", "ema", "engines", "inference"}
    | {"monitoring", "volumes", "wording"},
    {"matching", "studies"},
    {"data", "pairs", "partners", "files", "report", "bundles", "jobs", "assumption"},
    {"models", "stacks", "evaluation"},
    {"training"},
    {"denoising", "describe"},
    {"batch", "arguments", "plans"},
    {"cli"},
    {"label.options", "label.studies", "label.folder", "label.stow"},
    {"label.infer", "label.train", "label.strategies"},
    {"label.batch", "label.chain"},
    {"label.app"},
    {"label.__main__"},
]


def modules_of(package: Path) -> dict[str, Path]:
    """Modules by dotted name below the package."""
    paths = {".".join(p.relative_to(package).with_suffix("").parts): p for p in package.rglob("*.py")}
    return {name: path for name, path in paths.items() if path.name != "__init__.py" and "share" not in name}


def imported_modules(path: Path, known: set[str]) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("monai_n2v"):
            module = node.module.partition(".")[2]
            names |= {f"{module}.{a.name}".strip(".") for a in node.names} if module not in known else {module}
        elif isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[2] for alias in node.names if alias.name.startswith("monai_n2v")}
    return names - {"", "__version__"}


def test_imports_go_one_way():
    modules = modules_of(Path(monai_n2v.__file__).parent)
    level = {name: i for i, layer in enumerate(LAYERS) for name in layer}
    assert set(modules) == set(level), "every module has its layer"
    for module, path in modules.items():
        for other in imported_modules(path, set(modules)):
            assert level[other] < level[module], f"{module} imports {other}"


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
