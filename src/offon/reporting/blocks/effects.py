"""Numbers with their intervals on one scale around zero: a dot and a line each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from offon.reporting import words
from offon.reporting.drawing import across


def effects(named: Mapping[str, words.Est | None], unit: str = "points", *, toned: bool = True) -> list[dict[str, Any]]:
    """Rows of a dot, its 95% interval and zero, on one scale; what was not measured is left out.

    toned: a number above zero is good and one below is bad, where the interval leaves no doubt.
    """
    known = {name: est for name, est in named.items() if est is not None}
    if not known:
        return []
    ends = [value for est in known.values() for value in est.values() if value is not None]
    at = across(ends)
    return [_row(name, est, unit, at, toned) for name, est in known.items()]


def _row(name: str, est: words.Est, unit: str, at, toned: bool) -> dict[str, Any]:
    low, high = (
        (float("-inf") if est["low"] is None else est["low"]),
        (float("inf") if est["high"] is None else est["high"]),
    )
    way = {"rose": "up", "fell": "down"}.get(words.direction({"low": low, "high": high}), "")
    return {
        "label": name,
        "zero": at(0),
        "at": at(est["estimate"]),
        "low": at(low),
        "width": round(at(high) - at(low), 2),
        "value": words.written(est, unit),
        "range": words.interval(est, unit),
        "class": way if toned else "",
    }


# ---- where in a response (D3), and over what states (D2)

WHERE = {
    "prefix": "how responses begin",
    "suffix": "how they go on",
    "interaction": "only the two together",
    "total": "all of it",
}
STATES = {
    "expansion": "newly reached steps",
    "shared": "steps reached both times",
    "diffuse": "steps reached by neither",
    "harmful": "good steps no longer reached",
    "pruning": "bad steps no longer reached",
    "total": "the whole change",
}
CELLS = {
    "expansion": "newly within reach",
    "shared": "within reach both times",
    "attrition": "no longer within reach",
    "diffuse": "out of reach both times",
}


def where(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The change of success, split over the beginning of responses and the rest."""
    rows = effects({meaning: entry.get(name) for name, meaning in WHERE.items()})
    return {"cut": entry.get("cut", ""), "prompts": entry.get("prompts"), "rows": rows}


def states(terms: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The change of success, split over steps that are reached; plain numbers are exact and have no interval."""
    known = {meaning: terms[name] for name, meaning in STATES.items() if terms and terms.get(name) is not None}
    rows = effects({name: _as_est(value) for name, value in known.items()})
    return [row | ({} if isinstance(known[row["label"]], Mapping) else {"range": "exact"}) for row in rows]


def _as_est(value: Any) -> words.Est:
    return value if isinstance(value, Mapping) else dict.fromkeys(("estimate", "low", "high"), value)


# ---- attribution by leaving stages out


def attribution(study: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Per task: Shapley values, which add up to the total; what was run; and which stages need each other."""
    return [_attributed(task, values, study) for task, values in study["shapley"].items()]


def study_words(study: Mapping[str, Any]) -> dict[str, Any]:
    """What a study says of itself: notes, and subsets that could not run."""
    return {name: study.get(name) or [] for name in ("notes", "infeasible")}


def _attributed(task: str, values: Mapping[str, words.Est], study: Mapping[str, Any]) -> dict[str, Any]:
    total = study.get("total", {}).get(task)
    pairs = study.get("interaction", {}).get(task, [])
    return {
        "task": task,
        "rows": effects({**values, **({"all stages": total} if total else {})}),
        "pairs": effects({f"{one} with {other}": est for one, other, est in pairs}),
        "subsets": [
            {"stages": subset["stages"], "success": subset["success"][task]}
            for subset in study.get("subsets", [])
            if task in subset["success"]
        ],
    }
