"""What the values of a recipe name: models, data, files, tasks and other nodes.

A path becomes absolute and has to exist. $node becomes an edge, from which the order of the nodes follows.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from offon.catalogue.arguments import Edge, Names, visited
from offon.errors import ConfigError, DataError, ModelError, OffonError, nearest_path
from offon.objects import held, is_object
from offon.recipe.problems import BAD, Reader, did_you_mean
from offon.recipe.resolved import Input, Node
from offon.recipe.yaml_reader import Document, Keys, parse

HUB_ID = r"[A-Za-z0-9][\w.\-]*(/[\w.\-]+)?"
DATA_FILES = (".jsonl", ".json", ".parquet", ".csv", ".arrow")
EXPLICIT_PATH = ("./", "../", "~", "/")

NO_NODE = "refers to no node"


class References:
    """Follows what the values of one document name. `edges` is which node reads which, filled as references are met."""

    def __init__(self, reader: Reader):
        self.reader = reader
        self.edges: dict[str, list[str]] = {}

    # ---- models, data and files

    def located(self, value: Any, position: Keys, kind: type[OffonError]) -> Any:
        """A model or data: $node, testbed:NAME, an existing path (absolute from here on), or a Hub id."""
        if not isinstance(value, str | Path) or not str(value).strip():
            return self.reader.not_allowed(value, position, "a path, a Hub id, testbed:NAME, or $node")
        text = str(value)
        if text.startswith("$"):
            return self.node(text, position)
        if text.startswith("testbed:"):
            return text
        if is_object(text):
            return self.object(text, position)
        path = self.absolute(text, position)
        if path.exists():
            return str(path)
        return text if self._on_hub(text, kind) else self._missing(text, path, position, kind)

    @staticmethod
    def _on_hub(text: str, kind: type[OffonError]) -> bool:
        file = kind is DataError and text.endswith(DATA_FILES)
        return not text.startswith(EXPLICIT_PATH) and not file and re.fullmatch(HUB_ID, text) is not None

    def absolute(self, text: str, position: Keys) -> Path:
        """Paths are relative to the folder of the recipe that wrote them."""
        return Path(os.path.normpath(self.reader.document.folder_of(position) / Path(text).expanduser()))

    def _missing(self, text: str, path: Path, position: Keys, kind: type[OffonError]) -> Any:
        fix = nearest_path(path)
        if Path(text).expanduser().exists():
            folder = self.reader.document.folder
            fix = f"paths are relative to the recipe's folder: {os.path.relpath(Path(text), folder)}"
        what = f"local path does not exist: {path}"
        return self.reader.problem(what, position, of="value", kind=kind, fix=fix)

    def path(self, text: str, position: Keys, kind: type[OffonError] = ConfigError) -> Any:
        """A path that has to exist. `file.py:function` keeps its function."""
        if is_object(text):
            return self.object(text, position)
        name, colon, function = text.partition(".py:")
        path = self.absolute(name + ".py" if colon else text, position)
        if not path.exists():
            return self._missing(name + ".py" if colon else text, path, position, kind)
        return f"{path}:{function}" if colon else str(path)

    def object(self, text: str, position: Keys) -> Any:
        """The name of a Python object, which this process has to have been given. One that is missing is told once."""
        try:
            return held(text).name
        except OffonError as error:
            if any(problem.what == error.what for problem in self.reader.problems):
                return BAD
            return self.reader.problem(error.what, position, of="value", why=error.why, fix=error.fix)

    def argument(self, annotation: Any, value: Any, position: Keys, edge: Edge) -> tuple[Any, list[Input]]:
        """An argument with the models, data and files that it names located, and these as inputs of its node.

        What a text names is said by the annotation; without a word of it, $node and explicit paths are recognised, and
        `edge` is what they are to the node.
        """
        inputs: list[Input] = []

        def visit(names: Names | None, text: str, place: Keys) -> Any:
            if names is not None:
                located = self.located(text, place, ModelError if names.what == "model" else DataError)
            elif text.startswith("$"):
                located = self.node(text, place)
            elif text.startswith(EXPLICIT_PATH):
                located = self.path(text, place)
            else:
                return text
            inputs.append(Input(names.edge if names else edge, located))
            return located

        return visited(annotation, value, visit, position), inputs

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
            return self.reader.not_allowed(value, position, "gym:NAME, or a mapping like {gym: NAME, ...}")
        if not isinstance(value, Mapping):
            return value  # a Task of the caller's
        return {key: self._task_path(key, inner, (*position, key)) for key, inner in value.items()}

    def _task_path(self, key: str, value: Any, position: Keys) -> Any:
        if not isinstance(value, str):
            return value
        data = key in ("jsonl", "data", "heldout") and value.endswith(DATA_FILES)
        file = is_object(value) or data or ".py:" in value or value.startswith(EXPLICIT_PATH)
        return self.path(value, position, DataError) if file else value

    # ---- other nodes

    def node(self, text: str, position: Keys) -> Any:
        """$node, noted as an edge into the node at this position (or into the recipe's own keys)."""
        name, nodes = text[1:], self.reader.nodes
        if name not in nodes:
            close = did_you_mean(name, nodes).replace("mean ", "mean $")
            fix = close or f"nodes: {', '.join(nodes) or 'none'}"
            return self.reader.problem(f"{text} {NO_NODE}", position, of="value", fix=fix)
        self.add_edge(text, str(position[1]) if position[0] == "pipeline" else "")
        return text

    def add_edge(self, source: Any, node: str) -> None:
        """A node reads this source: an edge, if the source is a node too."""
        if isinstance(source, str) and source.startswith("$"):
            self.edges.setdefault(node, []).append(source[1:])

    def may_be_adapter(self, source: Any, model: str | None, depth: int = 0) -> frozenset[bool]:
        """Whether a source carries an adapter that a stage trained, which is then continued: one answer, or both where
        a gate may go either way. model: what nodes start from that name no init."""
        nodes = self.reader.nodes
        earlier = nodes.get(source[1:]) if isinstance(source, str) and source.startswith("$") else None
        if not isinstance(earlier, Mapping) or depth > len(nodes):  # deeper: a circle, refused where nodes are ordered
            return frozenset({False})
        if "gate" in earlier:
            sides = [earlier["gate"]]
            if earlier.get("on_fail") == "rollback":
                candidate = nodes.get(str(earlier["gate"]).removeprefix("$")) or {}
                sides.append(earlier.get("init", candidate.get("init", model)))
            return frozenset().union(*(self.may_be_adapter(side, model, depth + 1) for side in sides))
        if earlier.get("lora"):
            return frozenset({True})
        return self.may_be_adapter(earlier.get("init", model), model, depth + 1)

    def ordered(self, nodes: Sequence[Node]) -> list[Node]:
        """Each node after what it reads, otherwise as written."""
        reads = {node.name: [*self.edges.get(node.name, ())] for node in nodes}
        waiting, done = {node.name: node for node in nodes}, []
        while waiting:
            ready = next((name for name in waiting if not any(read in waiting for read in reads[name])), None)
            if ready is None:
                circle = [next(iter(waiting))]
                while circle.count(circle[-1]) < 2:
                    circle.append(next(read for read in reads[circle[-1]] if read in waiting))
                circle = circle[circle.index(circle[-1]) :]
                what = f"nodes wait for each other: {' -> '.join(circle)}"
                self.reader.problem(what, ("pipeline", circle[0]))
                return done
            done.append(waiting.pop(ready))
        return done


def located_model(text: str) -> str:
    """A model named on the command line: an existing path made absolute, testbed:NAME, or a Hub id."""
    reader = Reader(Document(data={}, name="MODEL", folder=Path.cwd()))
    model = References(reader).located(text, ("MODEL",), ModelError)
    reader.raise_problems()
    return model


def located_task(text: str) -> Any:
    """A task named on the command line: gym:chain_sum,max_terms=2, or a mapping in YAML: {gym: chain_sum}."""
    document = parse(f"task: {text}", name="--task")
    reader = Reader(document)
    task = References(reader).task(document.data["task"], ("task",))
    reader.raise_problems()
    return task
