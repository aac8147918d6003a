"""Every prompt with its counts and its call: what a summary leaves out.

Grouped by call, what needs a look first; within a group the largest change, or the closest call, first. A page holds a
number of each group and says how many more there are, and where.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from offon.behavior.statistics.intervals import wilson
from offon.reporting import words
from offon.reporting.drawing import stacked

CHANGES = ("lost", "gained", "undecided", "kept", "never")
CLASSES = (
    "truncated",
    "format",
    "fragile",
    "ranking",
    "local",
    "unreachable",
    "missing",
    "unsupported",
    "undecided",
    "solved",
)
MEASURED = {  # of one model, on one prompt: the column's head, and what it is
    "strict": ("alone", "rollouts that the checker accepts"),
    "content": ("content", "the same rollouts, format ignored"),
    "cut": ("cut off", "failures that reached the token limit without an end"),
    "scaffold": ("with its hint", "rollouts of the prompt with its scaffold"),
    "previous": ("earlier", "rollouts of an earlier checkpoint"),
    "begun": ("begun", "rollouts that go on from a right response's first step"),
    "placed": ("placed", "rollouts that go on from as much of it as does not hold the answer"),
    "finished": ("finished", "a teacher goes on from the model's first step"),
    "placebo": ("control", "a teacher goes on from a wrong response to another prompt"),
}
SUBS = {
    "checker rejects": "the checker rejects it",
    "model's format": "the model's own form",
    "scaffold": "with its hint",
    "lost": "lost since an earlier checkpoint",
    "live": "a teacher can finish what it begins",
    "content only": "right in content only",
    "route": "the route is seldom taken",
    "steps": "lost along the way",
}
SHOWN = 12


def changed(prompts: Sequence[Mapping[str, Any]], *, most: int = SHOWN) -> list[dict[str, Any]]:
    """The prompts of a comparison, a group per call, largest change first."""

    def change(prompt: Mapping[str, Any]) -> float:
        before, after = (_rate(prompt[when]) for when in ("before", "after"))
        return 0.0 if None in (before, after) else abs(after - before)

    groups = [
        _group(call, sorted(of_call, key=change, reverse=True), words.CALLS.get(call, call), most)
        for call in _ordered(prompts, CHANGES)
        if (of_call := [prompt for prompt in prompts if prompt["call"] == call])
    ]
    for group in groups:
        group["prompts"] = [_drawn(prompt) for prompt in group["prompts"]]
        group["open"] = group["call"] == "lost"
        group["tries"] = any(prompt["tries"] for prompt in group["prompts"])
    return groups


def _drawn(prompt: Mapping[str, Any]) -> dict[str, Any]:
    sides = {when: _side(prompt[when]) for when in ("before", "after")}
    tries = prompt.get("k_to_solve") or {}
    tries_in_words = [words.k_to_solve(tries.get(when)) or "–" for when in ("before", "after")] if tries else []
    return {
        **prompt,
        **{f"{when}_drawn": side for when, side in sides.items()},
        "way": [min(side["at"] for side in sides.values()), max(side["at"] for side in sides.values())]
        if all(sides.values())
        else None,
        "tries": " → ".join(tries_in_words),
        "label": " → ".join(
            f"{words.percent(_rate(prompt[when]))} ({sides[when]['range']})" if sides[when] else "–" for when in sides
        ),
    }


def _side(counts: Sequence[int]) -> dict[str, Any] | None:
    """One rate and its Wilson interval, in percent of the strip's width."""
    if not counts[1]:
        return None
    low, high = (float(end) for end in wilson(*counts))
    est = {"estimate": _rate(counts), "low": low, "high": high}
    return {
        "at": round(100 * est["estimate"], 2),
        "low": round(100 * low, 2),
        "width": round(100 * (high - low), 2),
        "range": words.percent_range(est),
    }


def _rate(counts: Sequence[int] | None) -> float | None:
    return counts[0] / counts[1] if counts and counts[1] else None


def _ordered(prompts: Sequence[Mapping[str, Any]], known: Sequence[str]) -> list[str]:
    """The calls in the order to read them in; one that this page does not know is shown rather than left out."""
    return list(dict.fromkeys([*known, *(prompt["call"] for prompt in prompts)]))


def _group(call: str, prompts: Sequence[Mapping[str, Any]], name: str, most: int) -> dict[str, Any]:
    return {
        "call": call,
        "title": f"{len(prompts)} {name}",
        "prompts": list(prompts[:most]),
        "more": len(prompts[most:]),
        "families": any(prompt.get("family") for prompt in prompts),
    }


# ---- of one model


def diagnosed(prompts: Sequence[Mapping[str, Any]], *, most: int = SHOWN) -> list[dict[str, Any]]:
    """The prompts of a diagnosis, a group per call, the least sure first."""

    def sure(prompt: Mapping[str, Any]) -> float:
        return max((prompt.get("probabilities") or {"": 0.0}).values())

    groups = []
    for call in _ordered(prompts, CLASSES):
        of_call = sorted((prompt for prompt in prompts if prompt["call"] == call), key=sure)
        if of_call:
            group = _group(call, [_doubted(prompt) for prompt in of_call], words.CLASSES.get(call, call), most)
            columns = {name: heads for name, heads in MEASURED.items() if any(p.get(name) for p in group["prompts"])}
            flags = {name: any(p[name] for p in group["prompts"]) for name in ("tries", "next", "sub", "bar")}
            groups.append(group | {"columns": columns} | flags)
    return groups


def _doubted(prompt: Mapping[str, Any]) -> dict[str, Any]:
    bar = stacked(prompt.get("probabilities") or {})
    for part in bar:
        part["title"] = f"{words.CLASSES.get(part['name'], part['name'])} {words.percent(part['share'])}"
    return {
        **prompt,
        "bar": bar,
        "bar_words": ", ".join(part["title"] for part in bar),
        "tries": words.k_to_solve(prompt.get("k_to_solve")),
        "next": prompt.get("next") or "",
        "sub": SUBS.get(prompt.get("sub") or "", prompt.get("sub") or ""),
    }
