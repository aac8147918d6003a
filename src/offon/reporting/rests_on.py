"""What the calls of a diagnosis rest on, in words: its controls, its checker, and what it took."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from offon.reporting import words

CONTROLS = {  # what is near nothing where the calls can be believed, and what it is to be held against
    "shuffled": (("success", "after another prompt's first steps"), ("plain", "the same prompts alone")),
    "restart": (
        ("placebo", "a teacher after wrong responses to other prompts"),
        ("finished", "after the model's own first steps"),
    ),
    "leaks": (("share", "first steps that give the answer away, not used"),),
    "others": (("accepted", "responses to other prompts that the checker accepts"),),
}
CONTROL = "control"  # how a note about one of them begins


def controls(measured: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row per control: its rate with its interval, what to hold it against, and whether it failed."""
    return [
        {"rates": rates, "failed": bool(measured[name].get("failed"))}
        for name, parts in CONTROLS.items()
        if name in measured
        and (rates := [_rate(measured[name], *part) for part in parts if measured[name].get(part[0])])
    ]


def _rate(control: Mapping[str, Any], part: str, name: str) -> tuple[str, str]:
    of = f" of {control['prefixes']}" if part == "share" and "prefixes" in control else ""
    return name, f"{words.written(control[part], 'share')} ({words.interval(control[part], 'share')}){of}"


def checker(verifier: Mapping[str, Any] | None) -> str:
    """How often a checker errs, where gold labels told."""
    if not verifier:
        return ""
    accepts, slips = (
        f"{words.written(verifier[name], 'share')} ({words.interval(verifier[name], 'share')})"
        for name in ("sensitivity", "false_positive")
    )
    then = "the calls allow for both" if verifier.get("usable", True) else "too alike for any call but format"
    return f"The checker accepts {accepts} of right answers and {slips} of wrong ones; {then}."


def spent(entry: Mapping[str, Any]) -> str:
    """What was to be spent, and what was."""
    cost = entry.get("cost") or {}
    spent = [f"{words.compact(cost['rollouts'])} rollouts"] if cost.get("rollouts") else []
    spent += [text] if (text := words.cost(cost)) else []
    spent += [f"{words.compact(cost['verifier_calls'])} checks"] if cost.get("verifier_calls") else []
    plan = (entry.get("plan") or "").rstrip(".")
    return " ".join([f"Planned: {plan}."] * bool(plan) + [f"Spent: {' · '.join(spent)}."] * bool(spent))
