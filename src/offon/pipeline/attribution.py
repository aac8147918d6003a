"""What each stage of a recipe contributed, by running it with stages left out: order-preserving Shapley values.

Every subset of the stages is a pipeline of its own, with the stages in their order (`leave_out` says what becomes of
edges to a stage that is left out). All these pipelines are one: a node that reads the same in two subsets is one node,
trained once, and the study is an ordinary run of the nodes that are left, resumed like any other. The value of a subset
is the success of what the recipe's last stage makes in it, or of what that stage would have started from.

Axes: S seeds, P prompts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from offon.behavior.stage.chain import crossed_mean, feasible_orders, interaction, shapley
from offon.behavior.statistics.counts import count
from offon.errors import ConfigError
from offon.measure.probe import outcomes, probe_key
from offon.pipeline.leave_out import Infeasible, Variants, needed, upstream, without_gates
from offon.pipeline.run import run_recipe
from offon.recipe import ResolvedRecipe, TrainNode
from offon.recipe.fields import Probe
from offon.recipe.problems import did_you_mean
from offon.runs import RunDirectory
from offon.runs import artefacts as art

Subset = tuple[str, ...]  # of the stages, in their order


def attribute(
    recipe: ResolvedRecipe,
    output: str | Path,
    *,
    stages: Sequence[str] | None = None,
    tasks: Mapping[str, Any] | None = None,
    seeds: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    progress: Callable[[dict[str, Any]], None] = lambda event: None,
    command: str = "",
) -> dict[str, Any]:
    """attribution.json of a study in the folder `output`.

    stages: those that are left out in turn; unwritten, all that the result depends on. tasks: probe tasks by name; the
    recipe's unless written. seeds: how often everything is trained, with seeds one apart; intervals are over prompts
    and seeds. Said before it starts: how many stages will be trained, and how many of these are there already.
    """
    study = planned(without_gates(recipe), stages, tasks, seeds)
    progress({"note": study.cost(Path(output) if resume else None)})
    for subset, why in study.infeasible.items():
        progress({"note": f"not run: {_named(subset)}, because {why}"})
    run = RunDirectory.open(
        run_recipe(study.recipe, output, resume=resume, overwrite=overwrite, progress=progress, command=command)
    )
    shares = study.summary(run)
    run.write_json("attribution.json", shares)
    return shares


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
        what, why = f"{odd[0]} is a {recipe.node(odd[0]).kind}", "what it does where a stage is left out is not defined"
        raise ConfigError(what, why=why, fix="a recipe without it")
    feasible_orders(chosen)  # refuses more stages than can be ordered
    variants = Variants(recipe, chosen)
    sources: dict[Subset, list[str]] = {}
    infeasible: dict[Subset, str] = {}
    for subset in sorted(_subsets(chosen), key=lambda s: (s != chosen, len(s))):  # the whole first: it keeps its names
        try:
            sources[subset] = [variants.source(f"${result}", frozenset(subset), seed) for seed in range(seeds)]
        except Infeasible as why:
            infeasible[subset] = str(why)
    if () not in sources or not feasible_orders(chosen, sources.__contains__):
        reasons = "; ".join(f"{_named(subset)}: {why}" for subset, why in infeasible.items())
        raise ConfigError(
            "the stages cannot arrive one by one", why=reasons, fix="--stages A,B, without those in the way"
        )
    plain = dict(protected=(), shifted=None, scaffold=None)
    probe: Probe = dataclasses.replace(recipe.probe, **plain, tasks=dict(tasks or recipe.probe.tasks))
    read = needed((source for at in sources.values() for source in at), variants.nodes)
    nodes = tuple(node for name, node in variants.nodes.items() if name in read)
    whole = dataclasses.replace(recipe, probe=probe, nodes=nodes, notes=())
    ordered = {subset: sources[subset] for subset in _subsets(chosen) if subset in sources}
    return Study(recipe.name, result, chosen, seeds, whole, ordered, infeasible)


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
