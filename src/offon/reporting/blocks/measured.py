"""A change between two checkpoints, in full: the blocks that a stage of a run and a comparison have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from offon.reporting.blocks.branching import tree
from offon.reporting.blocks.decomposition import decomposition, granularities
from offon.reporting.blocks.effects import where
from offon.reporting.blocks.exact import bits, classes, exact, first_passage
from offon.reporting.blocks.pass_at_k import pass_at_k
from offon.reporting.blocks.prompts import changed
from offon.reporting.blocks.support_map import call_bars, support_map


def measured(rows: Sequence[Mapping[str, Any]], prompts: Sequence[Mapping[str, Any]], k: int | None) -> dict[str, Any]:
    """What there is to draw; a block that was not measured is empty, and left out of the page.

    rows: a task and its families, as `offon.reporting.summary.task_rows` gives them; several tasks may follow each
    other.
    """
    wholes = [row for row in rows if row["family"] is None]
    return {
        "k": k,
        "decomposition": decomposition(rows),
        "notes": list(dict.fromkeys(row["note"] for row in rows if row["note"])),
        "granular": _named(wholes, lambda row: granularities(row)),
        "first_passage": _named(wholes, lambda row: first_passage((row["trajectories"] or {}).get("first_passage"))),
        "bits": _named(wholes, lambda row: bits((row["trajectories"] or {}).get("bits"))),
        "maps": [
            drawn
            for row in wholes
            if (drawn := support_map(row["label"], [p for p in prompts if p["task"] == row["task"]], k))
        ],
        "calls": call_bars(rows),
        "prompts": changed(prompts),
        "panels": [(row["label"], panel) for row in rows if (panel := pass_at_k(row["pass_at_k"], k))],
        "classes": _named(wholes, lambda row: row["classes"] and classes(row["classes"])),
        "where": _named(wholes, lambda row: row["where"] and where(row["where"])),
        "exact": _named(wholes, lambda row: row["exact"] and exact(row["exact"])),
        "trees": _named(wholes, lambda row: row["tree"] and tree(row["tree"])),
    }


def _named(rows: Sequence[Mapping[str, Any]], drawn) -> list[tuple[str, Any]]:
    """(task, what is drawn of it), for the tasks that have it; one task needs no name."""
    drawn_rows = [(row["task"], block) for row in rows if (block := drawn(row))]
    return [("", block) for _, block in drawn_rows] if len(rows) == 1 else drawn_rows
