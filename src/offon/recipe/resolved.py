"""A recipe with every value filled in, and where each came from. As a run's recipe.yaml it loads back the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import yaml

from offon import __version__
from offon.recipe.arguments import Edge
from offon.recipe.fields import MakeSettings, NodeSettings, Probe, Settings
from offon.recipe.load import flow


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
    """A node of a row. `arguments` are the row's; `origins` says which keys apply here, and who set them."""

    kind: ClassVar[str]
    name: str
    method: str  # a name of the catalogue, or /path/to/file.py:function
    settings: Settings
    arguments: Mapping[str, Any]
    modifiers: tuple[Modifier, ...] = ()
    inputs: tuple[Input, ...] = ()
    reads: str = "demonstrations"  # the form of its data
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
    """Data or weights made by a row, with a `Toolbox`."""

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


Node = TrainNode | MakeNode | FunctionNode


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
