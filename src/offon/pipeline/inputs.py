"""What the nodes of a recipe are given: tasks open, data loaded, rows called with both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offon.catalogue import registry
from offon.catalogue.arguments import Names, visited
from offon.data import LOADERS, prompt_groups
from offon.data.holdout import hold_out
from offon.errors import DataError, OffonError
from offon.models.loading import positions
from offon.objects import stands_for
from offon.parts.stage import Stage
from offon.pipeline import admission
from offon.recipe import MethodNode, ResolvedRecipe, TrainNode
from offon.recipe.fields import sampling_of
from offon.recipe.values import annotation_of
from offon.runs import artefacts as art
from offon.runs.artefacts import Artefact
from offon.tasks import open_task
from offon.train.build import build_stage, check_prompts, check_room, prompts_of
from offon.types import Group


class Inputs:
    """`made`: what a source stands for, of the nodes that are done. A run makes it, a check has stand-ins there."""

    def __init__(self, recipe: ResolvedRecipe):
        self.recipe = recipe
        self.made: dict[str, Artefact] = {}
        self.probe_specs = dict((recipe.probe and recipe.probe.tasks) or {})
        self.heldout: dict[str, list[Group]] = {}  # of the data of nodes that hold some out
        self.admitted: dict[str, dict[str, Any]] = {}  # per stage, as handoff.json has it under data
        self._tasks: dict[str, Any] = {}

    def note(self, sentence: str) -> None:
        """A sentence for whoever watches; nobody does unless a subclass tells them."""

    def artefact(self, source: str) -> Artefact:
        return self.made[source] if source.startswith("$") else art.external(source)

    def task(self, spec: Any) -> Any:
        key = repr(spec)
        if key not in self._tasks:
            self._tasks[key] = open_task(spec)
        return self._tasks[key]

    def stage(self, node: TrainNode, tokenizer: Any) -> tuple[Stage, list[Group]]:
        """The node's stage with its data loaded, and the prompts it draws from."""
        settings = node.settings
        self.admitted[node.name] = {"sources": [], "contamination": {}}
        modifiers = [(m.name, self.loaded(node, m.name, m.arguments, tokenizer)) for m in node.modifiers]
        arguments = self.loaded(node, node.method, node.arguments, tokenizer)
        inputs = self.inputs(node, tokenizer)
        stage = build_stage(node.method, inputs, arguments, modifiers, sampling_of(settings), tokenizer)
        data, task = prompts_of(stage)
        prompts = list(data) if data is not None else prompt_groups(task.items("train"), tokenizer)
        check_prompts(stage.collect, prompts, tokenizer, node.name)
        if data is None:
            self.admit(node, prompts)
            turns = 1 + sum(part.turns for part in stage.collect.everything)
            check_room(prompts, settings.max_tokens, self.longest(node), node.name, responses=turns)
        return stage, prompts

    def inputs(self, node: MethodNode, tokenizer: Any) -> dict[str, Any]:
        """The inputs its row takes, as far as the node has them: data loaded, tasks open, the teacher by its name."""
        settings = node.settings
        given: dict[str, Any] = {"teacher": settings.teacher and "teacher"}
        if settings.data is not None:
            given["data"] = self.training_data(node, tokenizer)
        if settings.task is not None:
            given["task"] = self.task(settings.task)
        return {name: given[name] for name in registry.get(node.method).inputs if given.get(name) is not None}

    def loaded(self, node: MethodNode, name: str, arguments: Mapping[str, Any], tokenizer: Any) -> dict[str, Any]:
        """A row's arguments with what they name in its place: data as groups, made directories as paths. Models stay
        names: who needs one is given it."""
        parameters = registry.get(name).arguments

        def load(names: Names | None, source: str, place: Any) -> Any:
            if names is None:
                return stands_for(source)
            if names.what == "model":
                return source
            if names.what == "artefact":
                return self.artefact(source).path
            return self.admit(node, self.data(node, source, names.what, tokenizer))

        return {key: visited(annotation_of(parameters[key]), value, load) for key, value in arguments.items()}

    def training_data(self, node: MethodNode, tokenizer: Any) -> list[Group]:
        """A node's data without the prompts that are held out of it."""
        return self.admit(node, self._kept(node, tokenizer))

    def _kept(self, node: MethodNode, tokenizer: Any) -> list[Group]:
        rows = self.data(node, node.settings.data, node.reads, tokenizer)
        apart = getattr(node.settings, "heldout", None)
        if isinstance(apart, str):
            trained = {group.item.id for group in rows}
            others = self.data(node, apart, node.reads, tokenizer)
            self.heldout[node.name] = [group for group in others if group.item.id not in trained]
        elif apart:
            kept, self.heldout[node.name] = hold_out(rows, apart)
            if rows and not kept:
                raise DataError(f"heldout {apart:g} leaves none of {len(rows)} rows to train on", where=node.name)
            return kept
        return rows

    def admit(self, node: MethodNode, groups: list[Group]) -> list[Group]:
        """The groups, unless a stage that learns from them would learn what the probe asks."""
        if isinstance(node, TrainNode):
            overlaps = admission.held_out_asked(
                [group.item.prompt for group in groups], self._probed_prompts(), node.settings.contamination, node.name
            )
            known = self.admitted.setdefault(node.name, {"sources": [], "contamination": {}})["contamination"]
            for task, overlap in overlaps.items():
                if overlap["rows"] >= known.get(task, overlap)["rows"]:
                    known[task] = overlap
                if overlap["rows"]:
                    self.note(f"{node.name}: {overlap['rows']} training prompts are held out of {task}")
        return groups

    def _probed_prompts(self) -> dict[str, list[Any]]:
        """Probe task -> the prompts that it holds out. That it holds out none is said where it is checked."""
        held = {}
        for name, spec in self.probe_specs.items():
            task = self.task(spec)
            try:
                held[name] = [item.prompt for item in task.items("heldout")]
            except OffonError:
                continue
        return held

    def data(self, node: MethodNode, source: Any, reads: str, tokenizer: Any) -> list[Group]:
        settings = node.settings
        if isinstance(source, str):
            source = art.data_file(self.artefact(source)) if source in self.made or Path(source).exists() else source
        limits = [limit for limit in (settings.max_length, self.longest(node)) if limit]
        options = {"columns": settings.columns, "max_length": min(limits, default=None), "lossy": settings.lossy}
        if reads == "demonstrations":
            options["supervise"] = settings.supervise
        options = {name: value for name, value in options.items() if value is not None}
        groups = LOADERS[reads](source, tokenizer, **options)
        self.note(f"{node.name}: {groups.report}")
        kept = admission.rows_kept(groups, settings.dropped, node.name)
        self.admitted.setdefault(node.name, {"sources": [], "contamination": {}})["sources"].append(kept)
        return groups

    def longest(self, node: MethodNode) -> int | None:
        """What the model can read, in tokens."""
        return positions(self.artefact(node.settings.init).path) if node.settings.init else None
