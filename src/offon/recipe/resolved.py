"""A recipe with every value filled in, and where each came from. As a run's recipe.yaml it loads back the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import yaml

from offon.catalogue.arguments import Edge
from offon.recipe.fields import Limit, MakeSettings, NodeSettings, Probe, Settings
from offon.recipe.yaml_reader import flow
from offon.version import __version__

Makes = Literal["policy", "reward model", "process model", "data", "weights"]


@dataclass(frozen=True)
class Input:
    """An edge into a node. `source` is $node, an absolute path, a Hub id or testbed:NAME."""

    kind: Edge
    source: str

    @property
    def node(self) -> str | None:
        return self.source[1:] if self.source.startswith("$") else None


@dataclass(frozen=True)
class Modifier:
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class MethodNode:
    """A node of a row. `arguments` are the row's; `origins` says which keys apply here, and who set them; `makes` is
    what kind of thing comes out, None where only running it tells."""

    kind: ClassVar[str]
    name: str
    method: str  # a name of the catalogue, or /path/to/file.py:function
    settings: Settings
    arguments: Mapping[str, Any]
    modifiers: tuple[Modifier, ...] = ()
    inputs: tuple[Input, ...] = ()
    reads: str = "demonstrations"  # the form of its data
    makes: Makes | None = "policy"
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)
    place: str = field(default="", compare=False)

    def lines(self) -> Iterator[tuple[str, Any]]:
        yield "method", self.method
        for name in self.origins:
            value = self.arguments[name] if name in self.arguments else getattr(self.settings, name, None)
            if name != "method":
                yield name, value
        if self.modifiers:
            yield "with", [{modifier.name: dict(modifier.arguments)} for modifier in self.modifiers]


@dataclass(frozen=True, kw_only=True)
class TrainNode(MethodNode):
    """A stage to run."""

    kind: ClassVar[str] = "train"
    settings: NodeSettings

    @property
    def batches(self) -> str:
        """The arithmetic of batches, in words."""
        s = self.settings
        buffer = s.prompts_per_buffer or s.prompts_per_step
        per_buffer = s.epochs * buffer // s.prompts_per_step
        buffers = -(-s.steps // per_buffer)
        group_size = self.arguments.get("group_size", 1)
        sampled = group_size > 1 and s.data is None  # dpo reads pairs where it has data
        each = f" x {group_size} samples" if sampled else ""
        passes = "" if s.epochs == 1 else f", each passed over {s.epochs} times"
        return f"{s.steps} steps of {s.prompts_per_step} prompts{each}; {buffers} buffers of {buffer} prompts{passes}"

    @property
    def summary(self) -> str:
        settings = self.settings
        adapter = " with LoRA" if settings.lora else ""
        return f"{self.method} from {settings.init}{adapter}, {self.batches}, learning rate {settings.learning_rate:g}"


@dataclass(frozen=True, kw_only=True)
class MakeNode(MethodNode):
    """Data or weights made by a row, with a `MakeContext`."""

    kind: ClassVar[str] = "make"
    settings: MakeSettings

    @property
    def summary(self) -> str:
        read = ", ".join(edge.source for edge in self.inputs)
        return f"{self.method}" + (f" from {read}" if read else "")


@dataclass(frozen=True, kw_only=True)
class FunctionNode:
    """An artefact made by a function of the user's: `function(directory, **arguments)` writes it into `directory`."""

    kind: ClassVar[str] = "make"
    name: str
    function: str  # /path/to/file.py:function
    arguments: Mapping[str, Any]
    inputs: tuple[Input, ...] = ()
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)
    place: str = field(default="", compare=False)

    @property
    def summary(self) -> str:
        return f"made by {self.function}"

    def lines(self) -> Iterator[tuple[str, Any]]:
        yield "make", self.function
        yield from self.arguments.items()


@dataclass(frozen=True, kw_only=True)
class GateNode:
    """What goes on: `gate` if every limit is met, else as `on_fail` says. `judges` is the kind of thing it looks at."""

    kind: ClassVar[str] = "gate"
    name: str
    gate: str
    init: str | None
    limits: Mapping[str, tuple[Limit, ...]]
    on_fail: str = "stop"
    judges: Makes = "policy"
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)
    place: str = field(default="", compare=False)

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The candidate as whoever reads the gate would read it, so that chains of init edges go through; and what it
        is compared with."""
        kind = {"data": "data", "reward model": "reward", "process model": "reward"}.get(self.judges, "init")
        return (Input(kind, self.gate), *([Input("reference", self.init)] if self.init else []))

    @property
    def sides(self) -> tuple[str, ...]:
        """What it may turn out to be."""
        return (self.gate, self.init) if self.on_fail == "rollback" and self.init else (self.gate,)

    @property
    def summary(self) -> str:
        end = {"stop": "else the run stops", "warn": "else a warning", "rollback": f"else {self.init} goes on"}
        against = f", against {self.init}" if self.init else ""
        return f"{self.gate} goes on with {'; '.join(self.words())}{against}; {end[self.on_fail]}"

    def words(self) -> Iterator[str]:
        """A limit each: retention at least 0.8 on guard."""
        for metric, limits in self.limits.items():
            for limit in limits:
                bounds = (("at least", limit.min), ("at most", limit.max))
                within = " and ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)
                where = f" on {', '.join(limit.tasks)}" if limit.tasks else ""
                yield f"{metric} {within}{where}{' (estimate)' if limit.at == 'estimate' else ''}"

    def lines(self) -> Iterator[tuple[str, Any]]:
        yield "gate", self.gate
        if self.init:
            yield "init", self.init
        yield "limits", {metric: [_written(limit) for limit in limits] for metric, limits in self.limits.items()}
        yield "on_fail", self.on_fail


def _written(limit: Limit) -> dict[str, Any]:
    """A limit with the keys that say something."""
    return {
        f.name: list(value) if isinstance(value, tuple) else value
        for f in dataclasses.fields(limit)
        if (value := getattr(limit, f.name)) != f.default
    }


Node = TrainNode | MakeNode | FunctionNode | GateNode


@dataclass(frozen=True, kw_only=True)
class ResolvedRecipe:
    """nodes are in an order in which each comes after what it reads. `notes` is what a reader should be told."""

    model: str | None
    task: Any
    seed: int
    probe: Probe | None
    nodes: tuple[Node, ...]
    name: str = field(default="recipe", compare=False)
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)

    def node(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)

    def past_gates(self, source: str) -> str:
        """The source that a gate stands for when it opens; any other source itself."""
        while source.startswith("$") and isinstance(node := self.node(source[1:]), GateNode):
            source = node.gate
        return source

    def chain(self, source: str) -> Iterator[tuple[str, Node | None]]:
        """Back along the init edges: each source with its node (None for a model from outside), gates open."""
        while True:
            source = self.past_gates(source)
            node = self.node(source[1:]) if source.startswith("$") else None
            yield source, node
            init = node.settings.init if isinstance(node, MethodNode) else None
            if not init:
                return
            source = init

    def adapted(self, source: str) -> Iterator[TrainNode]:
        """The stages whose adapter a source may carry on: one for each way that gates may go."""
        while source.startswith("$"):
            node = self.node(source[1:])
            if isinstance(node, GateNode):
                for side in node.sides:
                    yield from self.adapted(side)
                return
            if not isinstance(node, TrainNode):
                return
            if node.settings.lora:
                yield node
                return
            source = node.settings.init

    def dump(self) -> str:
        """YAML. A comment names the origin of each value that the recipe did not write."""
        lines = [f"# resolved by offon {__version__}; what has no mark was written in the recipe"]
        for key in ("model", "task", "seed"):
            if (value := getattr(self, key)) is not None:
                lines.append(_line(0, key, value, self.origins.get(key)))
        if self.probe is None:
            lines.append("probe: false")
        else:
            lines.append("probe:")
            for probe_field in dataclasses.fields(self.probe):
                value = getattr(self.probe, probe_field.name)
                lines.append(_line(1, probe_field.name, value, self.origins.get(f"probe.{probe_field.name}")))
        lines.append("pipeline:")
        for node in self.nodes:
            lines.append(f"  {flow(node.name)}:")
            lines += [_line(2, key, value, node.origins.get(key)) for key, value in node.lines()]
        return "\n".join(lines) + "\n"


def _line(depth: int, key: str, value: Any, origin: str | None) -> str:
    mark = f"  # {origin}" if origin and origin != RECIPE else ""
    try:
        text = flow(_plain(value))
    except yaml.representer.RepresenterError:
        text = flow(repr(value))  # an object handed over in Python: the record names it, and cannot rebuild it
    return f"{'  ' * depth}{flow(key)}: {text}{mark}"


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


RECIPE, ROW, LIBRARY = "recipe", "row", "library"
