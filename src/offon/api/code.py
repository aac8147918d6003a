"""A hash of what a function does: its source as a syntax tree, and the values that it brings along.

Formatting, comments and docstrings do not count. Defaults, closures, a partial's arguments and the state of the object
that a method is bound to count by their content, and one that has none that can be read is refused. So do the plain
values, functions and classes of its own file that it names; what else it names (modules, a client, a logger) counts by
its name and type.
"""

from __future__ import annotations

import ast
import functools
import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any

from offon.api import content, kinds
from offon.errors import ConfigError

FIX = "write it as a function in a file and name that: ./file.py:NAME"
CALLABLES = (functools.partial, types.MethodType, types.FunctionType, types.BuiltinFunctionType)
PLAIN = (bool, int, float, str, bytes, type(None))


def parts_of(function: Callable[..., Any]) -> dict[str, str]:
    """code: of the source. values: of everything else that is brought along."""
    reader = _Reader(_label(function))
    reader.function(function)
    return {"code": content.hashed(*reader.code), "values": content.hashed(*reader.values)}


def _label(function: Any) -> str:
    return getattr(function, "__qualname__", None) or type(function).__qualname__


class _Reader:
    """Walks from one function to whatever it brings along, each once."""

    def __init__(self, label: str):
        self.label = label
        self.code: list[str] = []
        self.values: list[str] = []
        self._seen: dict[int, Any] = {}  # kept alive, so that no id is used twice

    def refuse(self, what: str, why: str) -> ConfigError:
        return ConfigError(f"{self.label}: {what}", why=why, fix=FIX)

    def function(self, function: Any) -> None:
        if id(function) in self._seen:
            self.values.append("again")
            return
        if not isinstance(function, CALLABLES) and not inspect.isclass(function):
            self.value("itself", function)  # an object with __call__
            return
        self._seen[id(function)] = function
        if isinstance(function, functools.partial):
            self.value("an argument of its partial", [list(function.args), dict(function.keywords)])
            self.function(function.func)
        elif isinstance(function, types.MethodType):
            self.value("the object it is bound to", function.__self__)
            self.function(function.__func__)
        elif isinstance(function, types.FunctionType):
            self._python(function)
        elif inspect.isclass(function):
            self.code.append(self._class_source(function))
        else:  # written in C
            self.code.append(f"{function.__module__}.{function.__qualname__}")

    def _python(self, function: types.FunctionType) -> None:
        self.code.append(normalised(self._node(function)))
        for name, value in [*enumerate(function.__defaults__ or ()), *sorted((function.__kwdefaults__ or {}).items())]:
            self.value(f"its default {name}", value)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                value = cell.cell_contents
            except ValueError:  # not bound yet
                self.values.append(f"{name} unbound")
            else:
                self.value(f"{name}, which it closes over", value)
        for name in sorted(_names(function.__code__) & function.__globals__.keys()):
            self._global(function, name, function.__globals__[name])

    def _global(self, function: types.FunctionType, name: str, value: Any) -> None:
        """Something of its file: what is plain, and what was written there, by content."""
        own_file = getattr(value, "__module__", None) == function.__module__
        if own_file and isinstance(value, types.FunctionType):
            self.function(value)
        elif own_file and inspect.isclass(value) and (source := class_source(value)):
            self.code.append(source)
        elif isinstance(value, types.ModuleType | types.FunctionType | type):
            self.values.append(f"{name} is {value.__name__} of {getattr(value, '__module__', '')}")
        else:
            try:
                self.values.append(f"{name} {content.of_values(value)}")
            except (TypeError, ValueError):
                self.values.append(f"{name} is a {type(value).__qualname__}")

    def value(self, what: str, value: Any) -> None:
        """A value by its content, or a refusal that says which one has none."""
        if isinstance(value, PLAIN):
            self.values.append(repr(value))
        elif isinstance(value, list | tuple):
            self.values.append(f"{type(value).__name__} of {len(value)}")
            for item in value:
                self.value(what, item)
        elif isinstance(value, Mapping):
            self.values.append(f"mapping of {len(value)}")
            for key, item in value.items():
                self.value(what, key)
                self.value(what, item)
        elif isinstance(value, types.ModuleType):
            self.values.append(f"module {value.__name__}")
        elif isinstance(value, CALLABLES):
            self.function(value)
        elif inspect.isclass(value):
            self.values.append(f"class {value.__module__}.{value.__qualname__}")
        else:
            self._object(what, value)

    def _object(self, what: str, value: Any) -> None:
        ways = {kinds.is_model: content.of_weights, kinds.is_tokenizer: content.of_tokenizer}
        ways |= {kinds.is_dataset: content.of_rows}
        of_value = next((way for applies, way in ways.items() if applies(value)), content.of_values)
        try:
            self.values.append(f"{type(value).__qualname__} {of_value(value)}")
            return
        except (TypeError, ValueError):
            pass
        if id(value) in self._seen:
            self.values.append("again")
            return
        self._seen[id(value)] = value
        state = getattr(value, "__dict__", None)
        if state is None or any(vars(base).get("__slots__") for base in type(value).__mro__):
            why = "its content cannot be read, so a resumed run could not tell whether it was given the same again"
            raise self.refuse(f"{what} is a {type(value).__qualname__}", why)
        self.code.append(self._class_source(type(value)))
        self.value(what, dict(sorted(state.items())))

    def _class_source(self, cls: type) -> str:
        source = class_source(cls)
        if not source:
            raise self.refuse(f"the source of {cls.__qualname__} is not there", "it was not read from a file")
        return source

    def _node(self, function: types.FunctionType) -> ast.AST:
        kind = ast.Lambda if function.__name__ == "<lambda>" else ast.FunctionDef | ast.AsyncFunctionDef
        try:
            tree = _tree(function)
        except (OSError, TypeError, SyntaxError) as error:
            raise self.refuse("its source is not there", "it was typed into an interpreter or made by code") from error
        line = function.__code__.co_firstlineno
        definitions = [node for node in ast.walk(tree) if isinstance(node, kind) and _first_line(node) == line]
        if not definitions:
            raise self.refuse("its source has changed since it was imported", f"line {line} holds no such function")
        if len(definitions) > 1:
            raise self.refuse(f"line {line} holds {len(definitions)} lambdas", "which of them it is cannot be told")
        return definitions[0]


def class_source(cls: type) -> str:
    """A class as a syntax tree; "" where its source is not there."""
    try:
        _, line = inspect.getsourcelines(cls)
        nodes = [node for node in ast.walk(_tree(cls)) if isinstance(node, ast.ClassDef) and _first_line(node) == line]
    except (OSError, TypeError, SyntaxError):
        nodes = []
    return normalised(nodes[0]) if nodes else ""


def _tree(thing: Any) -> ast.Module:
    lines, _ = inspect.findsource(thing)
    return ast.parse("".join(lines))


def _first_line(node: Any) -> int:
    first: int = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", ()))])
    return first


def _names(code: types.CodeType) -> set[str]:
    """Names that a function looks up outside itself, the functions inside it included."""
    inner = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return set(code.co_names).union(*map(_names, inner))


def normalised(node: ast.AST) -> str:
    """A syntax tree as text, without places and docstrings."""
    tree = ast.parse(ast.unparse(node))
    for inner in ast.walk(tree):
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and ast.get_docstring(inner):
            inner.body = inner.body[1:]
    return ast.dump(tree)
