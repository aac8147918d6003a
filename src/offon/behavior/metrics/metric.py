"""What a metric of behaviour is: a number of one probe task before and after a stage, and the words that tell it.

A declaration is the only place that names the metric. From it come its key in handoff.json (of each task and family),
its column on the page, its line in the terminal, and its row in docs/behavior.md.

Axes: P prompts (the same before and after, in one order).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from offon.behavior.statistics.counts import Counts
from offon.behavior.statistics.intervals import Est
from offon.types import Group

Unit = Literal["share", "points", "ratio", "nats", "tokens", "seconds"]
Groups = Sequence[Group]
Json = Mapping[str, Any]
Estimates = Mapping[str, Json | None]  # part -> {"estimate", "low", "high"}, None where it was not measured


@dataclass(frozen=True, kw_only=True)
class Sides:
    """What some prompts of one task showed before and after: all a metric may look at.

    before, after   successes of scored samples, [P] each
    k               rollouts per prompt that a later on-policy stage can spend
    scaffolded      counts before and after under the scaffold; None without such a probe
    groups          the probed responses before and after, [P] each: tokens, text, signals, tags; None where only
                    counts are known
    clusters        what prompts have in common (a template, a document), [P]: intervals are then over clusters
    """

    before: Counts
    after: Counts
    k: int
    seed: int = 0
    scaffolded: tuple[Counts, Counts] | None = None
    groups: tuple[Groups, Groups] | None = None
    clusters: np.ndarray | None = None

    def at(self, chosen: np.ndarray) -> Sides:
        """Of the prompts that a mask [P] chooses."""
        kept = np.flatnonzero(chosen).tolist()
        return Sides(
            before=self.before.at(kept),
            after=self.after.at(kept),
            k=self.k,
            seed=self.seed,
            scaffolded=self.scaffolded and (self.scaffolded[0].at(kept), self.scaffolded[1].at(kept)),
            groups=self.groups and ([self.groups[0][p] for p in kept], [self.groups[1][p] for p in kept]),
            clusters=None if self.clusters is None else self.clusters[kept],
        )


def parts_of(value: Json | None) -> Estimates:
    """How a value reads where it is an estimate (one part without a name) or estimates by part."""
    return {"": value} if value and "estimate" in value else value or {}


def never(parts: Estimates) -> bool:
    return False


def certain_change(at_least: float, *, relative: bool = False) -> Callable[[Estimates], bool]:
    """Where the interval of "change" leaves out 0 and the change is worth a line: `at_least` in the metric's unit, or
    that share of what was before."""

    def worth_a_line(parts: Estimates) -> bool:
        before, change = parts.get("before"), parts.get("change")
        if not change or change["low"] is None or change["high"] is None or change["low"] <= 0 <= change["high"]:
            return False
        return abs(change["estimate"]) >= at_least * (abs(before["estimate"]) if relative and before else 1.0)

    return worth_a_line


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric of behaviour.

    key       names it in a task's entry of handoff.json, and so does its file
    unit      of its estimates; the change of a share is in points
    compute   the value: an estimate, a mapping of them (by part), or None where these prompts do not tell it
    title     heads its column and begins its line
    meaning   what it says, in one sentence without its full stop
    value     what handoff.json holds under the key, for the documentation
    parts     how a value reads: "" for one number; "before", "after", and their paired "change" where it is known
    line      whether a stage's estimates on a task deserve a line in the terminal; the page has all
    """

    key: str
    unit: Unit
    compute: Callable[[Sides], Any]
    title: str
    meaning: str
    value: str = "an estimate"
    parts: Callable[[Any], Estimates] = parts_of
    line: Callable[[Estimates], bool] = never

    def measure(self, sides: Sides) -> Any:
        """The value as JSON: an estimate that is no number is null, and so is an end that nothing bounds."""
        return _as_json(self.compute(sides))


def _as_json(value: Any) -> Any:
    if isinstance(value, Est):
        numbers = {name: float(number) if math.isfinite(number) else None for name, number in value._asdict().items()}
        return None if numbers["estimate"] is None else numbers
    if isinstance(value, Mapping):
        return {name: _as_json(inner) for name, inner in value.items()}
    return value
