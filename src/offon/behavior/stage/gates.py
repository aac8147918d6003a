"""Whether a result may go on: metrics with intervals against limits, judged on the end that speaks against it.

A bound holds if the careful end of the interval keeps it: the low end of a minimum, the high end of a maximum. What is
only likely to hold does not pass; more samples narrow the interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from offon.behavior.stage.task_entry import clusters_of
from offon.behavior.statistics.counts import Counts
from offon.behavior.statistics.intervals import Clusters, Est, paired_change
from offon.behavior.statistics.pass_at_k import mean_pass_at_k, pass_at_k

REWARD = ("accuracy", "ece", "brier")
METRICS = {  # of each kind of thing a gate can look at
    "policy": (
        "success", "change", "pass_at_k", "retention", "attrition", "expansion", "reshaping", "ers", "mixed_groups",
        "ers_drop",
    ),
    "data": ("rows", "prompts", "tokens", "duplicates", "near_duplicates", "contamination", "right"),
    "reward model": REWARD,
    "process model": (*REWARD, "first_error"),
}  # fmt: skip
PER_TASK = frozenset({*METRICS["policy"], "contamination"})
# with what was before
COMPARING = frozenset({"change", "retention", "attrition", "expansion", "reshaping", "ers_drop"})
NO_WIDTH = 1e-9  # rounding
NOTHING_TO_LOSE = "nothing was there to lose"
UNMEASURED = "it could not be measured"


@dataclass(frozen=True)
class Limit:
    """One bound of one metric, on one probe task where the metric has tasks."""

    metric: str
    bound: Literal["min", "max"]
    limit: float
    task: str | None = None
    at_estimate: bool = False


def judge(limit: Limit, value: Est | None, *, vacuous: bool = False) -> dict[str, Any]:
    """The verdict on one limit, as gate.json has it.

    judged   the number that was compared with the limit: the interval's low end for min, its high end for max
    value    None where the metric does not exist. The limit is then not met: what could not be measured is not known
             to hold. It is if it is vacuous, since success that was not there cannot be lost
    """
    judged, met = None, vacuous
    if value is not None:
        judged = value.estimate if limit.at_estimate else value.low if limit.bound == "min" else value.high
        met = judged >= limit.limit if limit.bound == "min" else judged <= limit.limit
    return {
        "metric": limit.metric, "task": limit.task, "bound": limit.bound, "limit": limit.limit,
        "value": value and value._asdict(), "judged": judged, "met": bool(met),
    }  # fmt: skip


def policy_metrics(entry: Mapping[str, Any], k: int) -> dict[str, Est | None]:
    """Every metric of a policy on one task, from its `task_handoff` entry.

    success, change       success after, and after - before
    pass_at_k, ers        at the declared k, after: one number, read as performance or as what a later stage can use
    attrition             sum_x (p_before - p_after)_+ / sum_x p_before; None without success before (`vacuous`)
    retention             1 - attrition
    expansion, reshaping  certified terms of D1
    mixed_groups          share of a later on-policy stage's groups that would teach something
    ers_drop              ERS_k before - after, paired by prompt
    """
    before, after = (_counts(entry, when) for when in ("before", "after"))
    measured = (before.scored >= 2) & (after.scored >= 2)
    before, after = before.at(measured), after.at(measured)
    named = clusters_of(entry["prompts"])
    clusters = None if named is None else named[measured]
    lost = _lost(entry)
    later = entry["trainability"].get("after", {})
    enough = all((counts.scored >= k).all() for counts in (before, after))
    reach = mean_pass_at_k(after, k, clusters=clusters) if enough else None
    return {
        "success": _est(entry["after"]["success"]),
        "change": _est(entry["d1"]["total"]),
        "pass_at_k": reach,
        "retention": lost and Est(1 - lost.estimate, 1 - lost.high, 1 - lost.low),
        "attrition": lost,
        "expansion": _est(entry["d1"]["certified"]["expansion"]),
        "reshaping": _est(entry["d1"]["certified"]["reshaping"]),
        "ers": reach,
        "mixed_groups": _est(later.get("mixed_groups")),
        "ers_drop": _ers_drop(before, after, k, clusters) if enough else None,
    }


def _lost(entry: Mapping[str, Any]) -> Est | None:
    """Attrition. Where all prompts agree (nothing lost, or everything), resampling them shows no spread; but what is
    lost is at least the net loss, and what is kept at most what is there now, so the ends reach as far as those may:

        sum_x (p_before - p_after)_+ >= sum_x (p_before - p_after),      sum_x min(p_before, p_after) <= sum_x p_after
    """
    if entry["retention"] is None:
        return None
    kept, was = _est(entry["retention"]), entry["before"]["success"]["estimate"]
    low, high = 1 - kept.high, 1 - kept.low
    if high - low < NO_WIDTH:
        low = min(low, max(0.0, 1 - entry["after"]["success"]["high"] / was))
        high = max(high, -entry["d1"]["total"]["low"] / was)
    return Est(1 - kept.estimate, low, high)


def _ers_drop(before: Counts, after: Counts, k: int, clusters: Clusters) -> Est:
    """Paired by prompt; where no prompt differs, the two sides' own intervals say how well that is known (as in
    `newcombe`)."""
    drop = paired_change(pass_at_k(after, k), pass_at_k(before, k), clusters=clusters)
    if drop.high - drop.low >= NO_WIDTH:
        return drop
    was, now = (mean_pass_at_k(counts, k, clusters=clusters) for counts in (before, after))
    less = np.hypot(was.estimate - was.low, now.high - now.estimate)
    more = np.hypot(was.high - was.estimate, now.estimate - now.low)
    return Est(drop.estimate, float(drop.estimate - less), float(drop.estimate + more))


def vacuous(metric: str, entry: Mapping[str, Any]) -> bool:
    """A limit on what was lost, where nothing was there."""
    return metric in ("retention", "attrition") and entry["retention"] is None


def sentence(candidate: str, verdicts: Sequence[Mapping[str, Any]], on_fail: str, took: str) -> str:
    """What the gate decided, and on what: "rl does not pass: ... ; sft goes on"."""
    failed = [verdict for verdict in verdicts if not verdict["met"]]
    if not failed:
        reasons = "; ".join(map(in_words, verdicts))
        return f"{candidate} passes: {reasons}"
    end = {"stop": "the run stops here", "warn": f"{took} goes on nevertheless", "rollback": f"{took} goes on instead"}
    return f"{candidate} does not pass: {'; '.join(map(in_words, failed))}; {end[on_fail]}"


def in_words(verdict: Mapping[str, Any]) -> str:
    """retention on guard 0.310 [0.250, 0.380] (0.250 is below 0.8)"""
    where = f" on {verdict['task']}" if verdict["task"] else ""
    if verdict["value"] is None:
        return f"{verdict['metric']}{where}: {NOTHING_TO_LOSE if verdict['met'] else UNMEASURED}"
    value, judged = Est(**verdict["value"]), verdict["judged"]
    exact = value.low == value.high
    shown = f"{value.estimate:.4g}" if exact else str(value)
    words = {("min", True): "at least", ("min", False): "below", ("max", True): "at most", ("max", False): "above"}
    comparison = f"{words[verdict['bound'], verdict['met']]} {verdict['limit']:g}"
    careful = "" if exact or judged == value.estimate else f"{judged:.3f} is "
    return f"{verdict['metric']}{where} {shown} ({careful}{comparison})"


def _counts(entry: Mapping[str, Any], when: str) -> Counts:
    return Counts.of(*zip(*(prompt[when] for prompt in entry["prompts"]), strict=True))


def _est(value: Mapping[str, float] | None) -> Est | None:
    return None if value is None else Est(value["estimate"], value["low"], value["high"])
