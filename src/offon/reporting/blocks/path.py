"""The path table: what each stage of a chain did, row by row, down to the total change, and the same as a waterfall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from offon.reporting import words
from offon.reporting.blocks.decomposition import NAMES, SIGNED, signed_sums, stacked_terms
from offon.reporting.drawing import across

COLUMNS = ("expansion", "recovered", "reshaping", "attrition", "diffuse", "ambiguous")


def path_tables(path: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """One block per chain of weights of at least two stages, with a table per task."""
    return [
        {
            "title": " → ".join(chain["nodes"]),
            "tasks": [_table(name, task) for name, task in chain["tasks"].items() if task["rows"]],
        }
        for chain in (path or {}).get("chains", [])
        if len(chain["nodes"]) > 2
    ]


def _table(name: str, task: Mapping[str, Any]) -> dict[str, Any]:
    starts = [0.0]
    for row in task["rows"]:
        starts.append(starts[-1] + row["d1"]["total"]["estimate"])
    reached = [
        start + end for row, start in zip(task["rows"], starts, strict=False) for end in signed_sums(row["d1"]["soft"])
    ]
    at = across([*reached, *(task["total"][side] for side in ("low", "high"))])
    rows = [
        {
            "stage": row["stage"],
            "d1": row["d1"],
            "bars": _bars(row["d1"], start, at),
            "start": at(start),
            "end": at(end),
        }
        for row, start, end in zip(task["rows"], starts, starts[1:], strict=False)
    ]
    return {
        "task": name,
        "rows": rows,
        "zero": at(0),
        "total": task["total"],
        "total_at": {side: at(task["total"][side]) for side in ("estimate", "low", "high")},
        "sums": {term: _summed(task["rows"], term) for term in COLUMNS},
        "survives": _survives(task),
        "lineage": _lineage(task.get("lineage")),
        "cost": _cost(task.get("per_retained_gain")),
    }


def _bars(d1: Mapping[str, Any], start: float, at) -> list[dict[str, Any]]:
    """Gains to the right of where the stage began, losses to its left; together they end where the next begins."""
    bars = stacked_terms(d1["soft"], at, start)
    for bar in bars:
        value = SIGNED[bar["term"]] * d1["soft"][bar["term"]]["estimate"]
        bar["title"] = f"{NAMES[bar['term']]} {words.points(value)} points"
    return bars


def _summed(rows: Sequence[Mapping[str, Any]], term: str) -> dict[str, float]:
    """A column's sum under either weighting, losses negative; a sum of estimates has no interval of its own."""
    sign = SIGNED[term]
    return {
        weighting: sum(sign * row["d1"][weighting][term]["estimate"] for row in rows if term in row["d1"][weighting])
        for weighting in ("soft", "certified")
    }


def _lineage(lineage: Mapping[str, Any] | None) -> str:
    """When prompts first came within reach, when they were first solved, and how many were lost again."""
    if not lineage:
        return ""
    clauses = []
    for key, what in (("first_in", "first within reach"), ("first_solved", "first solved")):
        stages = words.listed([f"{stage} {n}" for stage, n in (lineage.get(key) or {}).items() if n])
        clauses += [f"{what}: {stages}"] if stages else []
    again = lineage.get("lost_again")
    clauses += [f"out of reach again later: {again}"] if again else []
    back = lineage.get("recovered")
    clauses += [f"within reach at the start, lost and back: {back}"] if back else []
    return "Prompts, " + "; ".join(clauses) + "." if clauses else ""


def _survives(task: Mapping[str, Any]) -> str:
    """How much of what each stage brought within reach for certain is still there at the end."""
    surviving = [
        f"{row['stage']} {words.points(points)}"
        for row, points in zip(task["rows"], task.get("surviving_expansion") or [], strict=False)
    ]
    what = "Of what was certainly expanded, still there at the end, in points"
    return f"{what}: {words.listed(surviving)}." if surviving else ""


def _cost(cost: Mapping[str, Any] | None) -> str:
    """What a point of success that is still there at the end cost."""
    prices = [
        f"{words.written(cost[name], name)}{unit} ({words.interval(cost[name], name)})"
        for name, unit in (("seconds", ""), ("tokens", " tokens"))
        if cost and cost.get(name)
    ]
    return f"A point of success that is still there at the end cost {words.listed(prices)}." if prices else ""
