"""Rules about where things live in src/offon, held by reading the source and importing nothing."""

import ast
import re
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src" / "offon"


def bound_names(source: str) -> set[str]:
    """The names that a module binds at its top level, also under an `if` or a `try`."""
    names: set[str] = set()
    waiting = list(ast.parse(source).body)
    while waiting:
        match waiting.pop():
            case ast.Import(names=aliases):
                names |= {alias.asname or alias.name.partition(".")[0] for alias in aliases}
            case ast.ImportFrom(names=aliases):
                names |= {alias.asname or alias.name for alias in aliases}
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Assign() | ast.AnnAssign() | ast.AugAssign() as assignment:
                stored = [node for node in ast.walk(assignment) if isinstance(node, ast.Name)]
                names |= {node.id for node in stored if isinstance(node.ctx, ast.Store)}
            case ast.If() | ast.Try() | ast.With() | ast.For() | ast.While() | ast.ExceptHandler() as block:
                inner = ("body", "orelse", "finalbody", "handlers")
                waiting += [statement for part in inner for statement in getattr(block, part, [])]
    return names


def shadowed(package: Path) -> set[str]:
    """Modules and subpackages whose name their package's __init__ binds: `import package.module as m` may then be
    something else than the module."""
    siblings = {path.stem for path in package.glob("*.py")} | {
        path.parent.name for path in package.glob("*/__init__.py")
    }
    return (siblings - {"__init__"}) & bound_names((package / "__init__.py").read_text())


def test_no_name_of_a_package_hides_a_module_of_it():
    hidden = {
        f"{init.parent.relative_to(PACKAGE.parent)}/{name}"
        for init in sorted(PACKAGE.rglob("__init__.py"))
        for name in shadowed(init.parent)
    }
    assert hidden == set()


def test_the_rule_sees_every_way_to_hide_a_module(tmp_path):
    for module in ("resolve", "report", "page", "credit", "kept"):
        (tmp_path / f"{module}.py").touch()
    (tmp_path / "credits").mkdir()
    (tmp_path / "credits" / "__init__.py").touch()
    (tmp_path / "__init__.py").write_text(
        "from x.resolve import resolve\n"
        "try:\n    import y as report\nexcept ImportError:\n    def page(): kept = 1\n"
        "first, credit = 1, 2\n"
        "credits: int = 0\n"
    )
    assert shadowed(tmp_path) == {"resolve", "report", "page", "credit", "credits"}


def test_every_name_that_moved_is_where_the_table_says():
    """docs/decisions.md, "What moved where": modules exist, and what is named in them is bound there."""
    page = (PACKAGE.parents[1] / "docs" / "decisions.md").read_text()
    rows = re.findall(r"^\| `.*\| (`[^|]*`) \|$", page[page.index("### What moved where") :], re.MULTILINE)
    assert len(rows) > 100
    missing = []
    for row in rows:
        first, *others = re.findall(r"`([^`]+)`", row)
        module, _, _ = first.rpartition(".") if others or not _file(first) else (first, "", "")
        names = [first.rpartition(".")[2], *(name.lstrip(".") for name in others)] if module != first else []
        file = _file(module)
        missing += [f"{module}.{name}" for name in names if file is None or name not in bound_names(file.read_text())]
        missing += [] if file else [module]
    assert missing == []


def _file(module: str) -> Path | None:
    place = PACKAGE / module.replace(".", "/")
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)
