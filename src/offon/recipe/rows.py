"""The rows that a recipe names: looked up, what is written for them matched with their signatures, and composed."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from offon.catalogue.arguments import names_of
from offon.errors import OffonError
from offon.objects import is_object
from offon.recipe import fields
from offon.recipe.fields import MakeSettings, NodeSettings
from offon.recipe.problems import BAD, Reader, did_you_mean
from offon.recipe.references import References
from offon.recipe.resolved import Input, Modifier
from offon.recipe.trl import RENAMED
from offon.recipe.values import annotation_of
from offon.recipe.yaml_reader import Keys

SECTIONS = {"stage": NodeSettings, "make": MakeSettings}  # the settings of a node, by its method's kind
KEYS = {kind: fields.keys_of(section) for kind, section in SECTIONS.items()}
ANY = KEYS["stage"] | KEYS["make"]
EDGES = {name: name for name in ("init", "teacher", "data", "reward", "reference")} | {"model": "init"}
Given = dict[str, tuple[Any, Keys]]  # key -> what was written, and where


class Rows:
    """The catalogue as one recipe uses it; an entry is a `MethodInfo`, `info` below."""

    def __init__(self, reader: Reader, references: References, registry: Any = None):
        self.reader, self.references = reader, references
        self._registry = registry

    @property
    def registry(self) -> Any:
        """The catalogue, imported only once a recipe names a method: it brings torch with it."""
        if self._registry is None:
            from offon.catalogue import registry

            self._registry = registry
        return self._registry

    # ---- which row

    def named(self, name: Any, position: Keys, *kinds: str) -> tuple[str, Any]:
        """The catalogue's entry for a method or modifier, or for a function in a file; (name, None) after a problem."""
        problem, known = self.reader.problem, self.registry.names(*kinds)
        word = "modifier" if "modifier" in kinds else "method"
        if not isinstance(name, str):
            problem(f"{word}: {name!r} is not a name", position, of="value", fix=f"one of {', '.join(known)}")
            return "", None
        if ":" in name:
            name = self.references.path(name, position)
            if name is BAD:
                return "", None
        elif name not in known and (kind := self._other_kind(name)):
            how = f"with: [{name}]" if kind == "modifier" else f"a node of its own: {{method: {name}, ...}}"
            problem(f"{name} is a {kind}, not a {word}", position, of="value", fix=how)
            return name, None
        elif name not in known:
            fix = f"{did_you_mean(name, known)} known: {', '.join(known)}, or ./file.py:NAME".strip()
            problem(f"unknown {word} {name!r}", position, of="value", fix=fix)
            return name, None
        try:
            info = self.registry.get(name)
            info.arguments  # noqa: B018  a signature that cannot be read is a problem of this line
        except OffonError as error:
            problem(error.what, position, of="value", why=error.why, fix=error.fix)
        except Exception as error:
            problem(f"{name} cannot be imported", position, of="value", why=f"{type(error).__name__}: {error}")
        else:
            if info.kind in kinds:
                return name, info
            problem(f"{name} is a {info.kind}, not a {word}", position, of="value")
        return name, None

    def _other_kind(self, name: str) -> str | None:
        kinds = ("stage", "modifier", "make", "loop")
        return next((kind for kind in kinds if name in self.registry.names(kind)), None)

    def info_of(self, node: Any) -> Any:
        """The entry of a node's method, without a word about problems: None where there is none."""
        method = node.get("method") if isinstance(node, Mapping) else None
        if isinstance(method, str) and ":" in method and not is_object(method):
            name, _, function = method.partition(".py:")
            method = f"{self.references.absolute(name + '.py', ('pipeline',))}:{function}"
        elif not is_object(method) and method not in self.registry.names("stage", "make", "loop"):
            return None
        with contextlib.suppress(Exception):  # what is wrong with a file is a problem where the node is resolved
            return self.registry.get(method)
        return None

    def kind_of(self, node: Any) -> str | None:
        """What a node's method is (stage, make, loop); None where that cannot be told."""
        info = self.info_of(node)
        return info and info.kind

    # ---- what is written for it

    def entries(self, keys: Mapping[str, Any], position: Keys, info: Any, settings: Iterable[str]) -> Given:
        """What a node with a method says, TRL's words renamed, unknown keys refused."""
        arguments = info.arguments if info else {}
        known = [*arguments, *settings, "method", *(["with"] if info is None or info.kind == "stage" else [])]
        given: Given = {}
        for key, value in keys.items():
            place = (*position, key)
            name = key if key in known else RENAMED.get(key, key)
            if name not in known:
                if info is not None:  # without the method its arguments are unknown too
                    self.reader.unknown(key, place, known, **self._advice(key, keys["method"]))
            elif name in given:
                what = f"{given[name][1][-1]} and {key} are the same setting"
                self.reader.problem(what, place, fix=f"keep {name}")
            else:
                if name != key:
                    self.reader.notes.append(f"{self.reader.document.place(place)}: {key} is called {name} here")
                given[name] = (value, place)
        return given

    def _advice(self, key: str, method: str) -> dict[str, str]:
        names = self.registry.names("stage", "make", "loop")
        owners = [name for name in names if key in self.registry.get(name).arguments]
        why = f"{key} belongs to {', '.join(owners)}; this node's method is {method}" if owners else ""
        return {"why": why, "elsewhere": f"`offon methods {method}` lists what it takes"}

    def modifiers(self, items: Any, position: Keys) -> tuple[tuple[Modifier, ...], list[Input]]:
        """The items of `with`, and the models and files among their arguments."""
        form = "with: [{kl_anchor: {coef: 0.05}}]"
        if not isinstance(items, list):
            self.reader.problem("with is not a list", position, of="value", fix=form)
            return (), []
        modifiers, inputs = [], []
        for index, item in enumerate(items):
            place = (*position, index)
            item = {item: None} if isinstance(item, str) else item
            if not isinstance(item, dict) or len(item) != 1:
                what = "an item of with is one modifier and its arguments"
                self.reader.problem(what, place, of="value", fix=form)
                continue
            ((written, values),) = item.items()
            place = (*place, written)
            name, info = self.named(written, place, "modifier")
            if info is None:
                continue
            if not isinstance(values or {}, dict):
                self.reader.problem(f"{written} takes named arguments", place, of="value", fix=form)
                continue
            given = {key: (value, (*place, key)) for key, value in (values or {}).items()}
            for key, (_, where) in given.items():
                if key not in info.arguments:
                    takes = f"{written} takes {', '.join(info.arguments) or 'no arguments'}"
                    self.reader.unknown(key, where, info.arguments, why=takes)
            arguments, named = self.arguments(info.arguments, info.name, given, place)
            modifiers.append(Modifier(name, arguments))
            inputs += named
        return tuple(modifiers), inputs

    def arguments(
        self, parameters: Mapping[str, inspect.Parameter], owner: str, given: Given, position: Keys
    ) -> tuple[dict[str, Any], list[Input]]:
        """A value for each parameter of a row, modifier or function, defaults included, and the models and files among
        them."""
        values, inputs = {}, []
        for name, parameter in parameters.items():
            if name not in given and parameter.default is inspect.Parameter.empty:
                self.reader.problem(f"{owner} needs {name}", position, fix=f"add {name}: ...")
            elif name in given or isinstance(parameter.default, bool | int | float | str | tuple):
                named: list[Input] = []
                annotation = annotation_of(parameter)
                value, place = given.get(name, (parameter.default, position))
                if name in given or names_of(annotation):
                    edge = EDGES.get(name, "reference")
                    value, named = self.references.argument(annotation, value, place, edge)
                if any(source.source is BAD for source in named):
                    value = BAD
                elif name in given:
                    value = self.reader.value(annotation, value, place)
                values[name] = value
                inputs += named
        return values, inputs

    # ---- what comes of it

    def composed(
        self,
        info: Any,
        values: Mapping[str, Any],
        arguments: Mapping[str, Any],
        modifiers: Sequence[Modifier],
        position: Keys,
    ) -> Any:
        """The stage, with names standing for what it will be given; None and a problem if its parts cannot work
        together."""
        missing = [name for name, needed in info.inputs.items() if needed and values.get(name) is None]
        if missing:
            fix = ", ".join(f"{name}: ..." for name in missing)
            self.reader.problem(f"method {info.name} needs {' and '.join(missing)}", position, fix=f"add {fix}")
            return None
        inputs = {name: values[name] for name in info.inputs if values.get(name) is not None}
        name, place = info.name, position
        try:
            stage = info.composed(**inputs, **arguments)
            for index, modifier in enumerate(modifiers):
                name, place = modifier.name, (*position, "with", index, modifier.name)
                stage = self.registry.get(name).function(stage, **modifier.arguments)
            name, place = info.name, position
            return stage.validate()
        except OffonError as error:
            self.reader.problem(error.what, place, why=error.why, fix=error.fix)
        except Exception as error:
            self.reader.problem(f"{name} cannot be composed", place, why=f"{type(error).__name__}: {error}")
        return None
