"""A dry run: every configuration and data error at once, and the memory plan, with no weights loaded."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from offon.catalogue import registry
from offon.data import prompt_groups
from offon.errors import ConfigError, DataError, ModelError, OffonError, Problems
from offon.maths.merging import same_shapes
from offon.measure.probe import probed_items
from offon.models.files import json_object, tensors_of
from offon.models.loading import head_of, is_adapter, load_tokenizer, positions
from offon.models.vocabulary import same_vocabulary
from offon.parts.models import SELF, SELF_START, Artefact
from offon.parts.stage import Stage
from offon.pipeline.inputs import Inputs
from offon.recipe import FunctionNode, GateNode, MakeNode, MethodNode, ResolvedRecipe, TrainNode
from offon.recipe.resolved import Node
from offon.runs import artefacts as art
from offon.runs.space import stage_bytes
from offon.tasks.api import call_once
from offon.train.build import check_prompts, check_room
from offon.train.models import Held, plan, uses
from offon.types import Group

STAND_IN = "?"  # the path of an artefact that does not exist before the run


class Checker(Inputs):
    """A pipeline that opens tasks, data and tokenizers, and stops short of models."""

    def __init__(self, recipe: ResolvedRecipe):
        super().__init__(recipe)
        self.made = {f"${node.name}": art.Artefact(Path(STAND_IN), node.name, "") for node in recipe.nodes}
        self.errors: list[OffonError] = []
        self.heads: dict[str, str | None] = {}  # of the models that stages make
        self.disk_bytes = 0  # the least that results and checkpoints will need

    def root(self, source: str) -> str | None:
        """The model a chain of init edges starts from; None if a node makes it."""
        *_, (last, node) = self.recipe.chain(source)
        return last if node is None else None

    def task(self, spec: Any) -> Any:
        """A task whose checker was called once, so that one that cannot work is a mistake found now."""
        new = repr(spec) not in self._tasks
        task = super().task(spec)
        if new:
            call_once(task)
        return task

    @staticmethod
    def made_data(node: MethodNode) -> bool:
        return isinstance(node.settings.data, str) and node.settings.data.startswith("$")

    def data(self, node: MethodNode, source: Any, reads: str, tokenizer: Any) -> list[Group]:
        made = isinstance(source, str) and source.startswith("$")
        return [] if made else super().data(node, source, reads, tokenizer)

    def longest(self, node: MethodNode) -> int | None:
        root = self.root(node.settings.init) if node.settings.init else None
        return positions(art.locate(root)) if root else None  # a node changes weights, never positions

    def check(self, node: Node) -> dict[str, Any]:
        """One node's line of the report; problems are collected."""
        try:
            match node:
                case TrainNode():
                    return self.check_stage(node)
                case MakeNode():
                    return self.check_making(node)
                case FunctionNode():
                    return {"node": node.name, "make": Path(node.function).name}
                case GateNode():
                    return self.check_gate(node)
        except OffonError as error:
            error.where = f"{node.name}: {error.where}" if error.where else node.place or node.name
            self.errors.append(error)
            return {"node": node.name, "error": error.what}

    def check_making(self, node: MakeNode) -> dict[str, Any]:
        """What a row that makes data or weights would collect, of how many prompts, with which models."""
        settings, info = node.settings, registry.get(node.method)
        entry: dict[str, Any] = {"node": node.name, "method": node.method}
        sources = {"self": settings.init, "teacher": settings.teacher}
        sources = {name: source for name, source in sources.items() if source}
        sources |= {edge.source: edge.source for edge in node.inputs if edge.kind in ("reference", "teacher", "reward")}
        paths = {name: art.locate(root) for name, source in sources.items() if (root := self.root(source))}
        if not paths:
            return entry | {"note": "reads what earlier nodes make: checked when it runs"}
        tokenizer = load_tokenizer(next(iter(paths.values())))
        inputs = self.inputs(node, tokenizer)
        made = info.composed(**inputs, **node.arguments).validate()
        data, prompts = inputs.get("data", ()), []
        if made.asked and "task" in inputs:
            prompts = prompt_groups(inputs["task"].items("train"), tokenizer)[: settings.prompts]
        for collector in made.asked:
            check_prompts(collector, prompts, tokenizer, "")
        if made.samplers:
            check_room(prompts or data, settings.max_tokens, self.longest(node), node.name)
        held = []
        for ref in made.models:
            name = "self" if ref in (SELF, SELF_START) else ref.name
            if name in paths:
                same_vocabulary(tokenizer, load_tokenizer(paths[name]), name)
                count = parameter_count(paths[name])
                held.append(vars(Held(name, uses(made, ref), "while it runs", count, 4 * count)))
        read = [paths[ref.name] for ref in made.read if isinstance(ref, Artefact) and ref.name in paths]
        if shapes := [_shapes(path) for path in read if not is_adapter(path)]:
            common = set.intersection(*map(set, shapes))  # files differ in whether they hold a tied head
            same_shapes(*({name: one[name] for name in common} for one in shapes))
        known = {"prompts": len(prompts), "rows": len(data), "collect": str(made)}
        return entry | {key: value for key, value in known.items() if value} | {"held": held}

    def check_stage(self, node: TrainNode) -> dict[str, Any]:
        settings = node.settings
        entry: dict[str, Any] = {"node": node.name, "method": node.method, "batches": node.batches}
        root = self.root(settings.init)
        if root is None:
            return entry | {"note": "starts from a model that an earlier node makes: checked when it runs"}
        local = art.locate(root)
        positions(local)  # a directory or hub id that is no model says so
        self.check_adapter(node)
        tokenizer = load_tokenizer(local)
        stage, prompts = self.stage(node, tokenizer)
        if not prompts and not self.made_data(node):
            raise DataError("there is nothing to draw from", where=node.name)
        names = {ref.name for ref in stage.models if isinstance(ref, Artefact)}
        sizes = {"self": parameter_count(art.locate(root))}
        sources = {name: settings.teacher if name == "teacher" else name for name in names}
        for name, other in ((name, art.locate(r)) for name, s in sources.items() if (r := self.root(s))):
            same_vocabulary(tokenizer, load_tokenizer(other), name)
            sizes[name] = parameter_count(other)
        self.heads[f"${node.name}"] = stage.main.head
        self.check_heads(stage, settings.init, sources)
        for source in (sources[need.model.name] for need in stage.needs if need.what == "importance"):
            self.check_importance(source)
        if set(sources) <= set(sizes):
            rank, is_new = self.adapter(node, local)
            trained = adapter_parameter_count(local, rank) if rank else None
            held = plan(stage, sizes, trained=trained, lora=bool(rank) and is_new)
            entry["held"] = [vars(line) for line in held]
            moved = trained or sum(sizes["self"] for _ in stage.learners)
            kept = settings.steps, settings.save_steps, settings.save_total_limit
            self.disk_bytes += stage_bytes(moved, moved, *kept)
        if self.made_data(node):
            return entry | {"collect": str(stage.collect), "note": f"{settings.data} is read when it runs"}
        if node.name in self.heldout:
            entry["held_out"] = len(self.heldout[node.name])
        asked = self.admitted.get(node.name, {}).get("contamination", {})
        entry |= {"ask_what_is_held_out": {task: o["rows"] for task, o in asked.items()}} if asked else {}
        supervised = int(sum(m.trainable.sum() for g in prompts for m in g.members))
        return entry | {"prompts": len(prompts), "supervised_tokens": supervised, "collect": str(stage.collect)}

    def check_heads(self, stage: Stage, init: str, sources: Mapping[str, str]) -> None:
        """Rewards are read off reward models, and nothing else is."""
        needed = [(need.what, ref) for need in stage.needs if not need.of_weights for ref in need.model.walk()]
        read = [(what, sources[ref.name]) for what, ref in needed if isinstance(ref, Artefact)]
        if stage.main.head is None:
            read.append(("logp", init))
        for what, source in read:
            if source in self.heads:
                head = self.heads[source]
            elif source.startswith("$"):
                continue  # an earlier node makes it, and says what it is when it has
            else:
                head = head_of(art.locate(source))
            if (what in ("value", "score")) != (head is not None):
                raise ModelError(
                    f"{source} is {'a reward model' if head else 'a language model'}",
                    why=f"{what} is asked of it",
                    fix="a language model" if head else "a model made by train_reward_model, or any with one label",
                )

    def check_importance(self, source: str) -> None:
        """An importance is a mean of squares; what a function makes is looked at when it is there."""
        made = self.recipe.node(source[1:]) if source.startswith("$") else None
        if made is None:
            matrix, share = negative_share(art.locate(source))
            why = f"{share:.0%} of its {matrix} is negative" if share else ""
        else:
            importance = (
                isinstance(made, MakeNode) and registry.get(made.method).example(**made.arguments).makes == "weights"
            )
            why = "" if importance or isinstance(made, FunctionNode) else f"it is a model that {made.method} makes"
        if why:
            raise ModelError(
                f"{source} says nothing of how much each parameter matters",
                why=why + "; importance is a mean of squared gradients",
                fix="what a node {method: fisher, init: THE MODEL TO KEEP} made: fisher: $NODE",
            )

    def adapter(self, node: TrainNode, root: Path) -> tuple[int | None, bool]:
        """(rank of the adapter a stage trains or None, whether the adapter is new in it)."""
        if is_adapter(root):
            return _rank(root), False
        for earlier in self.recipe.adapted(node.settings.init):
            return earlier.settings.lora.r, False
        return (node.settings.lora.r, True) if node.settings.lora else (None, False)

    def check_adapter(self, node: TrainNode) -> None:
        """A stage that starts from a stage's adapter continues it, so both have to ask for the same one."""
        asked = node.settings.lora
        for earlier in self.recipe.adapted(node.settings.init) if asked else ():
            there = earlier.settings.lora
            if (there.r, there.alpha) != (asked.r, asked.alpha):
                raise ModelError(
                    f"the adapter of ${earlier.name} has r {there.r} and alpha {there.alpha:g}, "
                    f"asked for are {asked.r} and {asked.alpha:g}",
                    where=node.place,
                    why="a stage that starts from an adapter continues it",
                    fix=f"lora: {{r: {there.r}, alpha: {there.alpha:g}}}, or leave lora out",
                )

    def check_gate(self, node: GateNode) -> dict[str, Any]:
        """Both sides are what the limits are about; what nodes make was settled when the recipe was resolved."""
        self.heads[f"${node.name}"] = "score" if "model" in node.judges else None
        for source in filter(None, (node.gate, node.init)):
            if source.startswith("$") or node.judges == "data":
                continue
            if (head_of(art.locate(source)) is None) != (node.judges == "policy"):
                raise ModelError(
                    f"{source} is a {'reward' if node.judges == 'policy' else 'language'} model",
                    why=f"the limits are about a {node.judges}",
                )
        against = f" against {node.init}" if node.init else ""
        ends = {"stop": "the run stops", "warn": "a warning, and it goes on", "rollback": f"{node.init} goes on"}
        entry = {"node": node.name, "gate": f"{node.gate}{against}", "limits": "; ".join(node.words())}
        return entry | {"if_not": ends[node.on_fail]}

    def check_probes(self) -> list[dict[str, Any]]:
        """Of every probe task and every shifted version of one: how many items are held out, and of those that are
        probed how many have the scaffold."""
        probe, entries, views = self.recipe.probe, [], set()
        versions = ((probe and probe.shifted) or {}).values()
        shifted = {name: spec for named in versions for name, spec in named.items()}
        for name, spec in {**self.probe_specs, **shifted}.items():
            try:
                items = self.task(spec).items("heldout")
                if not items:
                    raise DataError(f"probe task {name} has no held-out items", fix="a larger data set")
                entries.append({"task": name, "heldout": len(items)})
                if probe.scaffold and name not in shifted:
                    views |= {view for item in items for view in item.views}
                    entries[-1]["scaffolded"] = len(probed_items(self.task(spec), probe, probe.scaffold))
            except OffonError as error:
                self.errors.append(error)
        if probe and probe.scaffold and not any(entry.get("scaffolded") for entry in entries):
            fix = f"one of {', '.join(sorted(views))}" if views else "rows with views: {NAME: PROMPT}, or no scaffold"
            what = f"no probed item has a view {probe.scaffold!r}"
            self.errors.append(ConfigError(what, where="probe.scaffold", fix=fix))
        return entries


def check_recipe(recipe: ResolvedRecipe) -> dict[str, Any]:
    """What a run would do, from configuration, data and tokenizers alone. Raises all problems together."""
    checker = Checker(recipe)
    nodes = [checker.check(node) for node in recipe.nodes]
    probes = checker.check_probes()
    if checker.errors:
        raise checker.errors[0] if len(checker.errors) == 1 else Problems(checker.errors)
    plan = {"recipe": recipe.name, "nodes": nodes, "probes": probes, "notes": list(recipe.notes)}
    return plan | {"disk_bytes": checker.disk_bytes}


def parameter_count(path: Path) -> int:
    """Parameters of a local model, from its safetensors headers; an adapter counts with its base."""
    total = sum(math.prod(shape) for shape in _shapes(path).values())
    if is_adapter(path):
        total += parameter_count(Path(json_object(path / "adapter_config.json")["base_model_name_or_path"]))
    return total


def adapter_parameter_count(path: Path, r: int) -> int:
    """Parameters of an adapter: as saved, or of rank r on every matrix but embeddings and head, r (in + out) each."""
    if is_adapter(path):
        return sum(math.prod(shape) for shape in _shapes(path).values())
    matrices = (shape for name, shape in _shapes(path).items() if len(shape) == 2 and not _OUTER.search(name))
    return sum(r * sum(shape) for shape in matrices)


def _rank(path: Path) -> int:
    rank = json_object(path / "adapter_config.json").get("r")
    if not isinstance(rank, int):
        raise ModelError(f"adapter_config.json has no rank r, but {rank!r}", where=str(path))
    return rank


def negative_share(path: Path) -> tuple[str, float]:
    """(name, share of negative entries) of the smallest matrix in a directory of weights: about half in a model."""
    shapes = {name: shape for name, shape in _shapes(path).items() if len(shape) == 2}
    smallest = min(shapes, key=lambda name: math.prod(shapes[name]), default="")
    for file in sorted(path.glob("*.safetensors")):
        with safe_open(file, "pt") as weights:
            if smallest in weights.keys():  # noqa: SIM118  it is no mapping
                return smallest, float((weights.get_tensor(smallest) < 0).float().mean())
    return smallest, 0.0


_OUTER = re.compile(r"embed|wte|wpe|lm_head")


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    tensors = (tensors_of(file) for file in sorted(path.glob("*.safetensors")))
    return {name: tuple(tensor["shape"]) for one in tensors for name, tensor in one.items()}
