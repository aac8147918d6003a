"""YAML as a record of names and values: strict, YAML 1.2 scalars, and the file and line of every key and value.

PyYAML speaks YAML 1.1, where `1e-5` is text, `no` is false and `010` is eight. Here `1e-5` is a number, only true and
false are booleans, a key written twice is an error and a tag (`!!python/...`) is refused. `<<: *anchor` merges work.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from offon.errors import ConfigError, OffonError, Problems, nearest_path

Keys = tuple[str | int, ...]  # a position in the recipe: ("pipeline", "rl", "with", 0)

_SCALARS = {  # tag: (pattern, first characters), the core schema of YAML 1.2
    "null": (r"~|null|Null|NULL|", "~nN"),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "merge": (r"<<", "<"),
}
_TAG = "tag:yaml.org,2002:"
UNWRITABLE = re.compile("[\0\ud800-\udfff]")  # escapes of YAML can name both


def _resolve_scalars(cls: type) -> type:
    for name, (pattern, first) in _SCALARS.items():
        characters = [*first, ""] if name == "null" else list(first)
        cls.add_implicit_resolver(_TAG + name, re.compile(f"^(?:{pattern})$"), characters)
    return cls


@_resolve_scalars
class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}


@_resolve_scalars
class _Dumper(yaml.SafeDumper):
    """Quotes whatever either version of YAML would not read back as text."""


def flow(value: Any) -> str:
    """A value on one line of YAML, read back the same by `parse` and by YAML 1.1 readers."""
    text = yaml.dump([value], Dumper=_Dumper, default_flow_style=True, width=10**9, sort_keys=False, allow_unicode=True)
    return text.strip()[1:-1]


@dataclass(frozen=True, kw_only=True)
class Document:
    """What a recipe says, and where it says it.

    data    plain Python values        keys, values  position -> "file:line" of the key and of its value
    folder  what relative paths are relative to; `typed` positions came from the command line, relative to the shell's
    """

    data: dict[str, Any]
    name: str
    folder: Path
    keys: Mapping[Keys, str] = field(default_factory=dict)
    values: Mapping[Keys, str] = field(default_factory=dict)
    typed: frozenset[Keys] = frozenset()

    def place(self, position: Keys, *, of: str = "key") -> str:
        """recipe.yaml:7 (pipeline.rl), the nearest enclosing place that was written down."""
        places = self.keys if of == "key" else self.values
        known = next((position[:n] for n in range(len(position), 0, -1) if position[:n] in places), None)
        inside = dotted(position if len(position) == 2 else position[:-1])  # of a node, the node itself
        return (self.name if known is None else places[known]) + (f" ({inside})" if inside else "")

    def with_nodes(self, name: str, nodes: Mapping[str, Any]) -> Document:
        """Nodes in place of one, in its place in the order; what they share with it is where it was written."""
        pipeline: dict[str, Any] = {}
        for other, value in self.data["pipeline"].items():
            pipeline |= nodes if other == name else {other: value}

        def copied(position: Keys) -> list[Keys]:
            return [("pipeline", node, *position[2:]) for node in nodes if position[:2] == ("pipeline", name)]

        return replace(
            self,
            data={**self.data, "pipeline": pipeline},
            keys={**self.keys, **{new: place for old, place in self.keys.items() for new in copied(old)}},
            values={**self.values, **{new: place for old, place in self.values.items() for new in copied(old)}},
            typed=self.typed | {new for old in self.typed for new in copied(old)},
        )

    def folder_of(self, position: Keys) -> Path:
        typed = any(position[:n] in self.typed for n in range(1, len(position) + 1))
        return Path.cwd() if typed else self.folder


def dotted(position: Keys) -> str:
    return ".".join(map(str, position))


def read(path: str | Path) -> Document:
    path = Path(path).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"recipe {path} is a folder" if path.is_dir() else f"recipe {path} does not exist",
            fix=nearest_path(path) or "offon run recipe.yaml",
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text", why=str(error), fix="a recipe is a YAML file") from error
    return parse(text, name=str(path), folder=path.absolute().parent)


def parse(text: str, *, name: str = "recipe", folder: Path | None = None) -> Document:
    """Text -> Document. All duplicate keys and refused tags are reported together."""
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ConfigError(
            "this is not YAML",
            where=f"{name}:{mark.line + 1}:{mark.column + 1}",
            why=": ".join(filter(None, (error.context, error.problem))),
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError("this is not YAML", where=name, why=str(error)) from error
    except RecursionError as error:
        raise ConfigError("nested too deeply to be read", where=name, fix="a flatter recipe") from error
    finally:
        loader.dispose()
    if not isinstance(root, yaml.MappingNode):
        kind = "nothing" if root is None else "a list" if isinstance(root, yaml.SequenceNode) else "a single value"
        raise ConfigError(f"a recipe is a mapping of keys to values, and this is {kind}", where=name)
    builder = _Builder(name)
    data = builder.mapping(loader, root, ())
    if builder.problems:
        raise Problems(builder.problems)
    return Document(data=data, name=name, folder=folder or Path.cwd(), keys=builder.keys, values=builder.values)


class _Builder:
    """Walks the node graph of one document; collects values, places and problems."""

    def __init__(self, name: str):
        self.name, self.keys, self.values, self.problems = name, {}, {}, []
        self.open: list[yaml.Node] = []

    def at(self, node: yaml.Node) -> str:
        return f"{self.name}:{node.start_mark.line + 1}"

    def problem(self, what: str, node: yaml.Node, **details: str) -> None:
        self.problems.append(ConfigError(what, where=self.at(node), **details))

    def value(self, loader, node: yaml.Node, position: Keys) -> Any:
        self.values[position] = self.at(node)
        if any(node is outer for outer in self.open):
            return self.problem("an anchor contains itself", node)
        if not node.tag.startswith(_TAG) or node.tag.removeprefix(_TAG) not in (*_SCALARS, "str", "map", "seq"):
            tag = node.tag.replace(_TAG, "!!")
            return self.problem(f"tag {tag} is refused", node, why="a recipe holds names and values, never objects")
        if isinstance(node, yaml.MappingNode):
            return self.mapping(loader, node, position)
        if isinstance(node, yaml.SequenceNode):
            self.open.append(node)
            items = [self.value(loader, item, (*position, i)) for i, item in enumerate(node.value)]
            self.open.pop()
            return items
        if unwritable := UNWRITABLE.search(node.value):
            return self.problem(f"text holds {ascii(unwritable.group())[1:-1]}, which no file can hold", node)
        try:
            return _scalar(node)
        except ValueError as error:
            return self.problem(f"{node.value:.40} cannot be read as a number", node, why=str(error))

    def mapping(self, loader, node: yaml.MappingNode, position: Keys) -> dict[str, Any]:
        first: dict[str, yaml.Node] = {}
        for key, _ in node.value:
            if key.tag == _TAG + "merge":
                continue
            if isinstance(key, yaml.ScalarNode) and key.value in first:
                lines = f"lines {first[key.value].start_mark.line + 1} and {key.start_mark.line + 1}"
                self.problem(f"key {key.value!r} is written twice", key, why=f"on {lines}", fix="keep one of them")
            elif UNWRITABLE.search(str(key.value)):
                self.problem(f"key {ascii(key.value)} holds what no file can hold", key)
            elif not isinstance(key, yaml.ScalarNode) or key.tag != _TAG + "str":
                self.problem(f"key {key.value!r} is not a name", key, fix="quote it, if it is meant to be text")
            else:
                first[key.value] = key
        try:
            loader.flatten_mapping(node)
        except yaml.MarkedYAMLError as error:
            self.problem("<< merges mappings, and this is none", node, why=str(error.problem))
            return {}
        self.open.append(node)
        built = {}
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                self.keys[(*position, key.value)] = self.at(key)
                built[key.value] = self.value(loader, value, (*position, key.value))
        self.open.pop()
        return built


def _scalar(node: yaml.ScalarNode) -> Any:
    text = node.value
    match node.tag.removeprefix(_TAG):
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int":
            return int(text[2:], 8) if text.startswith("0o") else int(text, 16 if text.startswith("0x") else 10)
        case "float":
            return float(re.sub(r"\.(inf|nan)$", r"\1", text.lower()))
    return text


def override(document: Document, assignments: Iterable[str]) -> Document:
    """`--set pipeline.rl.steps=10`, or `rl.steps=10` for a node named rl; the value is read as YAML."""
    data, keys, values, typed = document.data, dict(document.keys), dict(document.values), set(document.typed)
    problems: list[OffonError] = []
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        where = f"--set {assignment}"
        names = [name.strip() for name in path.split(".")]
        if not equals or not all(names):
            problems.append(ConfigError("--set takes key=value", where=where, fix="--set pipeline.rl.steps=10"))
            continue
        nodes = document.data.get("pipeline")
        if names[0] not in document.data and isinstance(nodes, dict) and names[0] in nodes:
            names.insert(0, "pipeline")
        try:
            value = parse(f"value: {text}", name=where).data["value"]
            data, position = _assigned(data, names, value, where)
        except OffonError as error:
            problems.extend(error.errors if isinstance(error, Problems) else [error])
            continue
        keys[position] = values[position] = where
        typed.add(position)
    if problems:
        raise Problems(problems)
    return Document(
        data=data, name=document.name, folder=document.folder, keys=keys, values=values, typed=frozenset(typed)
    )


def _assigned(tree: Any, names: list[str], value: Any, where: str) -> tuple[Any, Keys]:
    """A copy of the tree with one value replaced, and the position it was put at."""
    name, *rest = names
    if isinstance(tree, list):
        if not name.isdecimal() or int(name) >= len(tree):
            raise ConfigError(f"{name!r} is not an item of a list of {len(tree)}", where=where, fix="count from 0")
        index = int(name)
        branch, position = (value, ()) if not rest else _assigned(tree[index], rest, value, where)
        return [*tree[:index], branch, *tree[index + 1 :]], (index, *position)
    if tree is not None and not isinstance(tree, dict):
        raise ConfigError(f"cannot set {'.'.join(names)!r} inside {tree!r}", where=where)
    tree = tree or {}
    branch, position = (value, ()) if not rest else _assigned(tree.get(name), rest, value, where)
    return {**tree, name: branch}, (name, *position)
