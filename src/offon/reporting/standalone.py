"""Pages of their own: one comparison, one diagnosis, one study of stages left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from offon.reporting import shell, words
from offon.reporting.blocks.diagnosis import classes_that_occur, diagnosis
from offon.reporting.blocks.effects import attribution, study_words
from offon.reporting.blocks.exact import instruments
from offon.reporting.blocks.handed_on import ROLE_MEANING, handed_on
from offon.reporting.blocks.headline import headline
from offon.reporting.blocks.measured import measured
from offon.reporting.summary import handed_on_by, task_rows
from offon.runs import atomic


def write_comparison(entry: Mapping[str, Any], path: str | Path) -> Path:
    """The page of one comparison, an entry of `offon compare`."""
    return atomic.write_text(Path(path), comparison(entry))


def write_diagnosis(entries: Mapping[str, Any] | Sequence[Mapping[str, Any]], path: str | Path) -> Path:
    """The page of one diagnosis, an entry of `offon diagnose`, or of several."""
    return atomic.write_text(Path(path), diagnoses([entries] if isinstance(entries, Mapping) else list(entries)))


def write_attribution(study: Mapping[str, Any], path: str | Path) -> Path:
    """The page of one study of stages left out, what `offon attribute` finds."""
    return atomic.write_text(Path(path), attributed(study))


def comparison(entry: Mapping[str, Any]) -> str:
    before, after = (entry.get(f"{when}_model") or when for when in ("before", "after"))
    rows = [row | {"label": "all prompts"} if row["is_total"] else row for row in task_rows(entry["task"], entry)]
    prompts = [{"task": entry["task"], **prompt} for prompt in entry["prompts"]]
    shown, more = headline(rows, "compared")
    page = {
        "title": f"{_name(before)} → {_name(after)}",
        "names": {"before": str(before), "after": str(after)},
        "task": entry["task"],
        "k": entry.get("k"),
        "n_prompts": entry["n_prompts"],
        "n_samples": entry.get("n_samples"),
        "lead": words.outcome(rows),
        "sentence": entry.get("sentence", ""),
        "role": entry.get("role"),
        "role_meaning": ROLE_MEANING.get((entry.get("role") or {}).get("name", ""), ""),
        "headline": shown,
        "not_shown": more,
        "change": measured(rows, prompts, entry.get("k")),
        "handed_on": handed_on({"results": rows, **handed_on_by({})}),
        "instruments": instruments(entry.get("instruments") or []),
        "cost": words.cost(entry.get("cost") or {}),
    }
    return shell.document("comparison.html", page, entry)


def diagnoses(entries: Sequence[Mapping[str, Any]]) -> str:
    models = list(dict.fromkeys(_name(entry["model"]) for entry in entries))
    page = {
        "title": words.listed(models),
        "tasks": words.listed(list(dict.fromkeys(entry["task"] for entry in entries))),
        "k_words": words.listed(sorted({str(entry["k"]) for entry in entries})),
        "teachers": words.listed(sorted({str(entry["teacher"]) for entry in entries if entry.get("teacher")})),
        "earlier": words.listed(sorted({str(name) for entry in entries for name in entry.get("earlier") or []})),
        "sentence": entries[0].get("sentence", "") if len(entries) == 1 else "",
        "diagnosis": diagnosis(entries),
        "class_names": classes_that_occur(entries),
    }
    return shell.document("diagnosis_page.html", page, list(entries))


def attributed(study: Mapping[str, Any]) -> str:
    page = {"title": " → ".join(study["stages"]), "attribution": attribution(study), "study": study_words(study)}
    return shell.document("attribution_page.html", page, study)


def _name(model: str) -> str:
    """A model's folder, or its id; of a run's node, the node."""
    parts = [part for part in Path(str(model)).parts if part not in ("final", "/")]
    return parts[-1] if parts else "model"
