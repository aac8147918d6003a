"""What each stage of a recipe contributed, by running it with stages left out: order-preserving Shapley values.

Every subset of the stages is a pipeline of its own, with the stages in their order. Where a stage is left out,

    an init edge to it, or a reference (an anchor)    goes to what it would have started from
    a teacher, data or reward edge to it              cannot be replaced: the subset is infeasible

All these pipelines are one: a node that reads the same in two subsets is one node, trained once, and the study is an
ordinary run of the nodes that are left, resumed like any other. The value of a subset is the success of what the
recipe's last stage is in it, or what that would have started from.

Axes: S seeds, P prompts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from offon.behavior.counts import count
from offon.behavior.path import crossed_mean, feasible_orders, interaction, shapley
from offon.errors import ConfigError
from offon.loops import artefacts as art
from offon.loops.pipeline import run_recipe
from offon.loops.probe import outcomes, probe_key
from offon.recipe import FunctionNode, ResolvedRecipe, TrainNode
from offon.recipe.fields import Probe
from offon.recipe.reader import did_you_mean
from offon.recipe.resolved import Node
from offon.runs import RunDirectory

Subset = tuple[str, ...]  # of the stages, in their order
NEEDED = ("teacher", "data", "reward")  # edges that nothing can stand in for


def attribute(
    recipe: ResolvedRecipe,
    output: str | Path,
    *,
    stages: Sequence[str] | None = None,
    tasks: Mapping[str, Any] | None = None,
    seeds: int = 1,
    resume: bool = False,
    progress: Callable[[dict[str, Any]], None] = lambda event: None,
    command: str = "",
) -> dict[str, Any]:
    """attribution.json of a study in the folder `output`.

    stages: those that are left out in turn; unwritten, all that the result depends on. tasks: probe tasks by name; the
    recipe's unless written. seeds: how often everything is trained, with seeds one apart; intervals are over prompts
    and seeds. Said before it starts: how many stages will be trained, and how many of these are there already.
    """
    study = planned(recipe, stages, tasks, seeds)
    progress({"note": study.cost(Path(output) if resume else None)})
    for subset, why in study.infeasible.items():
        progress({"note": f"not run: {_named(subset)}, because {why}"})
    run = RunDirectory.open(run_recipe(study.recipe, output, resume=resume, progress=progress, command=command))
    found = study.summary(run)
    run.write_json("attribution.json", found)
    return found


@dataclass(frozen=True)
class Study:
    """recipe: every node of every subset once. sources: subset -> seed -> what its value is read from."""

    name: str
    result: str
    stages: Subset
    seeds: int
    recipe: ResolvedRecipe
    sources: Mapping[Subset, Sequence[str]]
    infeasible: Mapping[Subset, str]

    def cost(self, before: Path | None) -> str:
        """What is going to be spent, in words."""
        trained = [node for node in self.recipe.nodes if isinstance(node, TrainNode)]
        steps, probe = sum(node.settings.steps for node in trained), self.recipe.probe
        given = {edge.source for node in trained for edge in node.inputs if edge.kind in ("init", "teacher")}
        measured = len(trained) + sum(not source.startswith("$") for source in given)
        responses = measured * len(probe.tasks) * probe.prompts * probe.samples
        done = [n for n in trained if before and (before / "nodes" / n.name / "final").is_dir()]
        kept = f", {len(done)} of them there already" if done else ""
        return (
            f"{len(self.sources)} subsets of {len(self.stages)} stages x {self.seeds} seeds: {len(trained)} stage "
            f"trainings{kept}, {steps} optimizer steps, and up to {responses} responses to measure them"
        )

    def summary(self, run: RunDirectory) -> dict[str, Any]:
        tasks = {task: self._values(run, task) for task in self.recipe.probe.tasks}
        whole, empty = self.stages, ()
        values = {task: v.__getitem__ for task, v in tasks.items()}
        split = {task: shapley(self.stages, v, feasible=self.feasible) for task, v in values.items()}
        pairs = [
            pair
            for pair in combinations(self.stages, 2)
            if all(self.feasible(subset) for subset in ((), pair[:1], pair[1:], pair))
        ]
        together = {task: [[*pair, _est(interaction(v, *pair))] for pair in pairs] for task, v in values.items()}
        return {
            "recipe": self.name,
            "result": self.result,
            "stages": list(self.stages),
            "seeds": self.seeds,
            "trainings": sum(isinstance(node, TrainNode) for node in self.recipe.nodes),
            "subsets": [
                {"stages": list(subset), "success": {task: _est(v[subset]) for task, v in tasks.items()}}
                for subset in self.sources
            ],
            "infeasible": [{"stages": list(subset), "why": why} for subset, why in self.infeasible.items()],
            "shapley": {task: {s: _est(rows) for s, rows in phi.items()} for task, phi in split.items()},
            "interaction": together,
            "total": {task: _est(v[whole] - v[empty]) for task, v in tasks.items()},
            "notes": self.notes(),
        }

    def notes(self) -> list[str]:
        notes = ["shares of what happens when stages are left out; the path table of a run says what happened in order"]
        if self.seeds == 1:
            notes.append("one seed: intervals are over prompts alone and say nothing about training again")
        return notes

    def feasible(self, subset: Subset) -> bool:
        return subset in self.sources

    def _values(self, run: RunDirectory, task: str) -> dict[Subset, np.ndarray]:
        """[S, P] success by seed and prompt of every subset, over the prompts that were scored in all of them."""
        counts = {subset: [self._counts(run, source, task) for source in at] for subset, at in self.sources.items()}
        scored_P = np.all([counts.scored > 0 for row in counts.values() for counts in row], axis=0)
        return {subset: np.array([c.rate[scored_P] for c in row]) for subset, row in counts.items()}

    def _counts(self, run: RunDirectory, source: str, task: str) -> Any:
        probe, made = self.recipe.probe, source.startswith("$")
        model = run.node(source[1:]).read_json("node.json")["hash"] if made else art.external(source).hash
        groups = run.read_probe(probe_key(probe, model, probe.tasks[task], self.recipe.seed))
        return count(outcomes(groups))


def planned(recipe: ResolvedRecipe, stages: Sequence[str] | None, tasks: Mapping[str, Any] | None, seeds: int) -> Study:
    """The study of a recipe: which subsets there are, and the one recipe that runs them all."""
    if recipe.probe is None:
        raise ConfigError("probe: false measures nothing", why="shares are of measured success", fix="take it out")
    trained = [node.name for node in recipe.nodes if isinstance(node, TrainNode)]
    if not trained:
        raise ConfigError("the recipe trains no stage", fix="a node with a method that trains")
    result = trained[-1]
    chosen = tuple(name for name in trained if name in (*upstream(recipe, result), result))
    if stages is not None:
        _check_names(stages, chosen, result)
        chosen = tuple(name for name in chosen if name in stages)
    odd = [name for name in (*upstream(recipe, result), result) if recipe.node(name).kind not in ("train", "make")]
    if odd:
        what = f"{odd[0]} is a {recipe.node(odd[0]).kind}"
        raise ConfigError(
            what, why="what it would do where a stage is left out is not known", fix="a recipe without it"
        )
    variants = _Variants(recipe, chosen)
    sources: dict[Subset, list[str]] = {}
    infeasible: dict[Subset, str] = {}
    for subset in sorted(_subsets(chosen), key=lambda s: (s != chosen, len(s))):  # the whole first: it keeps its names
        try:
            sources[subset] = [variants.source(f"${result}", frozenset(subset), seed) for seed in range(seeds)]
        except _Infeasible as why:
            infeasible[subset] = str(why)
    feasible_orders(chosen, sources.__contains__)  # says so where there are too many
    plain = dict(protected=(), shifted=None, scaffold=None)
    probe: Probe = dataclasses.replace(recipe.probe, **plain, tasks=dict(tasks or recipe.probe.tasks))
    needed = _needed(sources, variants.nodes)
    nodes = tuple(node for name, node in variants.nodes.items() if name in needed)
    whole = dataclasses.replace(recipe, probe=probe, nodes=nodes, notes=())
    ordered = {subset: sources[subset] for subset in _subsets(chosen) if subset in sources}
    return Study(recipe.name, result, chosen, seeds, whole, ordered, infeasible)


def upstream(recipe: ResolvedRecipe, name: str) -> list[str]:
    """Every node that a node's result depends on, itself not counted."""
    found: dict[str, None] = {}
    waiting = [edge.node for edge in recipe.node(name).inputs if edge.node]
    while waiting:
        found[(one := waiting.pop())] = None
        waiting += [edge.node for edge in recipe.node(one).inputs if edge.node and edge.node not in found]
    return list(found)


class _Infeasible(Exception):
    """The text says which edge is missing."""


class _Variants:
    """The nodes of all subsets: each once for every way its sources turn out, and for every seed it depends on."""

    def __init__(self, recipe: ResolvedRecipe, stages: Subset):
        self.recipe, self.stages = recipe, stages
        self.nodes: dict[str, Node] = {}
        self._names: dict[tuple[Any, ...], str] = {}

    def source(self, source: str, subset: frozenset[str], seed: int) -> str:
        """What an init edge to a source reads in a subset."""
        if not source.startswith("$"):
            return source
        name = source[1:]
        return (
            self._before(name, subset, seed) if self._left_out(name, subset) else f"${self._node(name, subset, seed)}"
        )

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
                raise _Infeasible(f"{name} reads {edge.source} ({edge.kind})")
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


def _needed(sources: Mapping[Subset, Sequence[str]], nodes: Mapping[str, Node]) -> set[str]:
    """The nodes that feasible subsets read: an infeasible one may have begun to make its own."""
    waiting, needed = [s[1:] for at in sources.values() for s in at if s.startswith("$")], set()
    while waiting:
        if (name := waiting.pop()) not in needed:
            needed.add(name)
            waiting += [edge.node for edge in nodes[name].inputs if edge.node]
    return needed


def _subsets(stages: Subset) -> list[Subset]:
    return [subset for size in range(len(stages) + 1) for subset in combinations(stages, size)]


def _check_names(names: Sequence[str], known: Sequence[str], result: str) -> None:
    for name in names:
        if name not in known:
            why = f"{result}, whose success is shared out, depends on {', '.join(known)}"
            raise ConfigError(f"{name!r} is no stage to share with", why=why, fix=did_you_mean(name, known))


def _named(subset: Subset) -> str:
    return " + ".join(subset) or "none of the stages"


def _est(rows_SP: np.ndarray) -> dict[str, float]:
    return crossed_mean(rows_SP)._asdict()
