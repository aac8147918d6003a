"""What a stage hands on besides its own tasks' change: the rest of handoff.json.

    protected    attrition on the tasks that a stage should leave alone, and attrition elsewhere minus there
    gain_retention   of the gain of the stage before, along the init edge
    transfer     teacher edges: answers, traces, agreement and KL on the student's states
    portability  the change on shifted versions of a task, and over the change on the task itself
    scaffold     what the scaffold adds before and after, how much of it became the model's own, tokens of a success
    drift        KL(before || after) on before's own responses
    per_gain     seconds and tokens of the stage per point of success, where the gain is certain

What cannot be told is null, and `notes` says why. All of it rests on probes (of the scaffold and of shifted versions
where the recipe asks for them, of a teacher that no node made) and on `measure.model_distance.ModelDistance`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from offon.behavior.change.relative_support import coverage_profile
from offon.behavior.change.support import support_threshold
from offon.behavior.stage.retention import (
    amortisation,
    attrition_rate,
    cost_per_point,
    gain_retention,
    portability,
    ratio,
    scaffold_dependence,
    selective_forgetting,
)
from offon.behavior.stage.transfer import answer_fidelity, mean_of_ratios
from offon.behavior.statistics.counts import Counts, count
from offon.behavior.statistics.intervals import Est, mean_over_prompts, paired_change
from offon.errors import DataError
from offon.measure.model_distance import LoadedModels, ModelDistance
from offon.measure.probe import outcomes, probed_items
from offon.measure.probe_diagnosis import Probes
from offon.pipeline.session import Session
from offon.pipeline.stage_report import by_class
from offon.pipeline.stage_report.chain import counts_of, spent
from offon.pipeline.stage_report.metrics import handoff
from offon.recipe import TrainNode
from offon.runs import NodeDirectory
from offon.runs.artefacts import Artefact
from offon.types import Group


def handed_on(
    session: Session,
    node: TrainNode,
    directory: NodeDirectory,
    models: tuple[Artefact, Artefact],
    probes: tuple[Probes, Probes],
) -> dict[str, Any]:
    """All of handoff.json of a stage between two models that were probed on the same tasks."""
    helped = scaffolded(session, models[0]), scaffolded(session, models[1])
    result = handoff(session.run, directory, models[0].label, *probes, session.recipe, scaffolded=helped)
    if not result["tasks"]:
        return result
    stage = StageReport(session, node, models, probes, result["tasks"])
    for task, est in stage.gain_retention().items():
        result["tasks"][task]["gain_retention"] = est
    for task, grains in stage.finer().items():
        result["tasks"][task] |= grains
    return result | {
        "protected": stage.protected(),
        **stage.transfers(),
        "portability": stage.portability(),
        "scaffold": stage.scaffold(helped),
        "drift": stage.drift(),
        "per_gain": stage.per_gain(directory),
        "notes": stage.sentences(),
    }


def scaffolded(session: Session, model: Artefact) -> Probes:
    """Probes under the recipe's scaffold, of the tasks some of whose items have it; none where it asks for none."""
    probe = session.recipe.probe
    if probe is None or probe.scaffold is None:
        return {}
    specs = session.probe_tasks.items()
    having = {name: spec for name, spec in specs if probed_items(session.task(spec), probe, probe.scaffold)}
    return session.measure(model, specs=having, view=probe.scaffold)


class StageReport:
    """One stage's numbers. Counts come from the entries of its tasks, `notes` is (what is null, why) -> its tasks."""

    def __init__(
        self,
        session: Session,
        node: TrainNode,
        models: tuple[Artefact, Artefact],
        probes: tuple[Probes, Probes],
        tasks: Mapping[str, Any],
    ):
        self.session, self.node, self.models, self.probes, self.tasks = session, node, models, probes, tasks
        self.probe, self.seed = session.recipe.probe, session.recipe.seed
        self.notes: dict[tuple[str, str], list[str]] = defaultdict(list)
        self.load = LoadedModels(session.stop)

    def counts(self, tasks: Iterable[str]) -> tuple[Counts, Counts]:
        """Before and after, of the prompts of some tasks that both were scored on twice."""
        sides = [[counts_of(self.tasks[task], when) for task in tasks] for when in ("before", "after")]
        before, after = (Counts(*map(np.concatenate, zip(*side, strict=True))) for side in sides)
        measured = (before.scored >= 2) & (after.scored >= 2)
        return before.at(measured), after.at(measured)

    def pair(self, writer: Artefact, other: Artefact) -> ModelDistance:
        return ModelDistance(self.session.run, self.load, writer, other)

    def unknown(self, what: str, why: str, task: str = "") -> None:
        self.notes[what, why].append(task)

    def sentences(self) -> list[str]:
        """The notes in words: what is null, on which tasks, and why."""
        of = {key: f" of {', '.join(tasks)}" if all(tasks) else "" for key, tasks in self.notes.items()}
        return [f"{what}{tasks}: {why}" for (what, why), tasks in of.items()]

    def finer(self) -> dict[str, dict[str, Any]]:
        """By task: D1 by class, and by response with the branches of a prompt (`pipeline.stage_report.by_class`)."""
        pair, by_task = self.pair(*self.models), {}
        for name, (early, late) in self.by_task():
            task = self.session.task(self.session.probe_tasks[name])
            by_task[name] = by_class.classes(task, early, late, self.probe.k)
            if self.comparable(pair, "change by response"):
                read = by_class.responses(pair, task, early, late, self.tasks[name]["prompts"], self.probe.k)
                if (surface := read.pop("surface", None)) is not None:
                    by_task[name]["classes"]["surface"] = surface
                by_task[name] |= read
        return by_task

    def by_task(self) -> Iterable[tuple[str, tuple[Sequence[Group], Sequence[Group]]]]:
        return ((name, (self.probes[0][name], late)) for name, late in self.probes[1].items())

    def protected(self) -> dict[str, Any] | None:
        names = list(self.probe.protected)
        if not names:
            return None
        kept, others = self.counts(names), [name for name in self.tasks if name not in names]
        if not kept[0].successes.any():
            return self.unknown("protected", "no success before the stage that could be lost")
        entry = {"tasks": names, "attrition": attrition_rate(*kept)._asdict()}
        meant = self.counts(others) if others else None
        if meant is None or not meant[0].successes.any():
            self.unknown("selective_forgetting", "no success before the stage on tasks that are not protected")
            return entry | {"selective_forgetting": None}
        before, after = self.counts([*others, *names])
        is_kept = np.arange(len(before.scored)) >= len(meant[0].scored)
        forgotten = selective_forgetting(before, after, is_kept)
        return entry | {"selective_forgetting": forgotten._asdict()}

    def gain_retention(self) -> dict[str, dict[str, float] | None]:
        """By task; no stage, no gain: where the stage started from no other stage, or from one without certain gain."""
        previous = self.session.stage_of(self.models[0])
        if previous is None:
            self.unknown("gain_retention", "the stage starts from no other stage of this run")
            return dict.fromkeys(self.tasks)
        earlier = self.session.run.node(previous.name).read_json("handoff.json")["tasks"]
        kept: dict[str, dict[str, float] | None] = dict.fromkeys(self.tasks)
        for task, entry in self.tasks.items():
            sides = [counts_of(earlier[task], "before"), *(counts_of(entry, when) for when in ("before", "after"))]
            measured = np.all([counts.scored >= 2 for counts in sides], axis=0)
            try:
                kept[task] = gain_retention(*(c.at(measured) for c in sides))._asdict()
            except DataError:
                self.unknown("gain_retention", f"{previous.name} gained on no prompt for certain", task)
        return kept

    def transfers(self) -> dict[str, Any]:
        """transfer is of the first teacher; where there are several, other_teachers has the rest."""
        entries = [entry for source in teachers(self.session, self.node.name) if (entry := self.transfer(source))]
        return {"transfer": entries[0] if entries else None} | ({"other_teachers": entries[1:]} if entries[1:] else {})

    def transfer(self, source: str) -> dict[str, Any] | None:
        teacher = self.session.artefact(source)
        taught = self.session.measure(teacher)
        if not taught:
            return self.unknown(f"transfer from {teacher.label}", "a reward model gives no answers to compare")
        student_model = self.models[1]
        from_teacher, on_student = self.pair(teacher, student_model), self.pair(student_model, teacher)
        n = 1 / support_threshold(self.probe.k)
        tasks: dict[str, Any] = {}
        for name, groups in taught.items():
            student = self.probes[1][name]
            answer = answer_fidelity(self.answers(name, groups), self.answers(name, student), seed=self.seed)
            measured: dict[str, Est | None] = {"answer": answer, "trace": None, "agreement": None, "kl_nats": None}
            if self.comparable(on_student, f"trace, agreement and kl_nats from {teacher.label}"):
                read = on_student.distances(student)
                measured["agreement"], measured["kl_nats"] = (
                    mean_of_ratios(read[what], read["tokens"]) for what in ("agreeing", "kl_nats")
                )
                successes = from_teacher.successes(groups)
                if any(len(scored.success) for scored in successes):
                    measured["trace"] = coverage_profile(successes, n)
                else:
                    self.unknown("trace", f"{teacher.label} has no success", name)
            tasks[name] = {what: est and est._asdict() for what, est in measured.items()}
        return {"teacher": teacher.label, "factor": n, "tasks": tasks}

    def answers(self, task: str, groups: Sequence[Group]) -> list[list[str]]:
        """[P][n] what each response answers: as the task reads it where it can, else all of its text."""
        named = getattr(self.session.task(self.session.probe_tasks[task]), "answer", None)
        read = named or (lambda item, text: text.strip())
        return [[read(group.item, member.text) or "" for member in group.members] for group in groups]

    def comparable(self, pair: ModelDistance, what: str) -> bool:
        """Whether two models' distributions over the next token can be compared under this probe."""
        if self.probe.temperature == 0:
            self.unknown(what, "greedy sampling (temperature 0) has no distributions to compare")
        elif not pair.same_tokens:
            self.unknown(what, f"{pair.author.label} and {pair.reader.label} have different vocabularies")
        else:
            return True
        return False

    def portability(self) -> dict[str, Any]:
        by_version: dict[str, Any] = {}
        for task, versions in (self.probe.shifted or {}).items():
            before, after = self.counts([task])
            here = paired_change(before.rate, after.rate)
            there = [self.session.measure(model, specs=versions) for model in self.models]
            for name in versions:
                early, late = (count(outcomes(side[name])) for side in there)
                measured = (early.scored > 0) & (late.scored > 0)
                if not measured.any():
                    self.unknown("portability", "no prompt was scored before and after", name)
                    continue
                change_P = (late.rate - early.rate)[measured]
                by_version[name] = {"of": task, "change": mean_over_prompts(change_P)[0]._asdict()}
                by_version[name]["ratio"] = None
                if here.low > 0 or here.high < 0:
                    share = portability(change_P, after.rate - before.rate, seed=self.seed)
                    by_version[name]["ratio"] = share._asdict()
                else:
                    self.unknown("ratio", f"{task} did not change for certain: nothing to carry over", name)
        return by_version

    def scaffold(self, helped: tuple[Probes, Probes]) -> dict[str, Any]:
        """By task, over its items that have the scaffold."""
        by_task: dict[str, Any] = {}
        for task in helped[0]:
            plain = [aligned(side[task], help_[task]) for side, help_ in zip(self.probes, helped, strict=True)]
            counted = [count(outcomes(groups)) for groups in (*plain, *(side[task] for side in helped))]
            measured = np.all([counts.scored > 0 for counts in counted], axis=0)
            if not measured.any():
                self.unknown("scaffold", "no prompt was scored with and without it", task)
                continue
            before, after, helped_before, helped_after = (counts.at(measured) for counts in counted)
            dependence = [scaffold_dependence(*pair) for pair in ((before, helped_before), (after, helped_after))]
            amortised = None
            if dependence[0].low > 0:
                amortised = amortisation(before, helped_before, after)._asdict()
            else:
                self.unknown("amortisation", "the scaffold did not help for certain before the stage", task)
            tokens = {"plain": plain[1], "scaffolded": helped[1][task]}
            by_task[task] = {
                "dependence": dict(zip(("before", "after"), (est._asdict() for est in dependence), strict=True)),
                "amortisation": amortised,
                "tokens_per_success": {how: self.tokens_per_success(groups) for how, groups in tokens.items()},
            }
        return by_task

    def tokens_per_success(self, groups: Sequence[Group]) -> dict[str, float] | None:
        """Response tokens spent per success, after the stage: what a right answer costs at deployment. None where there
        may be no success at all, and the cost no bound."""
        tokens_P = [np.mean([len(m) for m in group.members]) for group in groups]
        rate_P = np.nan_to_num(count(outcomes(groups)).rate)
        tokens = ratio(tokens_P, rate_P) if rate_P.any() else None
        return tokens._asdict() if tokens and np.isfinite(tokens).all() else None

    def drift(self) -> dict[str, Any]:
        pair = self.pair(*self.models)
        if not self.comparable(pair, "drift"):
            return {}
        by_task = {}
        for name, groups in self.probes[0].items():
            read = pair.distances(groups)
            by_task[name] = {"kl_nats": mean_of_ratios(read["kl_nats"], read["responses"])._asdict()}
        return by_task

    def per_gain(self, directory: NodeDirectory) -> dict[str, Any]:
        cost, by_task = spent(directory.read_json("node.json", {})), {}
        for name, entry in self.tasks.items():
            change = Est(**entry["d1"]["total"])
            each = {what: cost_per_point(change, cost[what]) for what in ("seconds", "tokens")}
            by_task[name] = {what: est and est._asdict() for what, est in each.items()}
            if change.low <= 0:
                self.unknown("per_gain", "no gain for certain", name)
        return by_task


def aligned(groups: Sequence[Group], like: Sequence[Group]) -> list[Group]:
    """The groups of the same items, in the order of others."""
    by_item = {group.item.id: group for group in groups}
    return [by_item[group.item.id] for group in like]


def teachers(session: Session, name: str) -> list[str]:
    """The sources that teach a node: along its teacher edges, and those of the nodes that made its data."""
    sources: dict[str, None] = {}
    for edge in session.recipe.node(name).inputs:
        if edge.kind == "teacher":
            sources[edge.source] = None
        elif edge.kind == "data" and edge.node:
            sources |= dict.fromkeys(teachers(session, edge.node))
    return list(sources)
