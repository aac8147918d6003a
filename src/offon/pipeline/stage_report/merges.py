"""The probe of merged weights: what the merge changed against each model it was made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Entries = Mapping[str, Mapping[str, Any]]  # probe task -> `behavior.task_handoff`


def merge_probe(label: str, parents: Mapping[str, Entries]) -> dict[str, Any]:
    """artefact.json of a merge: for each parent the entries a stage from it would have. parents: label -> entries."""
    compared = [{"parent": parent, "tasks": dict(entries)} for parent, entries in parents.items()]
    return {"artefact": "merge", "parents": compared, "sentence": sentence(label, parents)}


def sentence(label: str, parents: Mapping[str, Entries]) -> str:
    told = [f"against {parent}: {', '.join(_change(t, entry) for t, entry in tasks.items())}"
            for parent, tasks in parents.items() if tasks]  # fmt: skip
    return f"{label}, a merge: " + ("; ".join(told) or "not measured")


def _change(task: str, entry: Mapping[str, Any]) -> str:
    total, kept = entry["d1"]["total"], entry["retention"]
    points = "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * total[end] for end in ("estimate", "low", "high")))
    return f"{task} {points} points" + (f", keeps {kept['estimate']:.0%}" if kept else "")
