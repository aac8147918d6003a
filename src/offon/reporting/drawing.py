"""What every figure of the report is drawn with: paths, shares of a whole, and positions on a common scale.

Figures are numbers in, coordinates out; templates only place them. Positions on bars are percent of a width, so that
bars follow the page; positions in pictures are the units of their viewBox.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from offon.reporting import words

Point = tuple[float, float]


def line(points: Sequence[Point]) -> str:
    """An SVG path through points."""
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) if points else ""


def band(upper: Sequence[Point], lower: Sequence[Point]) -> str:
    """An SVG path around the area between two lines."""
    return line([*upper, *reversed(lower)]) + "Z" if upper else ""


def stacked(shares: Mapping[str, float | None]) -> list[dict[str, Any]]:
    """Parts of a whole, as percent of the width, in the order given; parts that are absent are left out."""
    whole = sum(value or 0 for value in shares.values())
    return [
        {"name": name, "value": value, "width": round(100 * value / whole, 2), "share": value / whole}
        for name, value in shares.items()
        if value
    ]


def bar_row(label: str, counts: Mapping[str, float], names: Mapping[str, str]) -> dict[str, Any]:
    """A whole as one bar, with each part named, and all of it in words."""
    parts = stacked(counts)
    for part in parts:
        part["text"] = f"{words.compact(part['value'])} {names.get(part['name'], part['name'])}"
        part["title"] = f"{part['text']} ({words.percent(part['share'])})"
    return {"label": label, "parts": parts, "words": ", ".join(part["text"] for part in parts)}


def across(values: Iterable[float], *, margin: float = 0.03) -> Callable[[float], float]:
    """A scale from numbers to percent of a width that shows all of them and zero, with a margin on either side.

    Numbers beyond the scale (an end of an interval that has no bound) are drawn at its edge.
    """
    finite = [value for value in values if math.isfinite(value)]
    low, high = min([0.0, *finite]), max([0.0, *finite])
    room = margin * (high - low) or 0.01
    low, high = low - room, high + room

    def at(value: float) -> float:
        return round(100 * (min(max(value, low), high) - low) / (high - low), 2)

    return at
