"""From what a recipe says to what it means: every key known, every value in range, every path and reference resolved.

All problems are reported together, each with its file and line; nothing is loaded but the rows and functions named.
Precedence of a value: the recipe, then the row's recommendation, then the library.

`references` is what a value names, `rows` the methods that are named, `nodes` one node; here the document as a whole.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from offon.errors import ModelError, OffonError
from offon.recipe import fields
from offon.recipe.fields import Probe
from offon.recipe.gates import completed
from offon.recipe.nodes import Nodes, Shared
from offon.recipe.problems import BAD, Reader, did_you_mean
from offon.recipe.references import NO_NODE, References
from offon.recipe.resolved import LIBRARY, GateNode, MethodNode, Node, ResolvedRecipe
from offon.recipe.rows import ANY, KEYS, Rows
from offon.recipe.yaml_reader import Document, Keys, override, read

OF_A_NODE = (*ANY, "method", "with", "make", "gate", "limits", "on_fail")


def resolve(
    recipe: str | Path | Mapping[str, Any] | Document, *, overrides: Iterable[str] = (), registry: Any = None
) -> ResolvedRecipe:
    """A recipe (a file, a document, or plain Python values) with everything filled in. Raises what is wrong with it."""
    if isinstance(recipe, str | Path):
        recipe = read(recipe)
    elif not isinstance(recipe, Document):
        recipe = Document(data=dict(recipe), name="recipe", folder=Path.cwd())
    return _Resolver(override(recipe, overrides), registry).recipe()


class _Resolver:
    """One pass over one document."""

    def __init__(self, document: Document, registry: Any):
        self.reader = Reader(document)
        self.references = References(self.reader)
        self.rows = Rows(self.reader, self.references, registry)

    def recipe(self) -> ResolvedRecipe:
        reader = self.reader
        self.unroll_loops()
        data = reader.document.data
        self.refuse_unknown_sections(data)
        shared = self.shared(data)
        if not reader.nodes:
            what = "pipeline is not a mapping of nodes" if data.get("pipeline") else "there is no pipeline"
            reader.problem(what, ("pipeline",), fix="pipeline: {sft: {method: sft, data: demos.jsonl, steps: 100}}")
        read = Nodes(reader, self.references, self.rows, shared).node
        nodes = [read(name, keys) for name, keys in reader.nodes.items()]
        probe, origins = self.probe(data.get("probe"), nodes, shared)
        nodes = completed(self.references, nodes, probe)
        try:
            reader.raise_problems()
        except OffonError as error:
            error.rest = self.sound(nodes, shared)
            raise
        nodes = self.references.ordered(nodes)
        reader.raise_problems()
        return ResolvedRecipe(
            model=shared.model,
            task=shared.task,
            seed=shared.seed,
            probe=probe,
            nodes=tuple(nodes),
            name=Path(reader.document.name).stem,
            notes=tuple(reader.notes),
            origins=origins | ({} if "seed" in data else {"seed": LIBRARY}),
        )

    def sound(self, nodes: Sequence[Node | None], shared: Shared) -> ResolvedRecipe | None:
        """The nodes without a mistake, as far as all that they read are such; None unless some node names one that is
        not there, which says nothing of the others. Gates judge, and are left out."""
        if not any(problem.what.endswith(NO_NODE) for problem in self.reader.problems):
            return None
        sound = {node.name: node for node in nodes if node is not None and not isinstance(node, GateNode)}
        while hanging := [n for n, node in sound.items() if any(e.node and e.node not in sound for e in node.inputs)]:
            for name in hanging:
                del sound[name]
        nodes = tuple(self.references.ordered(list(sound.values())))
        return ResolvedRecipe(model=shared.model, task=shared.task, seed=shared.seed, probe=None, nodes=nodes)

    def refuse_unknown_sections(self, data: Mapping[str, Any]) -> None:
        for key in data:
            if key in fields.RECIPE:
                continue
            if key in OF_A_NODE:
                self.reader.problem(f"{key!r} belongs in a node", (key,), fix=f"pipeline: {{NAME: {{{key}: ...}}}}")
            elif key == "model_name_or_path":
                self.reader.problem(f"unknown key {key!r}", (key,), fix="model")
            else:
                self.reader.unknown(key, (key,), fields.RECIPE, why=f"a recipe has {', '.join(fields.RECIPE)}")

    def shared(self, data: Mapping[str, Any]) -> Shared:
        """The seed, the model and the task of all nodes that name none."""
        seed = self.reader.value(fields.Seed, data.get("seed", 0), ("seed",))
        model, task = data.get("model"), data.get("task")
        if model is not None:
            model = self.references.located(model, ("model",), ModelError)
        if task is not None:
            task = self.references.task(task, ("task",))
        return Shared(model, task, seed)

    # ---- methods that are several nodes

    def unroll_loops(self) -> None:
        """The nodes of every loop take its place in the document. What is written for a loop goes to those of its nodes
        that have such a key: sampling to what makes, training to what trains."""
        document = self.reader.document
        for name, keys in self.reader.nodes.items():
            if self.rows.kind_of(keys) == "loop" and (nodes := self.unrolled(name, keys)):
                document = document.with_nodes(name, nodes)
        self.reader.raise_problems()
        self.reader.document = document

    def unrolled(self, name: str, keys: Mapping[str, Any]) -> dict[str, Any] | None:
        """The nodes of one loop by name, or None after a problem."""
        reader, rows, recipe = self.reader, self.rows, self.reader.document.data
        position, before = ("pipeline", name), len(reader.problems)
        _, info = rows.named(keys["method"], (*position, "method"), "loop")
        given = rows.entries(keys, position, info, ANY)
        values = {key: value for key, (value, _) in given.items()}
        base = values.pop("init", recipe.get("model"))
        if base is None:
            reader.problem(f"node {name!r} has no init", position, fix="init: ./model, or model: ./model at the top")
        arguments, _ = rows.arguments(info.arguments, info.name, given, position)
        inputs = {key: values[key] if key == "task" else values.pop(key) for key in info.inputs if key in values}
        if "task" in info.inputs and recipe.get("task") is not None:
            inputs.setdefault("task", recipe["task"])
        loop = rows.composed(info, inputs, arguments, (), position) if len(reader.problems) == before else None
        if loop is None:
            return None
        nodes = loop.expanded(name, base, lambda node: rows.kind_of(node) == "stage")
        taken = [node for node in nodes if node in reader.nodes and node != name]
        if taken:
            reader.problem(f"{name} makes a node {taken[0]}, which exists", position, fix="another name")
            return None
        common = {key: value for key, value in values.items() if key in ANY}
        return {node: {**self._fitting(common, written), **written} for node, written in nodes.items()}

    def _fitting(self, common: Mapping[str, Any], node: Mapping[str, Any]) -> dict[str, Any]:
        """Of the keys written for a loop, those that mean something for one of its nodes."""
        info = self.rows.info_of(node)
        read = {"data": "data"} if "data" in node and "data" in info.inputs else {}
        idle = () if info.example(**read).samplers else fields.SAMPLING
        idle = (*idle, *(fields.READING if "data" not in node else ()))
        return {key: value for key, value in common.items() if key in KEYS[info.kind] and key not in idle}

    # ---- probe

    def probe(self, value: Any, nodes: Sequence[Node | None], shared: Shared) -> tuple[Probe | None, dict[str, str]]:
        """How models are measured; `probe: false` measures nothing. Tasks default to all of the recipe's."""
        if value is False:
            return None, {}
        before = len(self.reader.problems)
        given = {} if value is None else self.reader.section(Probe, value, ("probe",))
        if given is BAD or len(self.reader.problems) > before:
            return None, {}
        by_method = [node for node in nodes if isinstance(node, MethodNode)]
        if given.get("tasks") is None:
            tasks = [task for task in (shared.task, *(node.settings.task for node in by_method)) if task is not None]
            defaults = {"tasks": _named(tasks)}
        elif isinstance(given["tasks"], Mapping) and given["tasks"]:
            position = ("probe", "tasks")
            given["tasks"] = {n: self.references.task(task, (*position, n)) for n, task in given["tasks"].items()}
            defaults = {}
        else:
            fix = "tasks: {sums: gym:chain_sum}"
            self.reader.problem("probe.tasks maps names to tasks", ("probe", "tasks"), fix=fix)
            return None, {}
        tasks = given.get("tasks") or defaults["tasks"]
        for index, name in enumerate(given.get("protected", ())):
            if name not in tasks:
                self._no_probe_task(name, ("probe", "protected", index), tasks)
        if given.get("shifted") is not None:
            given["shifted"] = self.shifted(given["shifted"], tasks)
        sampled = [node.settings.max_tokens for node in by_method if "max_tokens" in node.origins]
        if sampled:  # as long as the stages themselves sample
            defaults["max_tokens"] = max(sampled)
        probe = Probe(**{**defaults, **{key: value for key, value in given.items() if value is not None}})
        if probe.k > probe.samples:
            what = f"k {probe.k} is more than samples {probe.samples}"
            why = f"pass@{probe.k} cannot be estimated from {probe.samples} samples of a prompt"
            self.reader.problem(what, ("probe", "k"), of="value", why=why)
        return probe, {f"probe.{f.name}": LIBRARY for f in dataclasses.fields(Probe) if f.name not in given}

    def shifted(self, value: Any, tasks: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """{probe task: {name: task}} with the paths of the tasks resolved; every name stands for one task."""
        position, form = ("probe", "shifted"), "shifted: {sums: {longer: gym:chain_sum,max_terms=5}}"
        if not isinstance(value, Mapping) or not all(isinstance(versions, Mapping) for versions in value.values()):
            what = "probe.shifted maps probe tasks to named versions of them"
            self.reader.problem(what, position, of="value", fix=form)
            return {}
        resolved: dict[str, dict[str, Any]] = {}
        taken = set(tasks)
        for task, versions in value.items():
            if task not in tasks:
                self._no_probe_task(task, (*position, task), tasks)
            for name in versions:
                if name in taken:
                    self.reader.problem(f"{name} names two probes", (*position, task, name), fix="another name")
                taken.add(name)
            resolved[task] = {
                name: self.references.task(version, (*position, task, name)) for name, version in versions.items()
            }
        return resolved

    def _no_probe_task(self, name: str, position: Keys, tasks: Mapping[str, Any]) -> None:
        fix = did_you_mean(name, tasks) or f"one of {', '.join(tasks) or 'none: name them under probe.tasks'}"
        self.reader.problem(f"{name!r} is no probe task", position, of="value", fix=fix)


def _named(tasks: list[Any]) -> dict[str, Any]:
    """Distinct tasks by a short name: chain_sum for gym:chain_sum,max_terms=2."""
    named: dict[str, Any] = {}
    for task in tasks:
        if task in named.values():
            continue
        word = next(iter(task.values()), "") if isinstance(task, Mapping) else task
        word = word if isinstance(word, str) else getattr(task, "name", "task")
        base = re.split(r"[,]", word.rsplit("/", 1)[-1].split(":", 1)[-1])[0].removesuffix(".jsonl") or "task"
        name, n = base, 1
        while name in named:
            n += 1
            name = f"{base}-{n}"
        named[name] = task
    return named
