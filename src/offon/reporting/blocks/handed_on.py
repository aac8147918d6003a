"""What a stage hands on: what is kept, what it costs to keep it, and what the next stage or another model can use.

Every block is left out where nothing of it was measured; every number has its interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from offon.reporting import metrics, words
from offon.reporting.blocks.effects import effects

TRANSFER = {
    "answer": ("Same answers", "share", "overlap of the two models' answers to a prompt"),
    "trace": ("New to the student", "share", "of the teacher's right responses, those the student would hardly give"),
    "agreement": ("Same next token", "share", "how often both put the same token first, where the student has got to"),
    "kl_nats": ("Distance", "nats", "from teacher to student per token, where the student has got to"),
}
COSTS = {"seconds": "seconds", "tokens": "tokens"}
ROLE_MEANING = {
    "expansion": "most of the gain is on prompts that were out of reach",
    "reshaping": "most of the gain is on prompts that were within reach",
    "consolidation": "what it did with help it now does alone",
    "mixed": "no single kind of change carries the gain for sure",
    "no change": "nothing beyond its interval",
}


def handed_on(stage: Mapping[str, Any]) -> dict[str, Any] | None:
    """Everything that handoff.json says beyond success and D1; None where it says nothing."""
    rows = _rows(stage["results"], stage["per_task"])
    blocks = {
        "rows": rows,
        "metrics": metrics.columns(rows),
        "columns": {name for task in stage["per_task"].values() for name, value in task.items() if value},
        "protected": _protected(stage["protected"]),
        "transfer": _transfer(stage["transfer"]),
        "portability": _portability(stage["portability"]),
        "scaffold": _scaffold(stage["scaffold"]),
        "notes": stage["notes"],
    }
    return blocks if any(blocks.values()) else None


def _rows(results: Sequence[Mapping[str, Any]], per_task: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per task and family that has a role; what is known per task only stands beside the whole task."""
    nothing = {"gain_retention": None, "drift": None, "per_gain": None}
    return [
        row
        | nothing
        | (per_task.get(row["task"], {}) if row["family"] is None else {})
        | {"meaning": ROLE_MEANING.get(row["role"]["name"], "")}
        for row in results
        if row["role"]
    ]


def _protected(protected: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not protected:
        return None
    attrition = {
        "given up of what was protected": protected.get("attrition"),
        "given up of the rest, more than that": protected.get("selective_forgetting"),
    }
    return {"tasks": words.listed(protected.get("tasks", [])), "rows": effects(attrition, "share", toned=False)}


def _transfer(transfer: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not transfer or not transfer.get("tasks"):
        return None
    measured = {name for values in transfer["tasks"].values() for name, est in values.items() if est}
    return {
        "teacher": transfer.get("teacher", "the teacher"),
        "heads": {name: head for name, head in TRANSFER.items() if name in measured},
        "rows": [{"task": task, **values} for task, values in transfer["tasks"].items()],
    }


def _portability(shifted: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"name": name, "of": entry.get("of", ""), "change": entry.get("change"), "ratio": entry.get("ratio")}
        for name, entry in shifted.items()
    ]


def _scaffold(scaffold: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for task, entry in scaffold.items():
        dependence, tokens = entry.get("dependence") or {}, entry.get("tokens_per_success") or {}
        rows.append(
            {
                "task": task,
                "before": dependence.get("before"),
                "after": dependence.get("after"),
                "amortisation": entry.get("amortisation"),
                "plain": _tokens(tokens.get("plain")),
                "scaffolded": _tokens(tokens.get("scaffolded")),
            }
        )
    return rows


def _tokens(value: Any) -> words.Est | None:
    """Tokens per success: an estimate, or a plain number; None where nothing succeeded."""
    return value if isinstance(value, Mapping) else value and {"estimate": value, "low": value, "high": value}
