"""The house keeps its plan: imports point downwards, nothing goes round in a circle, folders and files stay small.

Every import counts: at the top of a file, inside a function, under TYPE_CHECKING.
"""

from __future__ import annotations

import ast
import keyword
from functools import cache
from pathlib import Path

import pytest

import offon

PACKAGE = Path(offon.__file__).parent
LAYERS = (  # from the ground up; what stands in one line may not import each other
    ("version", "errors", "lazy", "hub", "console"),
    ("objects",),
    ("types",),
    ("maths",),
    ("behavior", "data", "models"),
    ("parts",),
    ("engines", "tasks"),
    ("collect",),
    ("testbed",),
    ("catalogue",),
    ("runs",),
    ("recipe",),
    ("reporting",),
    ("train",),
    ("measure",),
    ("diagnosis",),
    ("pipeline",),
    ("contracts",),
    ("api",),
    ("cli",),
)
FLOOR = {name: floor for floor, names in enumerate(LAYERS) for name in names}
FILES_IN_A_FOLDER = 12
CROWDED = {"catalogue/methods"}  # one family a file
LINES_IN_A_FILE = 450
LONG = {
    "models/packed/attention.py": "one mechanism: mask, storage and kernel of packed and shared prefixes",
    "runs/directory.py": "everything a run writes, under one roof",
}
FILLERS = {"found", "told", "said"}  # they name no result


@cache
def sources() -> dict[str, Path]:
    """Module -> its file."""
    names = {path: path.relative_to(PACKAGE.parent).with_suffix("").parts for path in PACKAGE.rglob("*.py")}
    return {".".join(parts[:-1] if parts[-1] == "__init__" else parts): path for path, parts in names.items()}


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imported(module: str) -> set[str]:
    """The modules of ours that a module imports, wherever the import stands."""
    modules: set[str] = set()
    for node in ast.walk(parsed(sources()[module])):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "offon":
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & sources().keys()
            rest = [alias for alias in node.names if f"{node.module}.{alias.name}" not in submodules]
            modules |= submodules | ({node.module} if rest else set())
        elif isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names if alias.name.split(".")[0] == "offon"}
    return modules


def room(module: str) -> str:
    """The top-level package or file that a module belongs to; "" for the front door, offon itself."""
    return (module.split(".") + [""])[1]


def test_every_room_has_a_floor():
    rooms = {room(module) for module in sources()} - {""}
    assert rooms - set(FLOOR) == set(), "new top-level packages need a place in LAYERS"


def test_imports_point_downwards():
    upward = [
        f"{module} imports {other}"
        for module in sources()
        for other in imported(module)
        if room(module)
        and room(module) != room(other)
        and not (room(other) and FLOOR[room(other)] < FLOOR[room(module)])
    ]
    assert upward == []


def test_nothing_goes_round_in_a_circle():
    """A package stands for its __init__ here: importing a module of it runs that first."""
    graph = {module: imported(module) & sources().keys() for module in sources()}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        if module in path:
            pytest.fail("a circle: " + " -> ".join([*path[path.index(module) :], module]))
        if module not in done:
            for other in sorted(graph[module]):
                visit(other, (*path, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())


def test_folders_are_small():
    folders = {path.parent for path in sources().values()}
    crowded = {
        str(folder.relative_to(PACKAGE)): files
        for folder in folders
        if (files := sum(path.name != "__init__.py" and path.name != "__main__.py" for path in folder.glob("*.py")))
        > FILES_IN_A_FOLDER
    }
    blocks = {"reporting/blocks"}  # a block is a .py, a .html and a .css of one name
    assert set(crowded) - CROWDED - blocks == set(), crowded


def test_files_are_short():
    long = {
        str(path.relative_to(PACKAGE)): lines
        for path in sources().values()
        if (lines := len(path.read_text().splitlines())) > LINES_IN_A_FILE
    }
    assert set(long) == set(LONG), f"over {LINES_IN_A_FILE} lines: {long}; the next change there starts by splitting"
    assert len(LONG) <= 3


def test_results_have_names_that_say_what_they_are():
    def names(tree: ast.Module) -> set[str]:
        bound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        return bound | defined | {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}

    fillers = {name for name in FILLERS if not keyword.iskeyword(name)}
    vague = {
        str(path.relative_to(PACKAGE)): used for path in sources().values() if (used := names(parsed(path)) & fillers)
    }
    assert vague == {}
