"""Data sets for the cells: what a user would bring, made from the testbed's own answers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from offon.testbed import TestbedTask
from offon.testbed.grammar import RIGHT_FORMAT, ROUTES, WRONG_FORMAT, Program, response_words


def demonstrations(directory: Path, *, families: Sequence[str], n: int) -> None:
    """Right answers to n training prompts."""
    _write(directory, TestbedTask(families).demonstrations("train", n))


def pairs(directory: Path, *, families: Sequence[str], n: int) -> None:
    """Right answers against what the base says instead: a decoy route, or the wrong symbol after the right trace."""
    rows = []
    for index, item in enumerate(TestbedTask(families).items("train")[:n]):
        rows.append({"prompt": item.prompt, "chosen": item.reference, "rejected": _wrong(item, index)})
    _write(directory, rows)


def labelled(directory: Path, *, families: Sequence[str], n: int) -> None:
    """Single answers with a thumb up or down: right ones, and what the base says instead, in turn."""
    rows = []
    for index, item in enumerate(TestbedTask(families).items("train")[:n]):
        right = index % 2 == 0
        answer = item.reference if right else _wrong(item, index // 2)
        rows.append({"prompt": item.prompt, "completion": answer, "label": right})
    _write(directory, rows)


def rankings(directory: Path, *, families: Sequence[str], n: int) -> None:
    """The right answer, then two decoy routes."""
    rows = []
    for index, item in enumerate(TestbedTask(families).items("train")[:n]):
        answers = [item.reference, _wrong(item, index), _wrong(item, index + 1)]
        rows.append({"prompt": item.prompt, "completions": answers})
    _write(directory, rows)


def _wrong(item, index: int) -> str:
    start, *ops = item.prompt.split()[1:5]
    program = Program(start, tuple(ops))
    if item.family == "format":
        return " ".join(response_words(program, form=WRONG_FORMAT))
    decoys = [route for route in ROUTES if route != "forward"]
    return " ".join(response_words(program, decoys[index % len(decoys)], RIGHT_FORMAT))


def _write(directory: Path, rows: Iterable[dict]) -> None:
    (Path(directory) / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
