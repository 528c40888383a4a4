# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import monai_n2v

PACKAGE = Path(monai_n2v.__file__).parent
# A room imports from rooms before it, and from itself without going in a circle.
ROOMS = [
    *("io", "noise", "metrics", "transforms", "losses", "networks", "data", "inferers", "handlers", "bundle"),
    *("report", "apps", "cli", "label"),
]


def modules_of(package: Path) -> dict[str, Path]:
    """Modules by dotted name below the package, those of all rooms."""
    paths = {".".join(p.relative_to(package).with_suffix("").parts): p for p in package.rglob("*.py")}
    return {name: path for name, path in paths.items() if path.name != "__init__.py" and "share" not in path.parts}


def imported_modules(path: Path, known: set[str]) -> set[str]:
    """Our modules, or rooms, that a module imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "monai_n2v":
            module = (node.module or "").partition(".")[2]
            names |= {module} if module in known else {f"{module}.{a.name}".strip(".") for a in node.names}
        elif isinstance(node, ast.Import):
            names |= {a.name.partition(".")[2] for a in node.names if a.name.partition(".")[0] == "monai_n2v"}
    return names - {"", "__version__"}


def test_imports_go_one_way():
    modules = modules_of(PACKAGE)
    imports = {module: imported_modules(path, set(modules)) for module, path in modules.items()}
    assert {module.partition(".")[0] for module in modules} == set(ROOMS), "every module has its room"
    crossings = 0
    for module, others in imports.items():
        room = ROOMS.index(module.partition(".")[0])
        for other in others:
            target = ROOMS.index(other.partition(".")[0])
            crossings += target != room
            assert target <= room, f"{module} imports {other}"
    assert crossings > 50, "the test sees no imports"
    within = {module: [o for o in others if o in modules] for module, others in imports.items()}
    tuple(TopologicalSorter(within).static_order())  # raises CycleError


@pytest.mark.parametrize("room", ["io", "noise", "metrics"])
def test_rooms_of_files_and_numbers_need_neither_torch_nor_monai(room):
    modules = [f"monai_n2v.{name}" for name in modules_of(PACKAGE) if name.startswith(f"{room}.")]
    assert len(modules) > 1
    assert not loaded_after(f"import {', '.join(modules)}") & {"torch", "monai"}


def test_the_house_stays_small():
    entries = [path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert len(entries) <= 16, sorted(entries)
    for path in modules_of(PACKAGE).values():
        lines = path.read_text().splitlines()
        assert len(lines) <= 300, f"{path} has {len(lines)} lines"


# Constructors whose arguments are fixed by the contract, or are those of MONAI's networks.
MANY_PARAMETERS = {"transforms.pairing.RandN2VMaskd", "networks.N2VUNet", "networks.ReplicateUNet"}


def functions_of(tree: ast.Module) -> list[tuple[str, ast.FunctionDef]]:
    """All functions and methods with the names of what they are in; a constructor has that of its class."""
    found: list[tuple[str, ast.FunctionDef]] = []

    def visit(node: ast.AST, above: tuple[str, ...]) -> None:
        for child in ast.iter_child_nodes(node):
            names = above
            if isinstance(child, (ast.ClassDef, ast.FunctionDef)):
                names = above if child.name == "__init__" else (*above, child.name)
            if isinstance(child, ast.FunctionDef):
                found.append((".".join(names), child))
            visit(child, names)

    visit(tree, ())
    return found


def test_functions_stay_small():
    n_functions = 0
    for module, path in modules_of(PACKAGE).items():
        for name, function in functions_of(ast.parse(path.read_text())):
            n_functions += 1
            arguments = function.args
            names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
            n_parameters = len([a for a in names if a not in ("self", "cls")])
            assert n_parameters <= 8 or f"{module}.{name}" in MANY_PARAMETERS, f"{module}.{name}: {n_parameters}"
            documented = ast.get_docstring(function) is not None
            start = function.body[0].end_lineno if documented else function.lineno
            assert function.end_lineno - start <= 60, f"{module}.{name} is too long"
    assert n_functions > 400


def loaded_after(statement: str) -> set[str]:
    code = f"{statement}; import sys; print('\\n'.join(sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize("statement", ["import monai_n2v", "import monai_n2v.cli.main"])
def test_import_loads_nothing_heavy(statement):
    heavy = {"torch", "monai", "ignite", "nibabel", "itk", "numpy", "matplotlib", "PIL"}
    assert not loaded_after(statement) & heavy


@pytest.mark.parametrize("name", monai_n2v.__all__)
def test_public_names_resolve_and_are_documented(name):
    assert name in dir(monai_n2v)
    assert getattr(monai_n2v, name).__doc__


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="monai_n2v attribute nothing"):
        _ = monai_n2v.nothing


def test_no_name_of_monai_is_reused():
    import monai.data
    import monai.engines
    import monai.handlers
    import monai.inferers
    import monai.losses
    import monai.metrics
    import monai.networks.nets
    import monai.transforms

    ours = {
        name
        for path in modules_of(PACKAGE).values()
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef)
        for name in [node.name]
    }
    packages = [monai.data, monai.engines, monai.handlers, monai.inferers, monai.losses, monai.metrics]
    assert not ours & {name for package in [*packages, monai.networks.nets, monai.transforms] for name in dir(package)}
