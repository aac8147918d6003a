"""Reading one document: values in range, paths that exist, references to nodes. Problems are collected."""

from __future__ import annotations

import difflib
import os
import re
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from offon.catalogue.arguments import Edge, Names, visited
from offon.errors import ConfigError, DataError, ModelError, OffonError, Problems, nearest_path
from offon.objects import held, is_object
from offon.recipe.fields import Lora, keys_of
from offon.recipe.resolved import Input
from offon.recipe.trl import INSTEAD, RENAMED
from offon.recipe.values import NotAllowed, checked
from offon.recipe.yaml_reader import Document, Keys, flow, parse

BAD = object()  # stands for a value whose problem has been noted
HUB_ID = r"[A-Za-z0-9][\w.\-]*(/[\w.\-]+)?"
DATA_FILES = (".jsonl", ".json", ".parquet", ".csv", ".arrow")
EXPLICIT_PATH = ("./", "../", "~", "/")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {close[0]}?" if close else ""


class Reader:
    """`edges` collects which node reads which, as references are met."""

    def __init__(self, document: Document):
        self.document = document
        self.problems: list[OffonError] = []
        self.notes: list[str] = []
        self.edges: dict[str, list[str]] = {}

    @property
    def nodes(self) -> Mapping[str, Any]:
        pipeline = self.document.data.get("pipeline")
        return pipeline if isinstance(pipeline, dict) else {}

    def problem(self, what: str, position: Keys, *, of: str = "key", kind: type = ConfigError, why="", fix="") -> Any:
        self.problems.append(kind(what, where=self.document.place(position, of=of), why=why, fix=fix))
        return BAD

    def raise_problems(self) -> None:
        if self.problems:
            raise self.problems[0] if len(self.problems) == 1 else Problems(self.problems)

    def unknown(self, key: str, position: Keys, known: Iterable[str], *, why: str = "", elsewhere: str = "") -> None:
        """An unknown key, with what the reader most likely meant."""
        words = {name: name for name in known}
        words |= {theirs: ours for theirs, ours in RENAMED.items() if ours in words and theirs not in words}
        close = difflib.get_close_matches(key, list(words), n=1)
        if key in INSTEAD:
            fix = INSTEAD[key]
        elif close:
            fix = f"did you mean {words[close[0]]}?"
        else:
            fix = elsewhere
        self.problem(f"unknown key {key!r}", position, why=why, fix=fix)

    # ---- values

    def value(self, annotation: Any, value: Any, position: Keys) -> Any:
        try:
            return checked(annotation, value)
        except NotAllowed as allowed:
            return self._not_allowed(value, position, str(allowed))

    def _not_allowed(self, value: Any, position: Keys, allowed: str) -> Any:
        shown = textwrap.shorten(flow(value), 60, placeholder=" ...")
        return self.problem(f"{position[-1]}: {shown} is not allowed", position, of="value", why=f"allowed: {allowed}")

    def section(self, section: type, value: Any, position: Keys) -> dict[str, Any] | Any:
        """A mapping read against a dataclass: its known keys, each in range."""
        keys = keys_of(section)
        if not isinstance(value, Mapping):
            return self._not_allowed(value, position, "a mapping of " + ", ".join(keys))
        for key in value:
            if key not in keys:
                self.unknown(key, (*position, key), keys, why=f"{position[-1]} has {', '.join(keys)}")
        return {key: self.value(keys[key], value[key], (*position, key)) for key in keys if key in value}

    def lora(self, value: Any, position: Keys) -> Lora | None | Any:
        if value is None or isinstance(value, bool):
            return Lora() if value else None
        before = len(self.problems)
        given = self.section(Lora, value, position)
        return BAD if len(self.problems) > before else Lora(**given)

    # ---- paths and references

    def located(self, value: Any, position: Keys, kind: type[OffonError]) -> Any:
        """A model or data: $node, testbed:NAME, an existing path (absolute from here on), or a Hub id."""
        if not isinstance(value, str | Path) or not str(value).strip():
            return self._not_allowed(value, position, "a path, a Hub id, testbed:NAME, or $node")
        text = str(value)
        if text.startswith("$"):
            return self.reference(text, position)
        if text.startswith("testbed:"):
            return text
        if is_object(text):
            return self.object(text, position)
        path = self._absolute(text, position)
        if path.exists():
            return str(path)
        return text if self._hub(text, kind) else self._missing(text, path, position, kind)

    @staticmethod
    def _hub(text: str, kind: type[OffonError]) -> bool:
        file = kind is DataError and text.endswith(DATA_FILES)
        return not text.startswith(EXPLICIT_PATH) and not file and re.fullmatch(HUB_ID, text) is not None

    def _absolute(self, text: str, position: Keys) -> Path:
        return Path(os.path.normpath(self.document.folder_of(position) / Path(text).expanduser()))

    def _missing(self, text: str, path: Path, position: Keys, kind: type[OffonError]) -> Any:
        fix = nearest_path(path)
        if Path(text).expanduser().exists():
            fix = f"paths are relative to the recipe's folder: {os.path.relpath(Path(text), self.document.folder)}"
        return self.problem(f"local path does not exist: {path}", position, of="value", kind=kind, fix=fix)

    def path(self, text: str, position: Keys, kind: type[OffonError] = ConfigError) -> Any:
        """A path that has to exist. `file.py:function` keeps its function."""
        if is_object(text):
            return self.object(text, position)
        name, colon, function = text.partition(".py:")
        path = self._absolute(name + ".py" if colon else text, position)
        if not path.exists():
            return self._missing(name + ".py" if colon else text, path, position, kind)
        return f"{path}:{function}" if colon else str(path)

    def object(self, text: str, position: Keys) -> Any:
        """The name of a Python object, which this process has to have been given. One that is missing is told once."""
        try:
            return held(text).name
        except OffonError as error:
            if any(problem.what == error.what for problem in self.problems):
                return BAD
            return self.problem(error.what, position, of="value", why=error.why, fix=error.fix)

    def reference(self, text: str, position: Keys) -> Any:
        """$node, noted as an edge from the node at this position (or from the recipe's own keys)."""
        name = text[1:]
        if name not in self.nodes:
            close = did_you_mean(name, self.nodes).replace("mean ", "mean $")
            fix = close or f"nodes: {', '.join(self.nodes) or 'none'}"
            return self.problem(f"{text} refers to no node", position, of="value", fix=fix)
        reader = str(position[1]) if position[0] == "pipeline" else ""
        self.edges.setdefault(reader, []).append(name)
        return text

    def argument(self, annotation: Any, value: Any, position: Keys, edge: Edge, found: list[Input]) -> Any:
        """An argument with the models, data and files that it names located, and appended to `found`.

        What a text names is said by the annotation; without a word of it, $node and explicit paths are recognised, and
        `edge` is what they are to the node.
        """

        def visit(names: Names | None, text: str, place: Keys) -> Any:
            if names is not None:
                located = self.located(text, place, ModelError if names.what == "model" else DataError)
            elif text.startswith("$"):
                located = self.reference(text, place)
            elif text.startswith(EXPLICIT_PATH):
                located = self.path(text, place)
            else:
                return text
            found.append(Input(names.edge if names else edge, located))
            return located

        return visited(annotation, value, visit, position)

    def task(self, value: Any, position: Keys) -> Any:
        """A task as `offon.tasks` reads it: "gym:chain_sum", or a mapping. Only its paths are resolved here."""
        if isinstance(value, str):
            kind, _, rest = value.partition(":")
            if kind in ("jsonl", "python") and rest:
                first, *options = (part.partition("=") for part in f"{kind}={rest}".split(","))
                named = [f"{key}{equals}{self._task_path(key, inner, position)}" for key, equals, inner in options]
                return f"{kind}:" + ",".join([str(self._task_path(kind, first[2], position)), *named])
            return value
        if isinstance(value, bool | int | float | list | None):
            return self._not_allowed(value, position, "gym:NAME, or a mapping like {gym: NAME, ...}")
        if not isinstance(value, Mapping):
            return value  # a Task of the caller's
        return {key: self._task_path(key, inner, (*position, key)) for key, inner in value.items()}

    def _task_path(self, key: str, value: Any, position: Keys) -> Any:
        if not isinstance(value, str):
            return value
        data = key in ("jsonl", "data", "heldout") and value.endswith(DATA_FILES)
        file = is_object(value) or data or ".py:" in value or value.startswith(EXPLICIT_PATH)
        return self.path(value, position, DataError) if file else value


def located_model(text: str) -> str:
    """A model named on the command line: an existing path made absolute, testbed:NAME, or a Hub id."""
    reader = Reader(Document(data={}, name="MODEL", folder=Path.cwd()))
    model = reader.located(text, ("MODEL",), ModelError)
    reader.raise_problems()
    return model


def located_task(text: str) -> Any:
    """A task named on the command line: gym:chain_sum,max_terms=2, or a mapping in YAML: {gym: chain_sum}."""
    document = parse(f"task: {text}", name="--task")
    reader = Reader(document)
    task = reader.task(document.data["task"], ("task",))
    reader.raise_problems()
    return task
