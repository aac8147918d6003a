"""The support map: every prompt's success before against after, on an axis that shows small rates and zero.

The axis is arcsin(sqrt(p)), on which a rate from n samples has about the same sampling error, 1 / (2 sqrt n),
everywhere: the band around the diagonal is therefore one width, and holds 95% of the prompts that did not change.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from offon.behavior.change.support import support_threshold
from offon.reporting import words
from offon.reporting.drawing import Point, bar_row, line

FRAME = {"left": 52, "top": 8, "side": 330, "width": 396, "height": 384}
TICKS = (0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
CELL = 6  # prompts closer than this are drawn as one mark
_MARK, _LARGEST = 3.4, 15.0  # radius of one prompt's mark, and of the largest
_COUNTED = 9  # from this radius on a mark has room for its number
_Z = 1.96
_ROOM = 34  # what the name of a cell needs
_SMALL = 60  # a cell narrower than this is covered by its own name
_CELLS = {"gained": (-1, -1), "kept": (1, -1), "never": (-1, 1), "lost": (1, 1)}  # which way from where the lines cross


def place(share: float) -> float:
    """A success rate on the axis: 0 at 0 and 1 at 1."""
    return 2 / math.pi * math.asin(math.sqrt(share))


def support_map(label: str, prompts: Sequence[Mapping[str, Any]], k: int | None) -> dict[str, Any] | None:
    """Marks, the lines of eps_k, the band of no change, and how many prompts have each call.

    prompts: {"prompt", "family", "before": [c, n], "after": [c, n], "call"}; those without a sample on either side
    are not drawn.
    """
    drawn = [prompt for prompt in prompts if prompt["before"][1] and prompt["after"][1]]
    if not drawn:
        return None
    eps = support_threshold(k) if k else None
    counts = Counter(prompt["call"] for prompt in drawn)
    samples = [median(prompt[when][1] for prompt in drawn) for when in ("before", "after")]
    return FRAME | {
        "label": label,
        "marks": _marks(drawn),
        "x_ticks": [(x(share), _tick(share)) for share in TICKS],
        "y_ticks": [(y(share), _tick(share)) for share in TICKS],
        "eps": {"x": x(eps), "y": y(eps), "k": k, "share": words.percent(eps)} if eps else None,
        "cells": _cells(eps, counts) if eps else [],
        "band": _band(*samples),
        "samples": words.listed(sorted({f"{number:.0f}" for number in samples})),
        "counts": {call: counts[call] for call in words.CALLS if counts[call]},
        "words": _in_words(label, counts, eps, k),
    }


def x(share: float) -> float:
    return round(FRAME["left"] + FRAME["side"] * place(share), 1)


def y(share: float) -> float:
    return round(FRAME["top"] + FRAME["side"] * (1 - place(share)), 1)


def _tick(share: float) -> str:
    return f"{share:.0%}"


def _marks(prompts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One mark per call and place, its area in proportion to the prompts there; the largest are drawn first."""
    together: dict[tuple, list[tuple[Point, Mapping]]] = {}
    for prompt in prompts:
        at = x(rate(prompt["before"])), y(rate(prompt["after"]))
        key = (prompt["call"], round(at[0] / CELL), round(at[1] / CELL))
        together.setdefault(key, []).append((at, prompt))
    marks = []
    for (call, *_), members in together.items():
        centre = [round(sum(at[axis] for at, _ in members) / len(members), 1) for axis in (0, 1)]
        radius = min(_MARK * math.sqrt(len(members)), _LARGEST)
        marked = [prompt for _, prompt in members]
        marks.append(
            {"call": call, "n": len(marked), "x": centre[0], "y": centre[1], "r": round(radius, 1)}
            | {"shape": _shape(call, *centre, radius), "counted": radius >= _COUNTED, "title": _title(marked)}
        )
    return sorted(marks, key=lambda mark: -mark["n"])


def rate(counts: Sequence[int]) -> float:
    return counts[0] / counts[1]


def _shape(call: str, cx: float, cy: float, r: float) -> str:
    """A triangle up for gained, down for lost; anything else is a circle (no path)."""
    if call not in ("gained", "lost"):
        return ""
    way, wide, tall = (1 if call == "gained" else -1), 1.1 * r, 1.2 * r
    return line([(cx, cy - way * tall), (cx + wide, cy + way * 0.7 * tall), (cx - wide, cy + way * 0.7 * tall)]) + "Z"


def _title(prompts: Sequence[Mapping[str, Any]]) -> str:
    call = words.CALLS.get(prompts[0]["call"], prompts[0]["call"])
    if len(prompts) == 1:
        only = prompts[0]
        family = f"{only['family']}: " if only.get("family") else ""
        counts = ", ".join(f"{when} {only[when][0]} of {only[when][1]} right" for when in ("before", "after"))
        return f"{family}{words.cut(only['prompt'], 80)} · {counts} · {call}"
    families = Counter(prompt.get("family", "") for prompt in prompts)
    named = words.listed([f"{family} {number}" for family, number in families.most_common() if family])
    shares = [median(rate(prompt[when]) for prompt in prompts) for when in ("before", "after")]
    success = " → ".join(map(words.percent, shares))
    return f"{len(prompts)} prompts{f' ({named})' if named else ''} · about {success} · {call}"


def _cells(eps: float, counts: Counter) -> list[dict[str, Any]]:
    """The number of prompts in each of the four cells, written where the two lines cross.

    The cell of prompts that stay out of reach is small where k is large, and then has no room for words.
    """
    small = x(eps) - FRAME["left"] < _SMALL
    return [
        {
            "call": call,
            "n": counts[call],
            "x": max(x(eps) + right * 6, FRAME["left"] + _ROOM) if right < 0 else x(eps) + 6,
            "y": y(eps) + (15 if down > 0 else -19),
            "anchor": "end" if right < 0 else "start",
        }
        for call, (right, down) in _CELLS.items()
        if counts[call] and not (small and call == "never")
    ]


def _band(before: float, after: float) -> str:
    """Around the diagonal: how far samples alone move 95% of the prompts whose success did not change."""
    half = min(1.0, _Z / math.pi * math.sqrt(1 / before + 1 / after))
    corners = [(0, 0), (0, half), (1 - half, 1), (1, 1), (1, 1 - half), (half, 0)]
    left, top, side = FRAME["left"], FRAME["top"], FRAME["side"]
    return line([(left + side * a, top + side * (1 - b)) for a, b in corners]) + "Z"


def _in_words(label: str, counts: Counter, eps: float | None, k: int | None) -> str:
    counted = words.listed([f"{counts[call]} {words.CALL_NAMES[call]}" for call in words.CALLS if counts[call]])
    reach = f" Within reach at k = {k}: {words.percent(eps)} or more." if eps else ""
    return f"{label}: of {counts.total()} prompts {counted}.{reach}"


def call_bars(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A bar per task and family: how many of its prompts have each call."""
    return [
        bar_row(row["label"], {name: row["calls"].get(name, 0) for name in words.CALLS}, words.CALL_NAMES)
        for row in rows
        if row["calls"]
    ]
