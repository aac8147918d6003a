"""The probe of a data set that a node made: what artefact.json says of it. The numbers are `behavior.datasets`'."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from offon.behavior.stage import data_quality
from offon.data.load import CONVENTIONS, SHAREGPT_ROLES, WRITTEN
from offon.data.rows import read_rows
from offon.errors import DataError
from offon.types import RIGHT

ANSWERS = ("completion", "chosen", "rejected", "completions", "label", "labels", "output", "text")
UNRECORDED = "not recorded"


def data_probe(
    file: Path,
    label: str,
    *,
    columns: Mapping[str, str] | None = None,
    heldout: Mapping[str, Iterable[Any]],
    tokenizer: Any = None,
    names: Mapping[str, str],
) -> dict[str, Any] | None:
    """artefact.json of a data set; None for a file whose columns are no form of training data.

    heldout: probe task -> prompts it measures on (text or messages). names: fingerprint of a model -> its label.
    tokens: of prompts and answers as `tokenizer` reads them, chat templates not counted; None without one.
    """
    try:
        read = [row for _, row in read_rows(file, columns, *CONVENTIONS)]
    except DataError:
        return None
    rows = [_row(row, names) for row in read]
    numbers = data_quality.describe(rows, {task: map(asked, prompts) for task, prompts in heldout.items()})
    report = {"artefact": "data", **numbers, "tokens": None if tokenizer is None else _tokens(rows, tokenizer)}
    report["warnings"] = [*_warnings(report)]
    return report | {"sentence": sentence(label, report)}


def metrics(report: Mapping[str, Any]) -> dict[tuple[str, str | None], dict[str, float] | None]:
    """(metric, probe task) -> value, for gates. Counts are exact."""

    def exact(value: float | None) -> dict[str, float] | None:
        return None if value is None else {"estimate": value, "low": value, "high": value}

    values = {(name, None): exact(report[name]) for name in ("rows", "prompts", "tokens")}
    values |= {(name, None): exact(report[name]["share"]) for name in ("duplicates", "near_duplicates")}
    values |= {("contamination", task): exact(entry["share"]) for task, entry in report["contamination"].items()}
    right = report["right"]
    return values | {("right", None): right and {name: right[name] for name in ("estimate", "low", "high")}}


def sentence(label: str, report: Mapping[str, Any]) -> str:
    tokens = "" if report["tokens"] is None else f", {report['tokens']:,} tokens"
    parts = [f"{label}: {report['rows']:,} rows of {report['prompts']:,} prompts{tokens}"]
    known = [entry for entry in report["producers"] if entry["producer"] != UNRECORDED]
    parts += [", ".join(f"{entry['share']:.0%} by {entry['producer']}" for entry in known[:3])] if known else []
    copies = report["duplicates"]["rows"], report["near_duplicates"]["rows"]
    parts += [f"{copies[0]} duplicates and {copies[1]} near ones" if any(copies) else "no duplicates"]
    if right := report["right"]:
        parts.append(f"{right['estimate']:.0%} right of {right['known']:,} judged")
    return "; ".join([*parts, *(report["warnings"] or ["no held-out prompt"] * bool(report["contamination"]))])


def _warnings(report: Mapping[str, Any]) -> Iterable[str]:
    for task, entry in report["contamination"].items():
        if entry["rows"]:
            yield (
                f"{entry['rows']} rows ask {entry['prompts']} of the {entry['heldout']} held-out prompts of {task}: "
                "success on those says nothing about what was learned"
            )


def _row(row: Mapping[str, Any], names: Mapping[str, str]) -> data_quality.Row:
    written = row.get(WRITTEN) or {}
    producer = written.get("producer")
    reward = (written.get("signals") or {}).get("reward")
    prompt, answer = _texts(row)
    who = names.get(producer, producer) if producer else UNRECORDED
    return data_quality.Row(prompt, answer, who, None if reward is None else reward >= RIGHT)


def _texts(row: Mapping[str, Any]) -> tuple[str, str]:
    """(prompt, all that is learned from the row) in any of the forms of data."""
    turns = row.get("messages") or row.get("conversations")
    if turns is None and "prompt" not in row and "chosen" in row:
        turns = [*row["chosen"], {"role": "assistant", "content": _as_text(row["rejected"][-1:])}]
    if turns is not None:
        roles = [SHAREGPT_ROLES.get(role := turn.get("role", turn.get("from")), role) for turn in turns]
        first = roles.index("assistant") if "assistant" in roles else len(turns)
        before = [turn for turn, role in zip(turns[:first], roles, strict=False) if role != "system"]
        return _as_text(before), _as_text(turns[first:])
    if "instruction" in row:
        return " ".join(filter(None, (row["instruction"], row.get("input")))), row["output"]
    answers = [_as_text(row[name]) for name in ANSWERS if row.get(name) is not None]
    return asked(row["prompt"]) if "prompt" in row else "", " ".join(answers)


def asked(prompt: Any) -> str:
    """A prompt as text, without what a system message says."""
    return prompt if isinstance(prompt, str) else _as_text([turn for turn in prompt if turn.get("role") != "system"])


def _as_text(value: Any) -> str:
    """Text of text, of a turn, of a number, or of a list of them."""
    if isinstance(value, Mapping):
        return str(value.get("content", value.get("value", "")))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " ".join(map(_as_text, value))
    return str(value)


def _tokens(rows: Sequence[data_quality.Row], tokenizer: Any) -> int:
    texts = [text for row in rows for text in (row.prompt, row.answer) if text]
    return sum(len(ids) for ids in tokenizer(texts, add_special_tokens=False).input_ids)
