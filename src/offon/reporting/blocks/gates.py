"""Gates: what was asked of a candidate, what it showed, and what went on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from offon.reporting import words
from offon.reporting.drawing import across

CHANGES = ("change", "expansion", "reshaping", "ers_drop")
COUNTS = ("rows", "prompts", "tokens")
SCORES = ("ece", "brier")  # every other metric is a share
BOUND = {"min": "at least", "max": "at most"}


def gates(verdicts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A card per gate: passed or not, each limit with the number it was held against, and what was taken."""
    return [
        {**verdict, "rows": [_limit(limit) for limit in verdict.get("limits", [])], "went_on": _went_on(verdict)}
        for verdict in verdicts
    ]


def _limit(limit: Mapping[str, Any]) -> dict[str, Any]:
    value, unit = limit.get("value"), _unit(limit["metric"])
    asked = words.written({"estimate": limit["limit"]}, unit)
    row = {
        "metric": limit["metric"].replace("_", " "),
        "task": limit.get("task"),
        "asked": f"{BOUND.get(limit['bound'], limit['bound'])} {asked}",
        "met": limit["met"],
        "judged": words.written({"estimate": limit.get("judged")}, unit),
        "why": "" if value else "nothing was there to lose" if limit["met"] else "it could not be measured",
        "value": words.written(value, unit),
        "range": words.interval(value, unit),
        "bar": None,
    }
    if value is None:
        return row
    ends = {side: value[side] for side in ("low", "estimate", "high") if value[side] is not None}
    at = across([*ends.values(), limit["limit"], *((1.0,) if unit == "share" else ())])
    low, high = at(ends.get("low", float("-inf"))), at(ends.get("high", float("inf")))
    spot = {"limit": at(limit["limit"]), "at": at(value["estimate"]), "low": low, "width": round(high - low, 2)}
    return row | {"bar": spot}


def _unit(metric: str) -> str:
    units = {"points": CHANGES, "tokens": COUNTS, "ratio": SCORES}
    return next((unit for unit, metrics in units.items() if metric in metrics), "share")


def _went_on(verdict: Mapping[str, Any]) -> str:
    if verdict["passed"]:
        return f"{verdict['candidate']} goes on"
    how = {"stop": "the run stops here", "warn": f"{verdict['candidate']} goes on, with a warning"}
    return how.get(verdict.get("on_fail", ""), f"{verdict.get('took') or verdict.get('against')} goes on instead")
