"""Success within k tries, before and after."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from offon.reporting import words
from offon.reporting.drawing import band, line

PANEL = {"width": 220, "height": 132, "left": 30, "right": 8, "top": 8, "bottom": 20}


def pass_at_k(curves: Mapping[str, Sequence[Mapping[str, float]]], k: int | None) -> dict[str, Any] | None:
    """Before and after as lines with 95% bands over k on a log axis; the y axis is 0 to 100% on every panel."""
    budgets = sorted({point["k"] for curve in curves.values() for point in curve})
    if len(budgets) < 2:
        return None
    low, high = math.log2(budgets[0]), math.log2(budgets[-1])
    wide = PANEL["width"] - PANEL["left"] - PANEL["right"]
    tall = PANEL["height"] - PANEL["top"] - PANEL["bottom"]

    def x(budget: float) -> float:
        return PANEL["left"] + wide * (math.log2(budget) - low) / (high - low)

    def y(share: float) -> float:
        return PANEL["top"] + tall * (1 - share)

    drawn = {}
    for when, curve in curves.items():
        sides = {side: [(x(p["k"]), y(p[side])) for p in curve] for side in ("estimate", "low", "high")}
        drawn[when] = {
            "line": line(sides["estimate"]),
            "band": band(sides["high"], sides["low"]),
            "end": sides["estimate"][-1] if curve else None,
        }
    at_k = {when: next((p for p in curve if p["k"] == k), None) for when, curve in curves.items()}
    ticks = [budget for budget in budgets[::2] if not k or abs(math.log2(budget / k)) > 0.2 * (high - low)]
    return PANEL | {
        **drawn,
        "x_ticks": [(x(budget), f"{budget}") for budget in ticks],
        "y_ticks": [(y(share), f"{share:.0%}") for share in (0, 0.5, 1)],
        "at_k": " → ".join(f"{words.percent(p['estimate'])} ({words.percent_range(p)})" for p in at_k.values())
        if all(at_k.values())
        else "",
        "k": (x(k), k) if k and budgets[0] <= k <= budgets[-1] else None,
    }
