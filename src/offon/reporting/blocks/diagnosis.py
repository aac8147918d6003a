"""Why a model fails: a bar per task and family, what to try, the prompts themselves, and what the calls rest on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from offon.reporting import rests_on, words
from offon.reporting.blocks.effects import effects
from offon.reporting.blocks.prompts import SUBS, diagnosed
from offon.reporting.drawing import bar_row

NEGLIGIBLE = 0.005  # a share whose whole interval lies below is left out


def diagnosis(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One block per model: a bar per task and family, and what is suggested for the prompts of each class."""
    models: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        models.setdefault(entry["model"], []).append(entry)
    return [_diagnosed(model, own) for model, own in models.items()]


def classes_that_occur(entries: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    rows = [row for entry in entries for row in entry["summary"]]
    return {call: name for call, name in words.CLASSES.items() if any(row.get(call) for row in rows)}


def _diagnosed(model: str, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    several, first = len(entries) > 1, entries[0]
    budgets = words.listed(
        sorted({f"{entry['n_samples']} responses per prompt at k = {entry['k']}" for entry in entries})
    )
    return {
        "name": Path(model).name or "model",
        "sentence": "" if several else first.get("sentence", ""),
        "measured": f"From {budgets}.",
        "rows": [_row(entry, row, several) for entry in entries for row in entry["summary"]],
        "shares": [] if several else _shares(first.get("prevalence") or {}),
        "suggestions": _suggestions(entries),
        "groups": diagnosed([_placed(prompt, entry) for entry in entries for prompt in entry["prompts"]]),
        "controls": [] if several else rests_on.controls(first.get("controls") or {}),
        "checker": "" if several else rests_on.checker(first.get("verifier")),
        "spent": "" if several else rests_on.spent(first),
        "notes": list(dict.fromkeys(note for entry in entries for note in _notes(entry, several))),
    }


def _row(entry: Mapping[str, Any], row: Mapping[str, Any], several: bool) -> dict[str, Any]:
    names = [entry["task"] if several else "", row["family"] if row["family"] != entry["task"] else ""]
    label = ", ".join(filter(None, names)) or row["family"] or entry["task"]
    return bar_row(label, {name: row.get(name, 0) for name in words.CLASSES}, words.CLASSES)


def _placed(prompt: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    return {**prompt, "family": prompt.get("family") or entry["task"]}


def _notes(entry: Mapping[str, Any], several: bool) -> list[str]:
    """Without those about controls, where these have a table of their own."""
    has_controls = bool(entry.get("controls")) and not several
    return [note for note in entry.get("notes", []) if not (has_controls and note.startswith(rests_on.CONTROL))]


def _shares(prevalence: Mapping[str, words.Est]) -> list[dict[str, Any]]:
    """The estimated share of each class over all prompts, undecided ones divided by how likely each class is."""
    occurring = {name: est for name, est in prevalence.items() if est["high"] > NEGLIGIBLE}
    return effects({words.CLASSES.get(name, name): est for name, est in occurring.items()}, unit="share", toned=False)


def _suggestions(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What to try, said once where several tasks have the same reason."""
    by_call: dict[tuple[str, str], dict[str, Any]] = {}
    for entry in entries:
        for one in entry.get("suggestions", []):
            if one["methods"]:
                merged = by_call.setdefault((one["call"], one["reason"]), {**one, "prompts": 0, "tasks": []})
                merged["prompts"] += one["prompts"]
                merged["tasks"].append(entry["task"])
    for merged in by_call.values():
        where = f" on {words.listed(merged['tasks'])}" if len(entries) > 1 else ""
        kind = f" ({SUBS.get(merged['sub'], merged['sub'])})" if merged.get("sub") else ""
        merged["what"] = f"{merged['prompts']} {words.CLASSES.get(merged['call'], merged['call'])}{kind}{where}"
    return list(by_call.values())
