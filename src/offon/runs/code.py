"""A hash of what a function in a file does: its syntax tree, and of whatever it names.

Comments, formatting, docstrings and where the file lies do not count, nor do functions of the file that it does not
reach. What it imports from the project (from beside the file, or from the working directory) counts in the same way,
and what that imports; libraries do not. Code that is found at run time only (`importlib`, a file that it reads) is not
seen.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

NAMED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def code_hash(file: Path, function: str | None = None) -> str:
    """16 hex digits. function: None counts all of the file. A file that is no Python counts by its bytes."""
    reader = _Reader([file.resolve().parent, Path.cwd().resolve()])
    reader.file(file.resolve(), function)
    total = hashlib.sha256()
    for part in sorted(reader.parts):
        total.update(part.encode())
    return total.hexdigest()[:16]


class _Reader:
    """Walks from one name of a file to everything of the project that it reaches, each once."""

    def __init__(self, folders: list[Path]):
        self.folders = folders
        self.parts: set[str] = set()
        self._seen: set[tuple[Path, str | None]] = set()

    def file(self, file: Path, name: str | None) -> None:
        if (file, None) in self._seen or (file, name) in self._seen:
            return
        self._seen.add((file, name))
        source = file.read_bytes()
        try:
            module = ast.parse(source)
        except (SyntaxError, ValueError):
            self.parts.add(f"{file.name} {hashlib.sha256(source).hexdigest()}")
            return
        statements = list(module.body)
        bound = {one: statement for statement in statements for one in _binds(statement)}
        # what is done while the file is imported may touch anything; definitions and plain values wait to be named
        waiting = [] if name is None else [s for s in statements if _binds(s)]
        reached = [s for s in statements if s not in waiting]
        if name in bound:
            reached.append(bound[name])
        done: list[ast.stmt] = []
        while reached:
            statement = reached.pop()
            if statement in done:
                continue
            done.append(statement)
            self.parts.add(f"{file.name} {_text(statement)}")
            wanted = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}
            wanted |= {node.attr for node in ast.walk(statement) if isinstance(node, ast.Attribute)}
            reached += [bound[one] for one in wanted if one in bound]
            for node in ast.walk(statement):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    self.imported(file, node)

    def imported(self, file: Path, node: ast.Import | ast.ImportFrom) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                for path in self._modules(alias.name, self.folders):
                    self.file(path, None)
            return
        base = [file.parents[node.level - 1]] if node.level else self.folders
        module = node.module or ""
        for alias in node.names:
            inner = f"{module}.{alias.name}" if module else alias.name
            for path in self._modules(inner, base):
                whole = path.stem == alias.name or path.parent.name == alias.name
                self.file(path, None if whole or alias.name == "*" else alias.name)

    @staticmethod
    def _modules(name: str, folders: list[Path]) -> Iterator[Path]:
        """The files of the project that importing a dotted name runs: packages on the way, and the module itself, or
        the one that the last part is a name of."""
        parts = name.split(".")
        for folder in folders:
            files = [folder.joinpath(*parts[:n], "__init__.py") for n in range(1, len(parts) + 1)]
            files += [folder.joinpath(*parts[:n]).with_suffix(".py") for n in (len(parts) - 1, len(parts)) if n]
            if existing := [file for file in files if file.is_file()]:
                yield from existing
                return


def _binds(statement: ast.stmt) -> list[str]:
    """The names that a definition, an import or a plain assignment gives; none of what may do something else."""
    match statement:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.Import(names=aliases):
            return [alias.asname or alias.name.partition(".")[0] for alias in aliases]
        case ast.ImportFrom(names=aliases):
            return [alias.asname or alias.name for alias in aliases if alias.name != "*"]
        case ast.Assign(targets=targets, value=value) if not _acts(value):
            return [target.id for target in targets if isinstance(target, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name), value=value) if value is None or not _acts(value):
            return [name]
    return []


def _acts(value: ast.expr) -> bool:
    return any(isinstance(node, ast.Call | ast.NamedExpr | ast.Await) for node in ast.walk(value))


def _text(statement: ast.stmt) -> str:
    """A statement without places and docstrings."""
    for node in ast.walk(statement):
        if isinstance(node, NAMED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return ""  # the file's docstring
    return ast.dump(statement)
