"""What a run that is continued should have on record and has not.

A kill leaves no holes: lines are flushed whole and synced before the checkpoint that counts them. Whoever cleans up,
copies or edits a run's folder does. Lines and shards that are missing are named, and the run goes on without them; what
is there and cannot be read is refused by name, because what is read instead would be another history.
"""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from offon.errors import StorageError
from offon.runs import atomic, trajectories

DIGITS = 16  # of a shard's SHA-256 that are kept


class Record(Protocol):
    """What of a node's directory is looked at here."""

    name: str

    def metrics(self) -> list[dict[str, Any]]: ...

    def consumption(self) -> list[dict[str, Any]]: ...

    def buffers(self) -> list[int]: ...

    def shard(self, index: int) -> Path: ...

    def read_json(self, name: str, default: Any = None) -> Any: ...


def digest(path: Path) -> str:
    return atomic.known_sha256(path)[:DIGITS]


def holes(node: Record, counters: Mapping[str, Any]) -> list[str]:
    """What is missing of the record of a stage with these counters, one sentence for each file; empty if nothing is."""
    step, missing = counters["step"], []
    logged = {line["step"] for line in node.metrics()}
    if lacking := [k for k in range(1, step + 1) if k not in logged]:
        missing.append(f"metrics.jsonl lacks step {ranges(lacking)} of {node.name}")
    there = sum(line["step"] <= step for line in node.consumption())
    if there < (due := counters.get("consumed") or 0):
        missing.append(f"{node.name}/consumption.jsonl lacks {due - there} of {due} lines")
    shards = set(node.buffers())
    if lacking := [k for k in range(counters["buffer"] + 1) if k not in shards]:
        missing.append(f"the ledger lacks buffer {ranges(lacking)} of {node.name} ({node.shard(lacking[0]).name}, ...)")
    return missing


def ranges(numbers: Sequence[int]) -> str:
    """3, 5-7"""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def require_whole_shards(node: Record, digests: Mapping[str, str] | None = None) -> None:
    """Refuse a shard that cannot be read or is not what was written, by its name. digests: of those known, by buffer;
    of a finished node its record has them."""
    if digests is None:
        record = node.read_json("node.json", {})
        digests = record.get("shards") or record.get("counters", {}).get("shards", {})
    for index in node.buffers():
        path = node.shard(index)
        if str(index) not in digests:
            why = _unreadable(path)
        else:
            why = "" if digest(path) == digests[str(index)] else "its content is not what was written (SHA-256)"
        if why:
            raise StorageError(
                f"the ledger's {path.name} of {node.name} is damaged",
                where=str(path),
                why=why,
                fix=f"put it back from a copy, or go on without it: rm {shlex.quote(str(path))} and --resume, "
                "which has the hole on record",
                kept="nothing was touched",
            )


def _unreadable(path: Path) -> str:
    try:
        trajectories.read(path)
    except Exception as error:
        return (getattr(error, "why", "") or str(error)).splitlines()[0][:200] or type(error).__name__
    return ""


def mended(run: Path) -> list[str]:
    """Mend what JSON files of a run hold halves of something; what was done, one sentence for each.

    Most are made anew as the run goes on. A node's record gives the hash of what it was made from, without which
    nothing says that its checkpoints and its result are those of this recipe: pipeline.json has it, too. Where it has
    not, the node is refused with the command that starts it afresh."""
    broken = [path for path in sorted([*run.glob("*.json"), *run.glob("nodes/*/*.json")]) if not _is_json(path)]
    hashes = {}
    with contextlib.suppress(ValueError, OSError, TypeError, KeyError):
        pipeline = json.loads((run / "pipeline.json").read_text(encoding="utf-8"))
        hashes = {node["name"]: node["hash"] for node in pipeline["nodes"] if "hash" in node}
    again = dict.fromkeys(path.parent.name for path in broken if path.name in ("node.json", "gate.json"))
    for name in again:
        folder = run / "nodes" / name
        record = folder / "node.json"
        known = json.loads(record.read_text(encoding="utf-8"))["hash"] if _is_json(record) else hashes.get(name)
        if known is None:
            raise StorageError(
                f"node.json of {name} is damaged",
                where=str(record),
                why="without it nothing says what the checkpoints beside it were made from",
                fix=f"put it back from a copy, or make {name} again: rm -r {shlex.quote(str(folder))} and --resume",
                kept="nothing was touched",
            )
        hashes[name] = known
    sentences = []
    for path in broken:
        path.unlink()
        sentences.append(f"{path.relative_to(run)} held half of something and is made anew")
    for name in again:
        atomic.write_json(run / "nodes" / name / "node.json", {"hash": hashes[name], "state": "running"})
    return sentences


def _is_json(path: Path) -> bool:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        return False
    return isinstance(value, dict | list)
