"""What was measured without sampling error, and which instruments applied at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from offon.reporting import words
from offon.reporting.blocks.effects import CELLS, effects, states
from offon.reporting.drawing import bar_row, line

PANEL = {"width": 320, "height": 150, "left": 34, "right": 10, "top": 8, "bottom": 22}
ENOUGH = 0.5  # coverage from which on a depth can be spoken about
BITS = {
    "selection": "keeping the right ones of the old responses",
    "novelty": "beyond that",
    "total": "both together",
}
SMALL = 0.01  # a depth beyond which neither checkpoint has more coverage is not drawn


def exact(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Coverage by depth, how many steps came and went, the probability they hold, and D2 where the tree is whole."""
    edges, mass = entry.get("edges") or {}, entry.get("mass") or {}
    return {
        **{
            name: entry.get(name) for name in ("eps", "prompts", "evaluations", "most_evaluations", "residual", "whole")
        },
        "coverage": coverage(entry.get("coverage") or {}),
        "edges": bar_row("steps", {cell: edges.get(cell, 0) for cell in CELLS}, CELLS) if any(edges.values()) else None,
        "mass": [(name, CELLS.get(name, name), *both) for name, both in mass.items()],
        "states": states(entry.get("d2")),
    }


def coverage(by_depth: Mapping[str, Sequence[float]]) -> dict[str, Any] | None:
    """How much of what a checkpoint does is still within the tree, token by token; 100% means everything."""
    before, after = (list(by_depth.get(when) or []) for when in ("before", "after"))
    deep = max(map(len, (before, after)), default=0)
    while deep > 1 and all(side[deep - 1] <= SMALL for side in (before, after) if len(side) >= deep):
        deep -= 1
    if deep < 2:
        return None
    wide = PANEL["width"] - PANEL["left"] - PANEL["right"]
    tall = PANEL["height"] - PANEL["top"] - PANEL["bottom"]

    def spot(depth: int, share: float) -> tuple[float, float]:
        return PANEL["left"] + wide * depth / (deep - 1), PANEL["top"] + tall * (1 - share)

    step = max(1, -(-deep // 8))
    sides = {"before": before[:deep], "after": after[:deep]}
    reach = min(next((n for n, share in enumerate(side) if share < ENOUGH), len(side)) for side in sides.values())
    return PANEL | {
        "lines": {when: line([spot(depth, share) for depth, share in enumerate(side)]) for when, side in sides.items()},
        "x_ticks": [(round(spot(depth, 0)[0], 1), depth + 1) for depth in range(0, deep, step)],
        "y_ticks": [(round(spot(0, share)[1], 1), f"{share:.0%}") for share in (0, 0.5, 1)],
        "words": f"Both have half or more of their responses in the tree up to token {reach}."
        if reach
        else "One of the two leaves the tree at its first token.",
    }


def instruments(chosen: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, str]]]:
    """What was used, and what was not with its reason."""
    named = [{"name": one["name"], "why": one.get("why", ""), "applies": one["applies"]} for one in chosen]
    return {"used": [one for one in named if one["applies"]], "not": [one for one in named if not one["applies"]]}


def classes(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The classes of answers that moved most."""
    return {
        "map": entry.get("map", "class"),
        "counts": {name: entry.get(name) for name in ("gained", "lost", "kept") if entry.get(name) is not None},
        "top": [{"change": None, **one} for one in list(entry.get("top") or [])[:8]],
        "distinct": _distinct(entry),
    }


def _distinct(entry: Mapping[str, Any]) -> str:
    """How many classes a prompt's responses show, and a guess at how many they do not."""
    counts, sides = [], entry.get("distinct") or {}
    for when in ("before", "after"):
        seen, unseen = (sides.get(when, {}).get(name) for name in ("seen", "unseen_heuristic"))
        if seen:
            guess = f" and perhaps {words.written(unseen, 'ratio')} unseen" if unseen and unseen["high"] > 0 else ""
            counts.append(f"{when} {words.written(seen, 'ratio')} ({words.interval(seen, 'ratio')}){guess}")
    return f"Different {entry.get('map', 'clas')}s of a prompt: {', '.join(counts)}." if counts else ""


def bits(entry: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """D4: how far right responses moved, and how much of it filtering the old ones would have done."""
    if not entry or not entry.get("intervals"):
        return None
    rows = effects({meaning: entry["intervals"].get(name) for name, meaning in BITS.items()}, "nats", toned=False)
    return {"rows": rows, "prompts": entry.get("prompts")}


def first_passage(entry: Mapping[str, Any] | None) -> str:
    """Where in a response the new checkpoint starts to do what the old one hardly did."""
    if not entry or entry.get("median_token") is None:
        return ""
    sentence = f"Where a response is new, it usually becomes so by token {words.short(entry['median_token'])}"
    share = entry.get("share_at_first_token")
    if isinstance(share, Mapping):
        share = f"{words.written(share, 'share')} ({words.interval(share, 'share')})"
    elif share is not None:
        share = words.percent(share)
    return sentence + (f"; {share} of them already at the first." if share else ".")
