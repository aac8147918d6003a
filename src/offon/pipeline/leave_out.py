"""The nodes of a recipe with some stages left out: each once for every way its sources turn out, and for every seed.

Where a stage is left out,

    an init edge to it, or a reference (an anchor)    goes to what it would have started from
    a teacher, data or reward edge to it              cannot be replaced: the subset is infeasible

An adapter that a left-out stage would have begun, the stage after it begins. Gates stand open: a study asks what stages
do, and one that a gate would have undone does not count as one that was never run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from offon.errors import ConfigError
from offon.recipe import FunctionNode, GateNode, ResolvedRecipe, TrainNode
from offon.recipe.resolved import Node

NEEDED = ("teacher", "data", "reward")  # edges that nothing can stand in for


def without_gates(recipe: ResolvedRecipe) -> ResolvedRecipe:
    """The recipe with every gate's candidate in the gate's place."""
    open_ = {f"${node.name}": recipe.past_gates(f"${node.name}") for node in recipe.nodes if isinstance(node, GateNode)}
    nodes = tuple(_reading(node, open_) for node in recipe.nodes if not isinstance(node, GateNode))
    return dataclasses.replace(recipe, nodes=nodes)


def upstream(recipe: ResolvedRecipe, name: str) -> list[str]:
    """Every node that a node's result depends on, itself not counted."""
    names: dict[str, None] = {}
    waiting = [edge.node for edge in recipe.node(name).inputs if edge.node]
    while waiting:
        names[(one := waiting.pop())] = None
        waiting += [edge.node for edge in recipe.node(one).inputs if edge.node and edge.node not in names]
    return list(names)


class Infeasible(Exception):
    """The text says which edge is missing."""


class Variants:
    """Ask it for the sources of subsets; `nodes` has every node that they read, in an order in which they can run."""

    def __init__(self, recipe: ResolvedRecipe, stages: Sequence[str]):
        self.recipe, self.stages = recipe, stages
        self.nodes: dict[str, Node] = {}
        self._names: dict[tuple[Any, ...], str] = {}

    def source(self, source: str, subset: frozenset[str], seed: int) -> str:
        """What an init edge to a source reads in a subset."""
        if not source.startswith("$"):
            return source
        if self._left_out(name := source[1:], subset):
            return self._before(name, subset, seed)
        return f"${self._node(name, subset, seed)}"

    def _left_out(self, name: str | None, subset: frozenset[str]) -> bool:
        return name in self.stages and name not in subset

    def _before(self, name: str, subset: frozenset[str], seed: int) -> str:
        init = self.recipe.node(name).settings.init
        if init is None:
            raise ConfigError(f"{name} starts from no model, so that it cannot be left out", fix="--stages A,B")
        return self.source(init, subset, seed)

    def _node(self, name: str, subset: frozenset[str], seed: int) -> str:
        """The name of a node's variant, made if it is new."""
        node = self.recipe.node(name)
        for edge in node.inputs:
            if edge.kind in NEEDED and self._left_out(edge.node, subset):
                raise Infeasible(f"{name} reads {edge.source} ({edge.kind})")
        sources = {edge.source: self.source(edge.source, subset, seed) for edge in node.inputs if edge.node}
        changed = _seeded(_reading(node, sources), seed)
        if isinstance(node, TrainNode) and node.settings.lora is None:
            lora = next((n.settings.lora for n in self._skipped(node, subset) if n.settings.lora), None)
            changed = dataclasses.replace(changed, settings=dataclasses.replace(changed.settings, lora=lora))
        key = (name, repr(changed))
        if key not in self._names:
            self._names[key] = self._named(name, subset, seed)
            self.nodes[self._names[key]] = dataclasses.replace(changed, name=self._names[key])
        return self._names[key]

    def _skipped(self, node: TrainNode, subset: frozenset[str]) -> Iterator[TrainNode]:
        """The left-out stages right before a node: the adapter that one of them would have begun, the node begins."""
        source = node.settings.init or ""
        while source.startswith("$") and self._left_out(source[1:], subset):
            yield (earlier := self.recipe.node(source[1:]))
            source = earlier.settings.init

    def _named(self, name: str, subset: frozenset[str], seed: int) -> str:
        """rl where nothing before it is left out, else rl-after-sft or rl-first; and -seed1."""
        before = [stage for stage in self.stages if stage in upstream(self.recipe, name)]
        present = [stage for stage in before if stage in subset]
        how = "" if present == before else "-after-" + "-".join(present) if present else "-first"
        made = f"{name}{how}" + (f"-seed{seed}" if seed else "")
        while made in self.nodes:
            made += "_"
        return made


def _reading(node: Node, sources: Mapping[str, str]) -> Node:
    """A node with other sources wherever it names them."""

    def put(value: Any) -> Any:
        if isinstance(value, str):
            return sources.get(value, value)
        if isinstance(value, Mapping):
            return {key: put(inner) for key, inner in value.items()}
        return type(value)(map(put, value)) if isinstance(value, list | tuple) else value

    inputs = tuple(dataclasses.replace(edge, source=put(edge.source)) for edge in node.inputs)
    node = dataclasses.replace(node, inputs=inputs, arguments=put(node.arguments))
    if isinstance(node, FunctionNode):
        return node
    modifiers = tuple(dataclasses.replace(m, arguments=put(m.arguments)) for m in node.modifiers)
    settings = {key: getattr(node.settings, key) for key in ("init", "teacher", "data")}
    named = {key: sources.get(value, value) for key, value in settings.items() if isinstance(value, str)}
    return dataclasses.replace(node, modifiers=modifiers, settings=dataclasses.replace(node.settings, **named))


def _seeded(node: Node, seed: int) -> Node:
    """A node trained or made again: its seed moved on, where it has one."""
    if not isinstance(node, FunctionNode):
        return dataclasses.replace(node, settings=dataclasses.replace(node.settings, seed=node.settings.seed + seed))
    if "seed" not in node.arguments:
        return node
    return dataclasses.replace(node, arguments={**node.arguments, "seed": node.arguments["seed"] + seed})


def needed(sources: Iterable[str], nodes: Mapping[str, Node]) -> set[str]:
    """The nodes that sources are made from: a subset that turned out infeasible may have begun to make its own."""
    waiting, names = [source[1:] for source in sources if source.startswith("$")], set()
    while waiting:
        if (name := waiting.pop()) not in names:
            names.add(name)
            waiting += [edge.node for edge in nodes[name].inputs if edge.node]
    return names
