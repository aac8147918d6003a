"""One value against one annotation: pydantic decides, the message says what is allowed.

Numbers may be written as text ("1e-5"), since shells and templates do; a boolean is never a number and a number never
a boolean; nan and infinity are refused.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from offon.catalogue.arguments import names_of

_CONFIG = ConfigDict(allow_inf_nan=False, arbitrary_types_allowed=True)
_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}


class NotAllowed(ValueError):
    """The text says what would have been allowed."""


def checked(annotation: Any, value: Any) -> Any:
    """The value as the annotation reads it (1 as 1.0, a list as a tuple), or NotAllowed."""
    adapter = TypeAdapter(annotation, config=None if _is_mapping_type(annotation) else _CONFIG)
    try:
        result = adapter.validate_python(value)
    except ValidationError as error:
        raise NotAllowed(described(annotation)) from error
    if not _booleans_agree(value, result):
        raise NotAllowed(described(annotation))
    return result


def _is_mapping_type(annotation: Any) -> bool:
    return dataclasses.is_dataclass(annotation) or typing.is_typeddict(annotation) or _is_model(annotation)


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _booleans_agree(value: Any, result: Any) -> bool:
    """pydantic reads true as 1 and "yes" as true; a recipe means what it says."""
    if isinstance(value, list | tuple) and isinstance(result, list | tuple):
        return all(map(_booleans_agree, value, result))
    if isinstance(value, Mapping) and isinstance(result, Mapping):
        return all(_booleans_agree(value[key], result[key]) for key in value if key in result)
    return isinstance(value, bool) == isinstance(result, bool)


def annotation_of(parameter: inspect.Parameter) -> Any:
    """What a parameter accepts: its annotation, or the type of its default where it has none."""
    if parameter.annotation is not inspect.Parameter.empty:
        return parameter.annotation
    default = parameter.default
    return type(default) if isinstance(default, bool | int | float | str | tuple) else Any


def described(annotation: Any) -> str:
    """int >= 1 -> "a whole number >= 1"; Literal -> "one of constant, linear, cosine"."""
    if annotation in _WORDS:
        return _WORDS[annotation]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated and (names := names_of(annotation)):
        return f"a {names.what}: a path, a Hub id, testbed:NAME, or $node"
    if origin is Annotated:
        bounds = [_bound(item) for item in arguments[1:] if isinstance(item, Ge | Gt | Le | Lt)]
        return " ".join([described(arguments[0]), " and ".join(bounds)]).strip()
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        return ", or ".join(described(argument) for argument in arguments)
    if origin is tuple and Ellipsis not in arguments and len(set(arguments)) == 1:
        return f"a list of {len(arguments)} values, each {described(arguments[0])}"
    if origin in (list, tuple, set, frozenset):
        kinds = [described(argument) for argument in arguments if argument is not Ellipsis]
        return "a list of: " + ", ".join(kinds)
    if origin in (dict, Mapping) or annotation is dict:
        return "a mapping"
    if dataclasses.is_dataclass(annotation):
        return "a mapping of " + ", ".join(field.name for field in dataclasses.fields(annotation))
    return getattr(annotation, "__name__", str(annotation))


def _bound(bound: Ge | Gt | Le | Lt) -> str:
    sign, name = {Ge: (">=", "ge"), Gt: (">", "gt"), Le: ("<=", "le"), Lt: ("<", "lt")}[type(bound)]
    return f"{sign} {getattr(bound, name):g}"
