"""Python objects that stand in a recipe where a path, or `file.py:name`, would.

An object is named by what it is and by a hash of its content: `object:Qwen3ForCausalLM-3f2a91bc01234567`. From there on
that name is a source like any other: it is hashed, written into recipe.yaml and shown. What it stands for is known to
this process alone, and for as long as the call it was given to lasts: a model is a directory it was saved into, data
are their rows, a function is itself. The same content has the same name wherever it is used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from offon.errors import ConfigError

OBJECT = "object:"

_HELD: dict[str, PythonObject] = {}
_CALLS: Counter[str] = Counter()  # calls that hold a name: two of them may be given the same object


@dataclass(frozen=True, eq=False)
class PythonObject:
    """name: object:KIND-HASH. value: what readers of the name are given. parts: name -> hash or count of what the
    content consists of, to say what differs."""

    name: str
    kind: str  # model | data | function
    value: Any
    parts: Mapping[str, str | int] = field(default_factory=dict)


def parts_file(name: str) -> str:
    """The file, in the folder of what a run was handed, that says what an object's content consists of."""
    return f"{name.removeprefix(OBJECT)}.json"


def is_object(source: Any) -> bool:
    return isinstance(source, str) and source.startswith(OBJECT)


def is_held(source: str) -> bool:
    return source in _HELD


def held(source: str) -> PythonObject:
    """The object behind a name; one that this process was not given is an error that says what to do."""
    if source in _HELD:
        return _HELD[source]
    raise ConfigError(
        f"{source} is a Python object, which has to be given again",
        why="a recipe's record names an object by its content and cannot make it",
        fix="from Python, offon.run(RECIPE, RUN, resume=True) with the object in its place",
    )


def stands_for(source: Any) -> Any:
    """The value behind an object's name; anything else is what it stands for."""
    return held(source).value if is_object(source) else source


@contextmanager
def holding(objects: Mapping[str, PythonObject]) -> Iterator[None]:
    """While it lasts, the names stand for these objects."""
    _HELD.update(objects)
    _CALLS.update(objects.keys())
    try:
        yield
    finally:
        _CALLS.subtract(objects.keys())
        for name in [name for name in objects if _CALLS[name] <= 0]:
            _HELD.pop(name, None)
            del _CALLS[name]
