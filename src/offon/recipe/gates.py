"""Reading gates: which result they look at, what it is compared with, and limits that can be judged.

Two passes: a gate is first read for the nodes it names, and completed when all nodes and the probe are known, since
what it looks at decides which metrics there are, and the probe which tasks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from offon.errors import DataError, ModelError
from offon.recipe.fields import Gate, Limit, Probe
from offon.recipe.problems import BAD, did_you_mean
from offon.recipe.references import DATA_FILES, References
from offon.recipe.resolved import GateNode, MethodNode, Node, TrainNode
from offon.recipe.yaml_reader import Keys

EXAMPLE = "limits: {success: {min: 0.3}}"
RETENTION, PROTECTED_ATTRITION, ERS_DROP = 0.8, 0.05, 0.03  # what a handoff should keep: docs/recipe.md, Gates


def read_gate(references: References, name: str, keys: Mapping[str, Any]) -> GateNode | None:
    """A gate with the sources it names; its limits as they were written."""
    reader = references.reader
    position, before = ("pipeline", name), len(reader.problems)
    given = reader.section(Gate, keys, position)
    if "limits" not in given:
        reader.problem(f"gate {name!r} has no limits", position, fix=f"{EXAMPLE}, or limits: handoff")
    sources = {
        key: _source(references, given[key], (*position, key)) for key in ("gate", "init") if given.get(key) is not None
    }
    if len(reader.problems) > before:
        return None
    return GateNode(
        name=name,
        gate=sources["gate"],
        init=sources.get("init"),
        limits=given["limits"],
        on_fail=given.get("on_fail", "stop"),
        place=reader.document.place(position),
    )


def _source(references: References, value: Any, position: Keys) -> Any:
    kind = DataError if isinstance(value, str) and value.endswith(DATA_FILES) else ModelError
    return value if value is BAD else references.located(value, position, kind)


def completed(references: References, nodes: Iterable[Node | None], probe: Probe | None) -> list[Node | None]:
    """The nodes, with every gate's limits read for what it looks at."""
    nodes = list(nodes)
    known = {node.name: node for node in nodes if node is not None}
    for name, node in known.items():
        if isinstance(node, GateNode):
            known[name] = _Completion(references, node, known, probe).node()
    return [node and known[node.name] for node in nodes]


class _Completion:
    """One gate among the other nodes."""

    def __init__(self, references: References, gate: GateNode, nodes: Mapping[str, Node], probe: Probe | None):
        self.references, self.reader = references, references.reader
        self.gate, self.nodes, self.probe = gate, nodes, probe
        self.position: Keys = ("pipeline", gate.name)

    def problem(self, what: str, *keys: str, **details: Any) -> None:
        self.reader.problem(what, (*self.position, *keys), **details)

    def node(self) -> GateNode:
        candidate = self.candidate(self.gate.gate)
        circle = isinstance(self.nodes.get(candidate.removeprefix("$")), GateNode)  # refused where nodes are ordered
        kind = None if circle else self.kind(candidate) or self.kind_of_metrics()
        if kind is None:
            return self.gate
        init = self.gate.init or (self.started_from(candidate) if kind == "policy" else None)
        if init is BAD:  # the recipe's model, whose problem is noted: there is nothing to compare with yet
            return self.gate
        self.references.add_edge(init, self.gate.name)
        gate = dataclasses.replace(self.gate, init=init, judges=kind)
        self.refuse_sides(gate, candidate)
        return gate if kind == "weights" else dataclasses.replace(gate, limits=self.limits(gate))

    # ---- what it looks at

    def candidate(self, source: str) -> str:
        """What is behind a source, gates open."""
        for _ in self.nodes:
            node = self.nodes.get(source[1:]) if source.startswith("$") else None
            if not isinstance(node, GateNode):
                break
            source = node.gate
        return source

    def started_from(self, candidate: str) -> str | None:
        node = self.nodes.get(candidate[1:]) if candidate.startswith("$") else None
        return node.settings.init if isinstance(node, MethodNode) else None

    def kind(self, source: str) -> str | None:
        """What kind of thing a source is, as far as a recipe tells."""
        if not source.startswith("$"):
            return "data" if source.endswith(DATA_FILES) else None
        node = self.nodes.get(source[1:])
        return node.makes if isinstance(node, MethodNode) else None

    def kind_of_metrics(self) -> str | None:
        """The kind that has all metrics of the limits, where what makes the candidate does not tell."""
        metrics = _metrics()
        written = self.gate.limits if isinstance(self.gate.limits, Mapping) else {}
        kinds = [kind for kind in ("policy", "data") if all(metric in metrics[kind] for metric in written)]
        if kinds or not written:
            return kinds[0] if kinds else "policy"
        for metric in written:
            if not any(metric in metrics[kind] for kind in ("policy", "data")):
                self.unknown(metric, [*metrics["policy"], *metrics["data"]], f"{self.gate.gate}")
                return None
        self.problem(
            "metrics of a policy and of data in one gate",
            "limits",
            why=f"{self.gate.gate} is one of them",
            fix="a gate for each",
        )
        return None

    def refuse_sides(self, gate: GateNode, candidate: str) -> None:
        if gate.judges == "weights":
            self.problem(f"{gate.gate} is no policy", "gate", of="value", why="nothing is measured of these weights")
        if gate.on_fail == "rollback" and gate.init is None:
            self.problem(
                f"gate {gate.name!r} has nothing to roll back to",
                "on_fail",
                of="value",
                why=f"{gate.gate} started from nothing of its kind",
                fix="init: what goes on instead",
            )
        other = gate.init and (self.kind(self.candidate(gate.init)) or gate.judges)
        if other and other != gate.judges:
            what = f"{gate.gate} is {_article(gate.judges)}, {gate.init} is {_article(other)}"
            self.problem(what, "init", of="value", why="one takes the other's place")
        node = self.nodes.get(candidate[1:]) if candidate.startswith("$") else None
        if gate.judges not in ("reward model", "process model"):
            return
        if not isinstance(node, TrainNode) or not node.settings.heldout:
            self.problem(
                f"nothing is held out to measure {gate.gate} on",
                "gate",
                of="value",
                fix=f"heldout: 0.1 in {candidate.removeprefix('$')}",
            )

    # ---- limits

    def limits(self, gate: GateNode) -> dict[str, tuple[Limit, ...]]:
        written = self.handoff(gate) if gate.limits == "handoff" else gate.limits
        if not isinstance(written, Mapping) or not written:
            self.problem("limits: a mapping of metrics, or handoff", "limits", of="value", fix=EXAMPLE)
            return {}
        limits = {metric: tuple(self.bounds(gate, metric, value)) for metric, value in written.items()}
        for metric in written:
            if self.metric_exists(gate, metric):
                self.refuse_unmeasurable(gate, metric)
        return limits

    def handoff(self, gate: GateNode) -> dict[str, Any]:
        """What a stage should leave to the next: most of what was there, the protected tasks, and what later stages
        need to learn from."""
        protected = list(self.probe.protected) if self.probe else []
        guarded = {"attrition": {"max": PROTECTED_ATTRITION, "tasks": protected}} if protected else {}
        return {"retention": {"min": RETENTION}, **guarded, "ers_drop": {"max": ERS_DROP}}

    def bounds(self, gate: GateNode, metric: str, value: Any) -> Iterator[Limit]:
        for index, item in enumerate(value if isinstance(value, list) else [value]):
            place = ("limits", metric, *([index] if isinstance(value, list) else []))
            before = len(self.reader.problems)
            keys = self.reader.section(Limit, item, (*self.position, *place))
            if len(self.reader.problems) > before:
                continue
            limit = Limit(**keys)
            if limit.min is None and limit.max is None:
                self.problem(f"{metric} has no bound", *place, fix=f"{metric}: {{min: ...}} or {{max: ...}}")
            yield self.on_tasks(limit, metric, place)

    def on_tasks(self, limit: Limit, metric: str, place: tuple) -> Limit:
        from offon.behavior.stage.gates import PER_TASK

        known = list(self.probe.tasks) if self.probe else []
        if metric not in PER_TASK:
            if limit.tasks is not None:
                self.problem(f"{metric} has no tasks", *place, "tasks", fix="take tasks out")
            return limit
        for task in limit.tasks or ():
            if task not in known:
                fix = did_you_mean(task, known) or f"probe tasks: {', '.join(known) or 'none'}"
                self.problem(f"unknown probe task {task!r}", *place, "tasks", of="value", fix=fix)
        return dataclasses.replace(limit, tasks=tuple(known) if limit.tasks is None else limit.tasks)

    def metric_exists(self, gate: GateNode, metric: str) -> bool:
        metrics = _metrics()
        if metric in metrics[gate.judges]:
            return True
        kinds = [kind for kind, names in metrics.items() if metric in names]
        if kinds:
            self.problem(
                f"{metric} cannot be measured of {gate.gate}",
                "limits",
                metric,
                why=f"it is a metric of a {' and a '.join(kinds)}, and this is {_article(gate.judges)}",
                fix=f"of these: {', '.join(metrics[gate.judges])}",
            )
        else:
            self.unknown(metric, metrics[gate.judges], _article(gate.judges))
        return False

    def unknown(self, metric: str, known: Iterable[str], what: str) -> None:
        fix = did_you_mean(metric, known) or f"of {what}: {', '.join(known)}"
        self.problem(f"unknown metric {metric!r}", "limits", metric, fix=fix)

    def refuse_unmeasurable(self, gate: GateNode, metric: str) -> None:
        """What no run of this recipe could judge."""
        from offon.behavior.metrics.trainability import GROUP_SIZE
        from offon.behavior.stage.gates import COMPARING, PER_TASK

        if metric in PER_TASK and self.probe is None:
            self.problem(
                f"{metric} is measured by the probe, and probe is false", "limits", metric, fix="probe: {prompts: 64}"
            )
            return
        if metric in PER_TASK and not self.probe.tasks:
            self.problem(f"{metric} needs a probe task", "limits", metric, fix="task: ..., or probe: {tasks: ...}")
        if metric in COMPARING and gate.init is None:
            why = f"{gate.gate} started from nothing that could be compared"
            self.problem(f"{metric} is a comparison", "limits", metric, why=why, fix="init: what to compare with")
        group = max(self.k, GROUP_SIZE)
        needed = {"pass_at_k": 2 * self.k, "ers": group, "mixed_groups": group}.get(metric, 0)
        if self.probe and self.probe.samples < needed:
            self.problem(
                f"{metric} at k {self.k} needs {needed} samples of a prompt, the probe takes {self.probe.samples}",
                "limits",
                metric,
                fix=f"probe: {{samples: {needed}}}, or a smaller k",
            )

    @property
    def k(self) -> int:
        return self.probe.k if self.probe else 0


def _metrics() -> Mapping[str, tuple[str, ...]]:
    """Imported when a gate is read: it brings scipy with it."""
    from offon.behavior.stage.gates import METRICS

    return METRICS


def _article(kind: str) -> str:
    return "data" if kind == "data" else f"a {kind}"
