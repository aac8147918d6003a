"""Gates of a run: what is known of the candidate, against the limits of the node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from offon.behavior.stage import gates
from offon.behavior.statistics.intervals import Est
from offon.errors import GateClosed
from offon.measure import dataset, reward_model
from offon.recipe import GateNode

Values = Mapping[tuple[str, str | None], Mapping[str, float] | Est | None]  # (metric, probe task) -> value


def of_policy(entries: Mapping[str, Mapping[str, Any]], k: int) -> Values:
    """Metrics of a policy from the entries of its change, by task."""
    values: dict[tuple[str, str | None], Est | None] = {}
    for task, entry in entries.items():
        values |= {(name, task): value for name, value in gates.policy_metrics(entry, k).items()}
    return values


def of_artefact(report: Mapping[str, Any]) -> Values:
    """Metrics of data or of a reward model from its artefact.json."""
    return dataset.metrics(report) if report["artefact"] == "data" else reward_model.metrics(report)


def decided(
    node: GateNode, candidate: str, against: str | None, values: Values, entries: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """gate.json, from the labels of the candidate and of what it is compared with, and a policy's entries by task."""
    verdicts = [
        gates.judge(
            gates.Limit(metric, bound, at, task, limit.at == "estimate"),
            _est(values.get((metric, task))),
            vacuous=bool(entries) and task in entries and gates.vacuous(metric, entries[task]),
        )
        for metric, limits in node.limits.items()
        for limit in limits
        for task in ((None,) if limit.tasks is None else limit.tasks)
        for bound, at in (("min", limit.min), ("max", limit.max))
        if at is not None
    ]
    passed = all(verdict["met"] for verdict in verdicts)
    took = {"stop": None, "warn": candidate, "rollback": against}[node.on_fail] if not passed else candidate
    return {
        "candidate": candidate,
        "against": against,
        "passed": passed,
        "on_fail": node.on_fail,
        "took": took,
        "sentence": gates.sentence(candidate, verdicts, node.on_fail, took),
        "limits": verdicts,
    }


def stop_unless_passed(node: GateNode, result: Mapping[str, Any]) -> None:
    if result["passed"] or node.on_fail != "stop":
        return
    failed = [gates.in_words(verdict) for verdict in result["limits"] if not verdict["met"]]
    raise GateClosed(
        f"{result['candidate']} does not pass gate {node.name}",
        where=node.place,
        why="\n         ".join(failed),
        fix="change the limits (or on_fail: warn, rollback) and run again with --resume",
        kept="everything that is finished, probes included: nothing of it is computed again",
    )


def _est(value: Mapping[str, float] | Est | None) -> Est | None:
    return Est(**value) if isinstance(value, Mapping) else value
