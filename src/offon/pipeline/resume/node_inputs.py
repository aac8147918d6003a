"""What a node's result depends on, by name: the table that its hash is of, and that a changed input is found in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from offon.catalogue import registry
from offon.measure.probe import probe_key
from offon.objects import is_object
from offon.pipeline.resume.numbers import numbers_of
from offon.recipe import FunctionNode, GateNode, MethodNode, ResolvedRecipe
from offon.recipe.resolved import Node
from offon.runs import artefacts as art
from offon.runs.artefacts import Artefact
from offon.runs.code import code_hash

Table = dict[str, str]  # name of an input -> what it is: a plain value as it is written, anything else with its hash

# What changes which files are kept, when a stage gives up, or numbers within rounding: never the result.
HOUSEKEEPING = frozenset(
    (
        *("save_steps", "save_total_limit", "micro_batch_tokens", "gradient_checkpointing", "unscored"),
        *("on_divergence", "dropped", "contamination"),
    )
)


def table_of(node: Node, recipe: ResolvedRecipe, artefact: Callable[[str], Artefact]) -> Table:
    """Every input of a node. Files, models and code count by their content, wherever they lie; what other nodes made,
    by the hash of those nodes."""
    read = {edge.source: _named(artefact(edge.source)) for edge in node.inputs}
    match node:
        case FunctionNode():
            table = {"make": _code(node.function)} | _arguments(node.arguments, read)
        case GateNode():
            table = _judged_by(node, recipe)
        case MethodNode():
            table = dict(_of_a_row(node, read))
        case _:
            raise TypeError(f"{node!r} is no node")
    shown = " ".join(table.values())
    unread = {f"{edge.kind} {edge.source}": read[edge.source] for edge in node.inputs if read[edge.source] not in shown}
    return table | unread


def _of_a_row(node: MethodNode, read: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    settings = node.settings
    yield "method", _code(node.method)
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.name in HOUSEKEEPING:
            continue
        if field.name == "task" and isinstance(value, str | Mapping):
            yield "task", " ".join([str(art.without_places(value)), *art.task_files(value)])
        else:
            yield field.name, _plain(value, read)
    yield from _arguments(node.arguments, read).items()
    if node.modifiers:
        yield "with", ", ".join(_code(modifier.name) for modifier in node.modifiers)
    for modifier in node.modifiers:
        for name, value in _arguments(modifier.arguments, read).items():
            yield f"{Path(modifier.name).name}.{name}", value
    rows = [name for name in (node.method, *(m.name for m in node.modifiers)) if name in registry.names()]
    yield "numbers", " ".join(f"{name} {version}" for name, version in numbers_of(rows).items())


def _judged_by(node: GateNode, recipe: ResolvedRecipe) -> Table:
    probe = recipe.probe
    drawn = [probe_key(probe, "", spec, recipe.seed) for spec in (probe.tasks or {}).values()] if probe else []
    limits = {metric: " ".join(map(str, limits)) for metric, limits in node.limits.items()}
    return limits | {"on_fail": node.on_fail, "probe": " ".join([*drawn, f"k {probe.k}" if probe else "none"])}


def _arguments(arguments: Mapping[str, Any], read: Mapping[str, str]) -> Table:
    return {name: _plain(value, read) for name, value in arguments.items()}


def _plain(value: Any, read: Mapping[str, str]) -> str:
    """A value as it enters a table: what it names by content, mappings and lists part by part."""
    if isinstance(value, str):
        return read.get(value) or (_code(value) if ".py:" in value else value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_plain(inner, read)}" for key, inner in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(_plain(inner, read) for inner in value) + "]"
    return art.described(value)


def _named(artefact: Artefact) -> str:
    return f"{artefact.label} {artefact.hash}"


def _code(place: str) -> str:
    """A function in a file by its name and what it does, a row of the catalogue by its name, and one that was handed
    over in Python by a name that holds its hash."""
    file, colon, function = place.rpartition(":")
    if is_object(place) or not colon or not Path(file).is_file():
        return place
    return f"{Path(file).name}:{function} {code_hash(Path(file), function)}"
