"""Running a pipeline: nodes over named artefacts, memoised by content, so that resuming is running it again."""

from __future__ import annotations

import inspect
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from offon import reporting
from offon.catalogue import registry
from offon.catalogue.arguments import Names, visited
from offon.catalogue.user_function import function_at
from offon.collect import Rollouts
from offon.console import heard_if_possible
from offon.data import prompt_groups
from offon.data.clock import template_clock
from offon.engines.factory import create_engine
from offon.engines.stops import end_turns
from offon.errors import GateClosed, Interrupted, OffonError, of_the_machine
from offon.measure.probe_cache import ProbeCache
from offon.measure.probe_diagnosis import diagnosis
from offon.models.loading import load_tokenizer
from offon.models.model import GENERATION, LoraSpec, device_name
from offon.objects import is_object, stands_for
from offon.parts.stage import Stage
from offon.pipeline import admission, gates
from offon.pipeline.graph import graph
from offon.pipeline.inputs import Inputs
from offon.pipeline.make_node import FrozenModels, MakeRunner
from offon.pipeline.resume.changes import Comparison, Wishes
from offon.pipeline.session import Session
from offon.pipeline.stage_report.artefact_report import ArtefactReport
from offon.pipeline.stage_report.build import handed_on
from offon.pipeline.stage_report.chain import contributions
from offon.pipeline.stage_report.metrics import changes, flaws
from offon.pipeline.stopping import of_the_node, stopping
from offon.recipe import FunctionNode, GateNode, MakeNode, MethodNode, ResolvedRecipe, TrainNode
from offon.recipe.fields import sampling_of
from offon.recipe.record import refuse_other_objects
from offon.recipe.resolved import Node
from offon.recipe.values import annotation_of
from offon.runs import NodeDirectory, RunDirectory
from offon.runs.artefacts import Artefact
from offon.runs.directory import refuse_if_running
from offon.runs.holes import digest, require_whole_shards
from offon.runs.space import require_room
from offon.tasks.unscored import in_words, is_news
from offon.train.build import check_room
from offon.train.loop import run_stage
from offon.train.models import ModelSet
from offon.train.state import TrainState
from offon.types import Group

Progress = Callable[[dict[str, Any]], None]


def run_recipe(
    recipe: ResolvedRecipe,
    output: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    wishes: Wishes = Wishes(),
    progress: Progress = lambda event: None,
    command: str = "",
) -> Path:
    """Run every node of a recipe in order, measure before and after each, and leave a report in the run directory.

    Every mistake that can be found without weights is found first. resume continues a run directory: finished nodes
    are kept, an interrupted one goes on at its last checkpoint, and where an input has changed since, it says which and
    touches nothing, unless `wishes` names what may differ and what is made anew. overwrite puts the run that is there
    aside, and deletes it once this one has its first checkpoint or result. Whatever ends the run, status.json says so
    and what is finished stays.
    """
    from offon.pipeline.check import check_recipe  # a check is a pipeline that stops short of models

    plan, output = check_recipe(recipe), Path(output)
    near = require_room(output, plan["disk_bytes"])
    wishes.require_resume(resume)
    refuse_if_running(output)
    if resume:
        refuse_other_objects(output, recipe.dump())
        Comparison(recipe, RunDirectory(output), wishes).compare()
    info = {"name": output.name, "seed": recipe.seed, "command": command, "device": device_name()}
    text = recipe.dump()
    with (
        stopping() as stop,
        RunDirectory.create(output, recipe_text=text, info=info, resume=resume, overwrite=overwrite) as run,
        template_clock(run.info()["created"]),
    ):
        pipeline = Pipeline(recipe, run, heard_if_possible(progress), stop, wishes)
        noteworthy = [*run.mended, *filter(None, [near, run.moved_on()])]
        try:
            pipeline.run_all(noteworthy)
            pipeline.status("done", exit_code=0)
            reporting.write(run.path)
        except OffonError as error:
            error.kept = "; ".join(filter(None, [error.kept, run.kept_aside()]))
            if isinstance(error, Interrupted):
                error.exit_code = getattr(stop, "exit_code", error.exit_code)
            ends = {Interrupted: "interrupted", GateClosed: "stopped"}
            pipeline.fail(ends.get(type(error), "failed"), error.exit_code, str(error))
            raise
        except KeyboardInterrupt as error:
            pipeline.fail("interrupted", getattr(error, "exit_code", 130), traceback.format_exc())
            raise
        except BaseException as error:
            known = of_the_machine(error)
            if known is None:
                pipeline.fail("failed", 1, traceback.format_exc())
                raise
            pipeline.advise(known)
            pipeline.fail("failed", known.exit_code, str(known))
            raise known from error
    return run.path


class Pipeline(Inputs):
    """The nodes of one run. Nothing here knows a method; rows, tasks and models are asked what they need."""

    def __init__(
        self,
        recipe: ResolvedRecipe,
        run: RunDirectory,
        progress: Progress,
        stop: Callable[[], bool],
        wishes: Wishes = Wishes(),
    ):
        super().__init__(recipe)
        self.run, self.progress, self.stop = run, progress, stop
        self.comparison = Comparison(recipe, run, wishes)
        self.engine = create_engine()
        self.states = {node.name: {"state": "pending"} for node in recipe.nodes}
        self.trained = {f"${node.name}" for node in recipe.nodes if isinstance(node, TrainNode)}
        self.warnings: list[str] = []
        self.measure = ProbeCache(recipe, run, self.task, self.engine, progress, stop, self.probe_specs)
        self.session = Session(recipe, run, self.made, self.measure, self.task, self.artefact, stop)
        self.artefact_report = ArtefactReport(self.measure, self.artefact, self.note)

    def run_all(self, noteworthy: Sequence[str] = ()) -> None:
        self.note(f"computes in float32 on {device_name()}")
        for sentence in noteworthy:
            self.warn(sentence)
        for node in self.recipe.nodes:  # what a stage reports reads the shards of all
            require_whole_shards(self.run.node(node.name))
        self.picture()
        for node in self.recipe.nodes:
            if self.stop():
                raise Interrupted(f"interrupted before {node.name}", kept="finished stages; run again with --resume")
            self.states[node.name]["state"] = "running"
            self.picture()
            self.made[f"${node.name}"] = self.result(node)
            self.run.write_json("path.json", contributions(self.session))
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
            case GateNode():
                return self.gate(node)

    def picture(self) -> None:
        self.run.write_pipeline(graph(self.recipe, self.states))

    def status(self, state: str, **where: Any) -> None:
        self.run.write_status(state, warnings=self.warnings, **where)

    def fail(self, state: str, exit_code: int, error: str) -> None:
        now = self.run.status()
        for entry in self.states.values():
            if entry["state"] == "running":
                entry["state"] = state if state in ("failed", "stopped") else "pending"
        where = {name: now.get(name) for name in ("node", "step", "steps") if now.get(name) is not None}
        lasts: dict[str, Callable[[], Any]] = {
            "status.json": partial(self.status, state, exit_code=exit_code, error=error, **where),
            "pipeline.json": self.picture,
            "the report": partial(reporting.write, self.run.path),
        }
        for what, write in lasts.items():
            try:
                write()
            except Exception as unwritten:  # what ended the run is the news; a file that is missing must not hide it
                self.note(f"{what} could not be written: {unwritten}")

    def advise(self, error: OffonError) -> None:
        node = next((node for node in self.recipe.nodes if self.states[node.name]["state"] == "running"), None)
        if node is not None:
            of_the_node(error, node, self.run)

    # --- artefacts ---------------------------------------------------------------------------------------------

    def _begin(self, node: Node) -> tuple[NodeDirectory, str, bool]:
        """(directory, hash, whether it is already done). What is there is kept, gone on with, or set aside where that
        was asked for (`offon.pipeline.resume.changes`)."""
        directory = self.run.node(node.name)
        record = directory.read_json("node.json", {})
        standing = self.comparison.of(node, self.artefact)
        key, allowed = standing.hash, [*record.get("allowed", []), *standing.recorded(directory)]
        if standing.action == "make anew":
            self.note(f"{node.name}: is made anew; what was there is kept in {directory.set_aside()}")
            allowed = []
        elif standing.action == "begin" and record and record.get("hash") != key:
            directory.reset()  # begun, with nothing to go on from
        for one in allowed:
            at = "" if one["step"] is None else f" after step {one['step']}"
            self.warn(f"{node.name}: {one['input']} was {one['before']} and is {one['now']}{at}, as allowed")
        self.states[node.name]["hash"] = key
        done = standing.action == "keep"
        if done:
            self.states[node.name]["seconds"] = record.get("seconds", 0)
            self.note(f"{node.name}: already done, kept")
        record = record if done else {"kind": node.kind, "state": "running"}
        inputs = {"hash": key, "inputs": standing.table, **({"allowed": allowed} if allowed else {})}
        directory.write_json("node.json", {**record, **inputs})
        return directory, key, done

    def note(self, sentence: str) -> None:
        self.progress({"note": sentence})

    def warn(self, sentence: str) -> None:
        """A note that status.json keeps."""
        self.note(sentence)
        if sentence not in self.warnings:
            self.warnings.append(sentence)

    # --- make --------------------------------------------------------------------------------------------------

    def make(self, node: MakeNode) -> Artefact:
        """Data or weights made by a row with a toolbox. A model is measured as one that a stage made is."""
        directory, key, done = self._begin(node)
        if not done:
            self.status("running", node=node.name)
            self.note(f"{node.name}: {node.summary}")
            started = time.perf_counter()
            directory.rewind(0, -1)
            with directory.final() as target:
                workshop = self.workshop(node, directory, Path(target))
                arguments = self.loaded(node, node.method, node.arguments, workshop.tokenizer)
                registry.get(node.method).function(workshop, **self.inputs(node, workshop.tokenizer), **arguments)
                workshop.finish()
            if is_news(workshop.unscored.reasons):
                self.warn(f"{node.name}: unscored: {in_words(workshop.unscored.reasons)}")
            cost = {**workshop.cost, "seconds": time.perf_counter() - started}
            record = {"hash": key, "kind": node.kind, "seconds": cost["seconds"], "cost": cost}
            record |= {"measured": workshop.measured, "producers": self._labels(node, workshop.models.read)}
            record["shards"] = {str(index): digest(directory.shard(index)) for index in directory.buffers()}
            self._finish(directory, record, node.name)
        final, record = Artefact(directory.final_path, node.name, key), directory.read_json("node.json")
        for index in sorted(record.get("shards", {}).keys() - {str(index) for index in directory.buffers()}):
            self.warn(f"the ledger lacks {directory.shard(int(index)).name} of {node.name}")
        self.artefact_report.names.update(record.get("producers", {}))
        if record["measured"]:
            self.measure(final, root=True)
            self.artefact_report.merge(node.name, final, self._parents(node))
        elif not final.is_model:
            self.artefact_report.data(node.name, final)
        return final

    def _labels(self, node: MakeNode, read: Mapping[str, Path]) -> dict[str, str]:
        """Fingerprint -> label of the models that wrote its data."""
        labels = {self.artefact(edge.source).path: self.artefact(edge.source).label for edge in node.inputs}
        return {fingerprint: labels[path] for fingerprint, path in read.items()}

    def _parents(self, node: MakeNode) -> list[Artefact]:
        """The models that a node read, each once."""
        parents = [self.artefact(edge.source) for edge in node.inputs if edge.kind != "data"]
        return list({artefact.hash: artefact for artefact in parents if artefact.is_model}.values())

    def workshop(self, node: MakeNode, directory: NodeDirectory, target: Path) -> MakeRunner:
        settings = node.settings
        models = FrozenModels(settings.init and self.artefact(settings.init).path, self._models_of(node))
        tokenizer = load_tokenizer(models.any_path)

        def prompts() -> list[Group]:
            groups = prompt_groups(self.task(settings.task).items("train"), tokenizer)
            check_room(groups, settings.max_tokens, self.longest(node), node.name)
            return groups

        return MakeRunner(
            directory,
            target,
            models,
            settings,
            sampling_of(settings),
            prompts,
            tokenizer,
            engine=self.engine,
            progress=self._stepped,
            interrupted=self.stop,
        )

    def call(self, node: FunctionNode) -> Artefact:
        """What a function of the user's wrote."""
        directory, key, done = self._begin(node)
        if not done:
            self.status("running", node=node.name)
            self.note(f"{node.name}: {Path(node.function).name}")
            started = time.perf_counter()
            with directory.final() as target:
                function_at(node.function)(Path(target), **self._resolved(node))
            seconds = time.perf_counter() - started
            self._finish(directory, {"hash": key, "kind": node.kind, "seconds": seconds}, node.name)
        made = Artefact(directory.final_path, node.name, key)
        if not made.is_model:
            self.artefact_report.data(node.name, made)
        return made

    def _resolved(self, node: FunctionNode) -> Any:
        """Arguments with the path of what they name: $node wherever it stands, other sources where annotated."""
        parameters = inspect.signature(function_at(node.function), eval_str=True).parameters

        def path(names: Names | None, text: str, place: Any) -> Any:
            if is_object(text):
                return stands_for(text)
            return str(self.artefact(text).path) if names or text in self.made else text

        return {key: visited(annotation_of(parameters[key]), value, path) for key, value in node.arguments.items()}

    def _finish(self, directory: NodeDirectory, record: dict[str, Any], name: str) -> None:
        directory.write_json("node.json", {**directory.read_json("node.json", {}), **record, "state": "done"})
        self.run.has_something()
        self.states[name] |= {key: record[key] for key in ("seconds", "cost") if key in record}

    # --- gate --------------------------------------------------------------------------------------------------

    def gate(self, node: GateNode) -> Artefact:
        """The candidate, or what its gate takes in its place: whoever reads the gate reads that, under its own hash."""
        candidate = self.artefact(node.gate)
        against = self.artefact(node.init) if node.init else None
        directory, key, done = self._begin(node)
        self.status("running", node=node.name)
        if not done:
            started = time.perf_counter()
            directory.write_json("gate.json", self.judge(node, candidate, against))
            seconds = time.perf_counter() - started
            self._finish(directory, {"hash": key, "kind": node.kind, "seconds": seconds}, node.name)
        result = directory.read_json("gate.json")
        self.states[node.name] |= {name: result[name] for name in ("passed", "took")}
        self.note(f"{node.name}: {result['sentence']}")
        if not result["passed"] and node.on_fail != "stop":
            self.warnings.append(f"{node.name}: {result['sentence']}")
        gates.stop_unless_passed(node, result)
        return candidate if result["took"] == candidate.label else against

    def judge(self, node: GateNode, candidate: Artefact, against: Artefact | None) -> dict[str, Any]:
        labels = candidate.label, against and against.label
        if node.judges != "policy":
            return gates.decided(node, *labels, gates.of_artefact(self.artefact_report.of(candidate)))
        after = self.measure(candidate)
        entries = changes(self.measure(against) if against else after, after, self.recipe)
        values = gates.of_policy(entries, self.recipe.probe.k)
        return gates.decided(node, *labels, values, entries)

    # --- train -------------------------------------------------------------------------------------------------

    def train(self, node: TrainNode) -> Artefact:
        settings = node.settings
        directory, key, done = self._begin(node)
        init = self.artefact(settings.init)
        before = self.measure(init, root=self.recipe.past_gates(settings.init) not in self.trained)
        if not done:
            record = self._train(node, directory, init)
            record["data"] = self.admitted.get(node.name, {})
            self._finish(directory, {"hash": key, "kind": node.kind, **record}, node.name)
        final = Artefact(directory.final_path, node.name, key)
        after = self.measure(final)
        result = handed_on(self.session, node, directory, (init, final), (before, after))
        result["data"] = directory.read_json("node.json").get("data", {})
        result["warnings"] = [*admission.sentences(result["data"]), *result["warnings"]]
        directory.write_json("handoff.json", result)
        if after:
            entries = diagnosis(self.run, final.label, after, self.recipe.probe.k, {init.label: before})
            self.run.write_diagnosis(entries)
        for warning in result["warnings"]:
            self.note(f"{node.name}: {warning}")
        self.warnings += [f"{node.name}: {flaw}" for flaw in flaws(directory)]
        if node.makes != "policy":
            self.artefact_report.reward_model(node, final, lambda: self._heldout(node, final))
        return final

    def _heldout(self, node: TrainNode, final: Artefact) -> list[Group]:
        if node.name not in self.heldout:  # trained in an earlier session
            self.training_data(node, load_tokenizer(final.path))
        return self.heldout[node.name]

    def _train(self, node: TrainNode, directory: NodeDirectory, init: Artefact) -> dict[str, Any]:
        started = time.perf_counter()
        settings = node.settings
        checkpoint = directory.latest_checkpoint()
        stage, prompts = self.stage(node, load_tokenizer(init.path))
        models = ModelSet(
            stage,
            init.path,
            self._models_of(node),
            lora=lora_of(settings),
            checkpoint=checkpoint.path if checkpoint else None,
            checkpointing=settings.gradient_checkpointing,
        )
        if ends := end_turns(models.learner, (group.prompt for group in prompts)):
            tokens = ", ".join(models.learner.tokenizer.convert_ids_to_tokens(ends))
            note = f"the chat template ends turns with {tokens}, so responses do too, as {GENERATION} says"
            self.note(f"{node.name}: {note}")
        state = TrainState(
            directory, models, prompts, settings, progress=self._stepped, interrupted=self.stop, engine=self.engine
        )
        run_stage(stage, state)
        with directory.final() as target:
            models.save_learners(target)
        counters = state.state.to_json()
        return {"seconds": time.perf_counter() - started, "counters": counters, "group_size": _group_size(stage)}

    def _models_of(self, node: MethodNode) -> dict[str, Path]:
        """Models other than the learner by the names the row's parts know them under."""
        paths = {edge.source: self.artefact(edge.source).path for edge in node.inputs if edge.kind != "data"}
        if node.settings.teacher:
            paths["teacher"] = self.artefact(node.settings.teacher).path
        return paths

    def _stepped(self, event: dict[str, Any]) -> None:
        if note := event.get("note"):
            return self.warn(note) if event.get("warns") else self.note(note)
        if "generated" not in event:
            self.status("running", node=event["node"], step=event["step"], steps=event["steps"])
        self.progress(event)


def lora_of(settings) -> LoraSpec | None:
    return None if settings.lora is None else LoraSpec(**asdict(settings.lora), seed=settings.seed)


def _group_size(stage: Stage) -> int | None:
    sizes = [part.n for part in stage.collect.everything if isinstance(part, Rollouts)]
    return sizes[0] if sizes else None
