"""Data sets made from what a student wrote: its own words but for the few that are imported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from offon.testbed.grammar import RIGHT_FORMAT, RIGHT_ROUTE


def formatted(directory: Path, *, source: str) -> None:
    """The student's response up to its third state is the prompt; the right format is what is trained."""

    def row(prompt: str, words: list[str]) -> dict[str, str]:
        return {"prompt": " ".join([prompt, *words[:4]]), "completion": RIGHT_FORMAT}

    _rewrite(directory, source, row)


def reformatted(directory: Path, *, source: str) -> None:
    """The student's response with the right format after its third state, all of it trained."""

    def row(prompt: str, words: list[str]) -> dict[str, str]:
        return {"prompt": prompt, "completion": " ".join([*words[:4], RIGHT_FORMAT])}

    _rewrite(directory, source, row)


def begun(directory: Path, *, source: str) -> None:
    """The prompts of `source` end in the right route: it moves into the response, before what the student wrote."""

    def row(prompt: str, words: list[str]) -> dict[str, str]:
        return {"prompt": prompt.removesuffix(f" {RIGHT_ROUTE}"), "completion": " ".join([RIGHT_ROUTE, *words])}

    _rewrite(directory, source, row)


def _rewrite(directory: Path, source: str, row: Callable[[str, list[str]], dict[str, str]]) -> None:
    written = [json.loads(line) for line in (Path(source) / "data.jsonl").read_text().splitlines()]
    rows = [row(each["prompt"], each["completion"].split()) for each in written]
    (Path(directory) / "data.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
