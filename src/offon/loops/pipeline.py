"""Running a pipeline: nodes over named artefacts, memoised by content, so that resuming is running it again."""

from __future__ import annotations

import inspect
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from offon import __version__, report
from offon.collect import Rollouts
from offon.data import LOADERS, prompt_groups
from offon.engines.native import NativeEngine
from offon.errors import Interrupted, OffonError
from offon.loops import artefacts as art
from offon.loops.artefacts import Artefact
from offon.loops.build import build_stage, check_prompts, check_room, prompts_of
from offon.loops.handoff import diagnosis, handoff
from offon.loops.holdings import Holdings
from offon.loops.probe import probe_key, run_probe
from offon.loops.runtime import Runtime, sampling_of
from offon.loops.stage import run_stage
from offon.loops.toolbox import FrozenModels, Workshop
from offon.methods import registry
from offon.models.loading import head_of, load_tokenizer, positions
from offon.models.model import LoraSpec, Model
from offon.parts.stage import Stage
from offon.recipe import FunctionNode, MakeNode, MethodNode, ResolvedRecipe, TrainNode
from offon.recipe.arguments import Names, visited
from offon.recipe.functions import function_at
from offon.recipe.resolved import Node
from offon.recipe.values import annotation_of
from offon.runs import NodeDirectory, RunDirectory
from offon.tasks import open_task
from offon.types import Group

HOUSEKEEPING = ("save_steps", "save_total_limit")  # change what is kept on the way, never the result
Progress = Callable[[dict[str, Any]], None]


def run_recipe(
    recipe: ResolvedRecipe,
    output: str | Path,
    *,
    resume: bool = False,
    progress: Progress = lambda event: None,
    command: str = "",
) -> Path:
    """Run every node of a recipe in order, measure before and after each, and leave a report in the run directory.

    Every mistake that can be found without weights is found first. resume continues a run directory: finished nodes
    whose inputs have not changed are kept, an interrupted one goes on at its last checkpoint. Whatever ends the run,
    status.json says so and what is finished stays.
    """
    from offon.loops.check import check_recipe  # a check is a pipeline that stops short of models

    check_recipe(recipe)
    output = Path(output)
    info = {"name": output.name, "seed": recipe.seed, "command": command}
    with RunDirectory.create(output, recipe_text=recipe.dump(), info=info, resume=resume) as run, stopping() as stop:
        pipeline = Pipeline(recipe, run, progress, stop)
        try:
            pipeline.run_all()
        except OffonError as error:
            state = "interrupted" if isinstance(error, Interrupted) else "failed"
            pipeline.fail(state, error.exit_code, str(error))
            raise
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt)
            pipeline.fail("interrupted" if stopped else "failed", 130 if stopped else 1, traceback.format_exc())
            raise
        run.write_status("done", exit_code=0)
        report.write(run.path)
    return run.path


class Pipeline:
    """The nodes of one run. Nothing here knows a method; rows, tasks and models are asked what they need."""

    def __init__(self, recipe: ResolvedRecipe, run: RunDirectory, progress: Progress, stop: Callable[[], bool]):
        self.recipe, self.run, self.progress, self.stop = recipe, run, progress, stop
        self.engine = NativeEngine()
        self.made: dict[str, Artefact] = {}
        self.states = {node.name: {"state": "pending"} for node in recipe.nodes}
        probed = recipe.probe.tasks if recipe.probe else None
        self.probe_specs = dict(probed or {})
        self.trained = {node.name for node in recipe.nodes if isinstance(node, TrainNode)}
        self._tasks: dict[str, Any] = {}

    def run_all(self) -> None:
        self.picture()
        for node in self.recipe.nodes:
            self.states[node.name]["state"] = "running"
            self.picture()
            self.made[f"${node.name}"] = self.result(node)
            self.states[node.name]["state"] = "done"
            self.picture()

    def result(self, node: Node) -> Artefact:
        match node:
            case TrainNode():
                return self.train(node)
            case MakeNode():
                return self.make(node)
            case FunctionNode():
                return self.call(node)

    def fail(self, state: str, exit_code: int, error: str) -> None:
        now = self.run.status()
        for entry in self.states.values():
            if entry["state"] == "running":
                entry["state"] = "failed" if state == "failed" else "pending"
        self.picture()
        where = {name: now.get(name) for name in ("node", "step", "steps") if now.get(name) is not None}
        self.run.write_status(state, exit_code=exit_code, error=error, **where)
        try:
            report.write(self.run.path)
        except Exception as unwritten:  # what ended the run is the news; a missing page must not hide it
            self.note(f"the report could not be written: {unwritten}")

    # --- artefacts ---------------------------------------------------------------------------------------------

    def artefact(self, source: str) -> Artefact:
        return self.made[source] if source.startswith("$") else art.external(source)

    def task(self, spec: Any) -> Any:
        key = repr(spec)
        if key not in self._tasks:
            self._tasks[key] = open_task(spec)
        return self._tasks[key]

    def _begin(self, node: Node, settings: Mapping[str, Any]) -> tuple[NodeDirectory, str, bool]:
        """(directory, hash, whether it is already done). A node whose inputs changed starts afresh."""
        inputs = {f"{edge.kind}:{edge.source}": self.artefact(edge.source).hash for edge in node.inputs}
        key = art.node_hash(node.kind, settings, inputs, __version__)
        directory = self.run.node(node.name)
        record = directory.read_json("node.json", {})
        if record and record.get("hash") != key:
            self.note(f"{node.name}: its settings, inputs or offon's version changed, starts afresh")
            directory.reset()
            record = {}
        self.states[node.name]["hash"] = key
        done = record.get("state") == "done" and directory.final_path is not None
        if done:
            self.states[node.name]["seconds"] = record.get("seconds", 0)
            self.note(f"{node.name}: already done, kept")
        else:
            directory.write_json("node.json", {"hash": key, "kind": node.kind, "state": "running"})
        return directory, key, done

    def note(self, sentence: str) -> None:
        self.progress({"note": sentence})

    # --- make --------------------------------------------------------------------------------------------------

    def make(self, node: MakeNode) -> Artefact:
        """Data or weights made by a row with a toolbox. A model is measured as one that a stage made is."""
        directory, key, done = self._begin(node, self._described(node))
        if not done:
            self.run.write_status("running", node=node.name)
            self.note(f"{node.name}: {node.summary}")
            started = time.perf_counter()
            directory.rewind(0, -1)
            with directory.final() as target:
                workshop = self.workshop(node, directory, Path(target))
                arguments = self.loaded(node, node.method, node.arguments, workshop.tokenizer)
                registry.get(node.method).function(workshop, **self.inputs(node, workshop.tokenizer), **arguments)
                workshop.finish()
            cost = {**workshop.cost, "seconds": time.perf_counter() - started}
            record = {"hash": key, "kind": node.kind, "seconds": cost["seconds"], "cost": cost}
            self._finish(directory, record | {"measured": workshop.measured}, node.name)
        final = Artefact(directory.final_path, node.name, key)
        if directory.read_json("node.json")["measured"]:
            self.measure(final, root=True)
        return final

    def workshop(self, node: MakeNode, directory: NodeDirectory, target: Path) -> Workshop:
        settings = node.settings
        models = FrozenModels(settings.init and self.artefact(settings.init).path, self._models_of(node))
        tokenizer = load_tokenizer(models.any_path)

        def prompts() -> list[Group]:
            found = prompt_groups(self.task(settings.task).items("train"), tokenizer)
            check_room(found, settings.max_tokens, self.longest(node), node.name)
            return found

        return Workshop(
            directory, target, models, settings, sampling_of(settings), prompts, tokenizer,
            engine=self.engine, progress=self._stepped, interrupted=self.stop,
        )  # fmt: skip

    def call(self, node: FunctionNode) -> Artefact:
        """What a function of the user's wrote."""
        directory, key, done = self._begin(
            node, {"function": _source_of(node.function), "arguments": dict(node.arguments)}
        )
        if not done:
            self.run.write_status("running", node=node.name)
            self.note(f"{node.name}: {Path(node.function).name}")
            started = time.perf_counter()
            with directory.final() as target:
                function_at(node.function)(Path(target), **self._resolved(node))
            seconds = time.perf_counter() - started
            self._finish(directory, {"hash": key, "kind": node.kind, "seconds": seconds}, node.name)
        return Artefact(directory.final_path, node.name, key)

    def _resolved(self, node: FunctionNode) -> Any:
        """Arguments with the path of what they name: $node wherever it stands, other sources where annotated."""
        parameters = inspect.signature(function_at(node.function), eval_str=True).parameters

        def path(names: Names | None, text: str, place: Any) -> str:
            return str(self.artefact(text).path) if names or text in self.made else text

        return {key: visited(annotation_of(parameters[key]), value, path) for key, value in node.arguments.items()}

    def _finish(self, directory: NodeDirectory, record: dict[str, Any], name: str) -> None:
        directory.write_json("node.json", {**record, "state": "done"})
        self.states[name] |= {key: record[key] for key in ("seconds", "cost") if key in record}

    # --- train -------------------------------------------------------------------------------------------------

    def train(self, node: TrainNode) -> Artefact:
        settings = node.settings
        directory, key, done = self._begin(node, self._described(node))
        init = self.artefact(settings.init)
        before = self.measure(init, root=settings.init.removeprefix("$") not in self.trained)
        if not done:
            record = self._train(node, directory, init)
            self._finish(directory, {"hash": key, "kind": node.kind, **record}, node.name)
        final = Artefact(directory.final_path, node.name, key)
        after = self.measure(final)
        result = handoff(self.run, directory, init.label, before, after, self.recipe)
        directory.write_json("handoff.json", result)
        if after:
            entries = diagnosis(self.run, final.label, after, self.recipe.probe.k, {init.label: before})
            self.run.write_diagnosis(entries)
        for warning in result["warnings"]:
            self.note(f"{node.name}: {warning}")
        return final

    @staticmethod
    def _described(node: MethodNode) -> dict[str, Any]:
        """What of a node enters its hash, beside the content of its inputs."""
        settings = node.settings
        return {
            "method": _source_of(node.method),
            "settings": {
                field.name: art.described(getattr(settings, field.name))
                for field in fields(settings)
                if field.name not in HOUSEKEEPING
            },
            **({"task files": files} if (files := art.task_files(settings.task)) else {}),
            "arguments": dict(node.arguments),
            "modifiers": [(m.name, dict(m.arguments)) for m in node.modifiers],
        }

    def _train(self, node: TrainNode, directory: NodeDirectory, init: Artefact) -> dict[str, Any]:
        started = time.perf_counter()
        settings = node.settings
        found = directory.latest_checkpoint()
        stage, prompts = self.stage(node, load_tokenizer(init.path))
        holdings = Holdings(
            stage, init.path, self._models_of(node), lora=lora_of(settings), checkpoint=found.path if found else None,
            checkpointing=settings.gradient_checkpointing,
        )  # fmt: skip
        run_time = Runtime(
            directory, holdings, prompts, settings, progress=self._stepped, interrupted=self.stop, engine=self.engine
        )
        run_stage(stage, run_time)
        with directory.final() as target:
            holdings.save_learners(target)
        state = run_time.state.to_json()
        return {"seconds": time.perf_counter() - started, "counters": state, "group_size": _group_size(stage)}

    def _models_of(self, node: MethodNode) -> dict[str, Path]:
        """Models other than the learner by the names the row's parts know them under."""
        paths = {edge.source: self.artefact(edge.source).path for edge in node.inputs if edge.kind != "data"}
        if node.settings.teacher:
            paths["teacher"] = self.artefact(node.settings.teacher).path
        return paths

    def stage(self, node: TrainNode, tokenizer: Any) -> tuple[Stage, list[Group]]:
        """The node's stage with its data loaded, and the prompts it draws from."""
        settings = node.settings
        modifiers = [(m.name, self.loaded(node, m.name, m.arguments, tokenizer)) for m in node.modifiers]
        arguments = self.loaded(node, node.method, node.arguments, tokenizer)
        inputs = self.inputs(node, tokenizer)
        stage = build_stage(node.method, inputs, arguments, modifiers, sampling_of(settings), tokenizer)
        data, task = prompts_of(stage)
        prompts = list(data) if data is not None else prompt_groups(task.items("train"), tokenizer)
        check_prompts(stage, prompts, node.name)
        if data is None:
            turns = 1 + sum(part.turns for part in stage.collect.everything)
            check_room(prompts, settings.max_tokens, self.longest(node), node.name, responses=turns)
        return stage, prompts

    def inputs(self, node: MethodNode, tokenizer: Any) -> dict[str, Any]:
        """The inputs its row takes, as far as the node has them: data loaded, tasks open, the teacher by its name."""
        settings = node.settings
        found: dict[str, Any] = {"teacher": settings.teacher and "teacher"}
        if settings.data is not None:
            found["data"] = self.data(node, settings.data, node.reads, tokenizer)
        if settings.task is not None:
            found["task"] = self.task(settings.task)
        return {name: found[name] for name in registry.get(node.method).inputs if found.get(name) is not None}

    def loaded(self, node: MethodNode, name: str, arguments: Mapping[str, Any], tokenizer: Any) -> dict[str, Any]:
        """A row's arguments with what they name in its place: data as groups, made directories as paths. Models stay
        names: who needs one is given it."""
        parameters = registry.get(name).arguments

        def load(names: Names | None, source: str, place: Any) -> Any:
            if names is None or names.what == "model":
                return source
            if names.what == "artefact":
                return self.artefact(source).path
            return self.data(node, source, names.what, tokenizer)

        return {key: visited(annotation_of(parameters[key]), value, load) for key, value in arguments.items()}

    def data(self, node: MethodNode, source: Any, reads: str, tokenizer: Any) -> list[Group]:
        settings = node.settings
        if isinstance(source, str):
            source = art.data_file(self.artefact(source)) if source in self.made or Path(source).exists() else source
        limits = [limit for limit in (settings.max_length, self.longest(node)) if limit]
        options = {"columns": settings.columns, "max_length": min(limits, default=None)}
        if reads == "demonstrations":
            options["supervise"] = settings.supervise
        options = {name: value for name, value in options.items() if value is not None}
        groups = LOADERS[reads](source, tokenizer, **options)
        self.note(f"{node.name}: {groups.report}")
        return groups

    def longest(self, node: MethodNode) -> int | None:
        """What the model can read, in tokens."""
        return positions(self.artefact(node.settings.init).path) if node.settings.init else None

    def _stepped(self, event: dict[str, Any]) -> None:
        if "generated" not in event:
            self.run.write_status("running", node=event["node"], step=event["step"], steps=event["steps"])
        self.progress(event)

    # --- measure -----------------------------------------------------------------------------------------------

    def measure(self, artefact: Artefact, root: bool = False) -> dict[str, list[Group]]:
        """Probe a model on every probe task; what was sampled before is read back. Roots are also diagnosed. A reward
        model says nothing that could be probed."""
        probe = self.recipe.probe
        if probe is None or head_of(artefact.path) is not None:
            return {}
        model: Model | None = None
        results = {}
        for name, spec in self.probe_specs.items():
            key = probe_key(probe, artefact.hash, spec, self.recipe.seed)
            groups = self.run.read_probe(key)
            if groups is None:
                model = model or Model.load(artefact.path)

                def sampled(done: int, total: int, name=name) -> None:
                    if self.stop():
                        raise Interrupted("interrupted while probing", kept="finished stages and probes; use --resume")
                    self.progress({"node": f"probe {artefact.label}", "task": name, "generated": (done, total)})

                groups = run_probe(model, self.task(spec), probe, key, engine=self.engine, progress=sampled)
                self.run.write_probe(key, groups, node=artefact.label)
            results[name] = groups
        if root:
            self.run.write_diagnosis(diagnosis(self.run, artefact.label, results, probe.k))
        return results

    # --- picture -----------------------------------------------------------------------------------------------

    def picture(self) -> None:
        """pipeline.json: the graph of nodes and of the models it starts from."""
        nodes, roots = [], {}
        for node in self.recipe.nodes:
            entry = {"name": node.name, "kind": node.kind, **self.states[node.name], "inputs": []}
            if isinstance(node, MethodNode):
                info = registry.get(node.method)
                words = ("family", "interface", "usual_provenance", "usual_role")
                entry |= {"method": info.name, **{word: getattr(info, word) for word in words}}
            if isinstance(node, TrainNode):
                entry["steps"] = node.settings.steps
            for edge in node.inputs:
                source = edge.node or _label(edge.source)
                entry["inputs"].append({"kind": edge.kind, "from": source})
                if edge.node is None and edge.kind in ("init", "teacher"):
                    roots[source] = {"name": source, "kind": "model", "state": "done", "inputs": []}
            nodes.append(entry)
        probe = self.recipe.probe
        measured = {"k": probe.k, "prompts": probe.prompts, "samples": probe.samples} if probe else None
        self.run.write_pipeline({"nodes": [*roots.values(), *nodes], "probe": measured})


def lora_of(settings) -> LoraSpec | None:
    return None if settings.lora is None else LoraSpec(**asdict(settings.lora), seed=settings.seed)


def _label(source: str) -> str:
    return source if source.startswith(art.TESTBED) else Path(source).name


def _source_of(place: str) -> str:
    """A function in a file counts by the file's content, a method of the catalogue by its name."""
    file, colon, _ = place.rpartition(":")
    return f"{place} {art.content_hash(Path(file))}" if colon else place


def _group_size(stage: Stage) -> int | None:
    sizes = [part.n for part in stage.collect.everything if isinstance(part, Rollouts)]
    return sizes[0] if sizes else None


@contextmanager
def stopping() -> Iterator[Callable[[], bool]]:
    """Within it the first SIGINT or SIGTERM asks the run to stop after its step; the second stops at once."""
    asked: list[int] = []

    def ask(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    try:
        before = {number: signal.signal(number, ask) for number in numbers}
    except ValueError:  # not the main thread: the caller handles signals
        before = {}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
