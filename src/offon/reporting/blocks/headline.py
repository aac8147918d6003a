"""Success before and after, a row per task and family: the first thing a page shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from offon.reporting import words

FAMILIES = 8  # shown of a stage; those that changed most


def headline(results: Sequence[Mapping[str, Any]], tone: str) -> tuple[list[dict[str, Any]], int]:
    """The rows to show, with where to draw them, and how many families are left out."""
    rows = [{**row, "success": row["success"] | dumbbell(row["success"], tone)} for row in results]
    families = sorted((row for row in rows if row["family"] is not None), key=_size_of_change, reverse=True)
    shown = {id(row) for row in [*(row for row in rows if row["family"] is None), *families[:FAMILIES]]}
    return [row for row in rows if id(row) in shown], len(families[FAMILIES:])


def _size_of_change(row: Mapping[str, Any]) -> float:
    change = row["success"]["change"]
    return abs(change["estimate"]) if change else 0.0


def dumbbell(success: Mapping[str, Any], tone: str) -> dict[str, Any]:
    """Two dots and the way between them, in percent of the width."""
    before, after = (100 * success[when]["estimate"] for when in ("before", "after"))
    return {
        "left": round(min(before, after), 2),
        "width": round(abs(after - before), 2),
        "tone": tone,
        "class": {"rose": "up", "fell": "down"}.get(words.direction(success["change"]), ""),
    }
