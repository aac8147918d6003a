"""path.json: what each stage along a chain of init edges contributed, from the handoffs that the run has written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from offon.behavior.stage.chain import lineage_summary, path_table, surviving_expansion
from offon.behavior.stage.retention import cost_per_point
from offon.behavior.stage.task_entry import clusters_of
from offon.behavior.statistics.counts import Counts
from offon.behavior.statistics.intervals import paired_change
from offon.pipeline.session import Session
from offon.recipe import TrainNode

TOKENS = ("tokens_generated", "tokens_trained", "tokens_scored")  # by whatever model, each counted once


def contributions(session: Session) -> dict[str, Any]:
    """The chains that end in a stage from which no other has started so far, each with its tables by probe task."""
    chains = [list(reversed(list(chain(session, leaf)))) for leaf in leaves(session)]
    return {"chains": [entry for stages in chains if (entry := _chain(session, stages))["tasks"]]}


def chain(session: Session, node: TrainNode | None) -> Iterator[TrainNode]:
    """A stage and those before it along init edges, back to the first."""
    while node is not None:
        yield node
        node = session.stage_of(session.artefact(node.settings.init))


def leaves(session: Session) -> list[TrainNode]:
    done = [n for n in session.recipe.nodes if isinstance(n, TrainNode) and f"${n.name}" in session.made]
    continued = {before.name for n in done if (before := session.stage_of(session.artefact(n.settings.init)))}
    return [node for node in done if node.name not in continued]


def counts_of(entry: Mapping[str, Any], when: str) -> Counts:
    """[P] counts of a task's entry in handoff.json, before or after."""
    pairs = [prompt[when] for prompt in entry["prompts"]]
    return Counts.of([c for c, _ in pairs], [n for _, n in pairs])


def cost_of(session: Session, stages: Sequence[TrainNode]) -> Counter:
    """Seconds and tokens of stages and of everything they were made from, teachers and data too, each counted once."""
    total, waiting, seen = Counter(), [stage.name for stage in stages], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        waiting += [edge.node for edge in session.recipe.node(name).inputs if edge.node]
        total += spent(session.run.node(name).read_json("node.json", {}))
    return total


def spent(record: Mapping[str, Any]) -> Counter:
    """Seconds and tokens that a node's record tells of."""
    cost = record.get("counters", record).get("cost", {})
    seconds = cost.get("seconds", record.get("seconds", 0))
    return Counter({"seconds": seconds, "tokens": sum(cost.get(name, 0) for name in TOKENS)})


def _chain(session: Session, stages: Sequence[TrainNode]) -> dict[str, Any]:
    """One chain: its nodes from the root on, and the tables of every task."""
    handoffs = [session.run.node(stage.name).read_json("handoff.json", {"tasks": {}}) for stage in stages]
    root, names = session.artefact(stages[0].settings.init).label, [stage.name for stage in stages]
    names = [f"{root} (start)" if root in names else root, *names]
    common = [task for task in handoffs[0]["tasks"] if all(task in handoff["tasks"] for handoff in handoffs)]
    cost = cost_of(session, stages)
    tasks = {task: _task(names, [h["tasks"][task] for h in handoffs], cost, session.recipe) for task in common}
    return {"nodes": names, "tasks": {task: tables for task, tables in tasks.items() if tables}}


def _task(names: Sequence[str], entries: Sequence[Mapping[str, Any]], cost: Counter, recipe: Any) -> dict | None:
    """Rows that sum to the total, over the prompts that every checkpoint was measured on; None if there is none."""
    counts_by_checkpoint = [counts_of(entries[0], "before"), *(counts_of(entry, "after") for entry in entries)]
    measured = np.all([counts.scored >= 2 for counts in counts_by_checkpoint], axis=0)
    if not measured.any():
        return None
    checkpoints = {name: counts.at(measured) for name, counts in zip(names, counts_by_checkpoint, strict=True)}
    k, ends = recipe.probe.k, (checkpoints[names[0]].rate, checkpoints[names[-1]].rate)
    clusters = clusters_of(entries[0]["prompts"])
    total = paired_change(*ends, clusters=None if clusters is None else clusters[measured])
    per_gain = {what: cost_per_point(total, cost[what]) for what in ("seconds", "tokens")}
    return {
        "n_prompts": int(measured.sum()),
        "rows": path_table(checkpoints, k=k, clusters=None if clusters is None else clusters[measured]),
        "total": total._asdict(),
        "lineage": lineage_summary(checkpoints, k),
        "surviving_expansion": surviving_expansion(list(checkpoints.values()), k),
        "per_retained_gain": {what: est and est._asdict() for what, est in per_gain.items()},
    }
