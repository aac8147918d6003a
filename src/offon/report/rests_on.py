"""What the calls of a diagnosis rest on, in words: its controls, its checker, and what it took."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from offon.report import words

CONTROLS = {
    "shuffled": "after another prompt's first steps",
    "placebo": "a teacher after a wrong response to another prompt",
    "leaks": "prefixes that give the answer away",
}


def controls(measured: Mapping[str, Any]) -> list[dict[str, str]]:
    """What must be near nothing for the calls to be believed, with intervals."""
    return [
        {"name": CONTROLS.get(name, name.replace("_", " ")), "value": words.share_or_count(value)}
        for name, value in measured.items()
        if value is not None and words.share_or_count(value)
    ]


def checker(verifier: Mapping[str, Any] | None) -> str:
    if not verifier or not all(verifier.get(name) for name in ("sensitivity", "false_positive")):
        return ""
    accepts, slips = (words.share_or_count(verifier[name]) for name in ("sensitivity", "false_positive"))
    return f"The checker accepts {accepts} of right answers and {slips} of wrong ones; the calls allow for both."


def spent(entry: Mapping[str, Any]) -> str:
    """What was to be spent, and what was."""
    cost = entry.get("cost") or {}
    told = [f"{words.compact(cost['rollouts'])} rollouts"] if cost.get("rollouts") else []
    told += [text] if (text := words.cost(cost)) else []
    told += [f"{words.compact(cost['verifier_calls'])} checks"] if cost.get("verifier_calls") else []
    plan = (entry.get("plan") or "").rstrip(".")
    return " ".join([f"Planned: {plan}."] * bool(plan) + [f"Spent: {' · '.join(told)}."] * bool(told))
