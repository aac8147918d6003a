"""Models and data among a row's arguments: what an annotation says that a piece of text names.

    def kl_anchor(stage, *, to: ModelArg | None = None, coef: float = 0.05)        # Artefact(to)
    def multi_teacher(task, *, teachers: Mapping[str, TeacherArg])                 # one ModelRef each
    def replay(stage, *, data: DataArg, share: float = 0.1)                        # a list of Group

A recipe writes $node, a path, testbed:NAME or a Hub id. Each becomes an edge of the node and part of its hash.

A row is first called with the text as it stands, to see its parts, and when it runs with

    ModelArg, TeacherArg, RewardArg   the text, to be wrapped as Artefact(text): models are loaded by who needs them
    DataArg                           demonstrations, as groups of one member
    PairsArg                          preference pairs, as groups of two
    ArtefactArg                       the path of the directory that a node made
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

Edge = Literal["init", "teacher", "data", "reward", "reference"]


@dataclass(frozen=True)
class Names:
    """What the text of an argument names, and the edge it makes into the node."""

    what: Literal["model", "demonstrations", "pairs", "artefact"]
    edge: Edge


ModelArg = Annotated[str, Names("model", "reference")]
TeacherArg = Annotated[str, Names("model", "teacher")]
RewardArg = Annotated[str, Names("model", "reward")]
DataArg = Annotated[Any, Names("demonstrations", "data")]
PairsArg = Annotated[Any, Names("pairs", "data")]
ArtefactArg = Annotated[str, Names("artefact", "reference")]

Place = tuple[str | int, ...]
Visit = Callable[[Names | None, str, Place], Any]  # (what it names or None, the text, where it stands) -> its value


def visited(annotation: Any, value: Any, visit: Visit, place: Place = ()) -> Any:
    """The value with `visit(...)` in place of every text in it, inside lists and mappings too."""
    if isinstance(value, str):
        return visit(names_of(annotation), value, place)
    if isinstance(value, Mapping):
        inner = _inside(annotation, Mapping)
        return {key: visited(inner, item, visit, (*place, key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        inner = _inside(annotation, Sequence)
        return type(value)(visited(inner, item, visit, (*place, index)) for index, item in enumerate(value))
    return value


def names_of(annotation: Any) -> Names | None:
    """The mark of an annotation, also where it is one of several: ModelArg | None."""
    if typing.get_origin(annotation) is Annotated:
        return next((mark for mark in annotation.__metadata__ if isinstance(mark, Names)), None)
    return next(filter(None, map(names_of, _alternatives(annotation))), None)


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if union else ()


def _inside(annotation: Any, container: type) -> Any:
    """What a list or mapping of this annotation holds: ModelArg for list[ModelArg] and Mapping[str, ModelArg]."""
    for alternative in _alternatives(annotation) or (annotation,):
        origin = typing.get_origin(alternative)
        if isinstance(origin, type) and issubclass(origin, container):
            return typing.get_args(alternative)[-1 if container is Mapping else 0]
    return None
