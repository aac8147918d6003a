"""Rows from files and objects, with the place each came from, and all bad rows reported at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from offon.errors import DataError
from offon.hub import look_for_the_hub
from offon.objects import stands_for

SHOWN_BAD_ROWS = 5
FILES = (".jsonl", ".json", ".parquet")
A_FILE = "a .jsonl, .json or .parquet file"
# What other conventions call our columns; used to propose a mapping, never to apply one.
SYNONYMS = {
    "prompt": ("question", "instruction", "query", "input", "problem", "user"),
    "completion": ("answer", "response", "output", "solution", "target", "assistant"),
    "answer": ("solution", "target", "label", "gold", "final_answer", "expected"),
    "messages": ("conversation", "conversations", "dialogue", "chat", "turns"),
    "text": ("content", "document", "body"),
    "chosen": ("preferred", "accepted", "winner", "better", "response_chosen"),
    "labels": ("step_labels", "ratings"),
    "completions": ("responses", "answers", "ranking", "ranked", "candidates", "steps"),
    "label": ("desirable", "good", "thumbs_up", "is_good", "liked", "score"),
    "rejected": ("dispreferred", "loser", "worse", "response_rejected"),
}

S, T = TypeVar("S"), TypeVar("T")
Columns = Mapping[str, Any]
Row = tuple[str, Columns]  # where it came from ("demos.jsonl:3", or "row 2" counted from 0 as in dataset[2]), and what


class BadRow(DataError):
    """Why one row cannot be used. Collected by `convert_rows`; by itself where a part writes a prompt of its own."""


def source_name(source: Any) -> str:
    return str(source) if isinstance(source, str | Path) else f"a {type(source).__name__} of {len(source)} rows"


def read_rows(source: Any, columns: Mapping[str, str] | None, *alternatives: Sequence[str]) -> list[Row]:
    """The rows of a JSONL, JSON or Parquet file, of a `datasets` object, or of a list of mappings.

    `columns` renames on reading: {"prompt": "question"} takes `prompt` from the column `question`. The first row must
    then have all the columns of one of the `alternatives`.
    """
    read = _read(source)
    if not read:
        raise DataError("there are no rows", where=source_name(source))
    renamed = convert_rows(source, read, partial(_renamed, columns or {}))
    rows = [(where, row) for (where, _), row in zip(read, renamed, strict=True)]
    found = sorted(rows[0][1])
    if not any(set(names) <= set(found) for names in alternatives):
        wanted = " or ".join(" + ".join(names) for names in alternatives)
        raise DataError(
            f"columns {wanted} not found",
            where=f"{source_name(source)} ({len(rows)} rows; columns: {', '.join(found)})",
            fix=_proposal(found, alternatives),
        )
    return rows


def _renamed(mapping: Mapping[str, str], columns: Columns) -> Columns:
    if not isinstance(columns, Mapping):
        raise BadRow(f"not columns by name but a {type(columns).__name__}")
    missing = sorted(name for name in mapping.values() if name not in columns)
    if missing:
        raise BadRow(f"no column {missing[0]!r}, which the mapping names (columns: {', '.join(sorted(columns))})")
    kept = {name: value for name, value in columns.items() if name not in mapping.values()}
    return kept | {target: columns[name] for target, name in mapping.items()}


def _proposal(found: Sequence[str], alternatives: Sequence[Sequence[str]]) -> str:
    for names in alternatives:
        mapping = {name: next((c for c in (name, *SYNONYMS.get(name, ())) if c in found), None) for name in names}
        if all(mapping.values()):
            return "columns: {" + ", ".join(f"{name}: {column}" for name, column in mapping.items()) + "}"
    return "name them with columns: {" + ", ".join(f"{name}: ..." for name in alternatives[0]) + "}"


def _read(source: Any) -> list[Row]:
    source = stands_for(source)
    if not isinstance(source, str | Path):
        return _numbered(source)
    path = Path(source).expanduser()
    if not path.is_file():
        return _numbered(_from_hub(str(source)))
    if path.suffix == ".parquet":
        import pyarrow.parquet

        return _numbered(pyarrow.parquet.read_table(path).to_pylist())
    if path.suffix == ".json":
        return _numbered(_json_array(path))
    if path.suffix == ".jsonl":
        return _json_lines(path)
    raise DataError(f"{path.name} is of no known kind", where=str(path), fix=A_FILE)


def _from_hub(name: str) -> Iterable[Columns]:
    """The training split of a data set of the Hugging Face hub."""
    if Path(name).is_absolute() or Path(name).suffix in FILES or name.count("/") > 1:
        raise DataError(f"there is no file {name}", fix=f"{A_FILE}, or a data set of the hub")
    import datasets

    look_for_the_hub()
    try:
        return datasets.load_dataset(name, split="train")
    except (OSError, ValueError) as error:
        raise DataError(
            f"{name!r} is neither a local file nor a data set that the Hugging Face hub gave us",
            why=str(error).splitlines()[0],
            fix=f"{A_FILE}, or a hub id while online (its split train is read)",
        ) from error


def _numbered(rows: Iterable[Columns]) -> list[Row]:
    return [(f"row {index}", row) for index, row in enumerate(rows)]


def _json_array(path: Path) -> list[Columns]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise DataError(f"not JSON: {error}", where=str(path)) from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError("not an array of objects", where=str(path))
    return rows


def _json_lines(path: Path) -> list[Row]:
    """One object per line. A byte order mark, CRLF line ends and blank lines are no errors."""
    lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    numbered = [(f"{path.name}:{number}", line) for number, line in enumerate(lines, 1) if line.strip()]
    objects = convert_rows(path, numbered, _json_object)
    return [(where, columns) for (where, _), columns in zip(numbered, objects, strict=True)]


def _json_object(line: bytes) -> Columns:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise BadRow(f"not JSON ({error}): {line.decode('utf-8', 'replace').strip():.60}") from error
    if not isinstance(value, dict):
        raise BadRow(f"not an object but a {type(value).__name__}")
    return value


def convert_rows(source: Any, rows: Iterable[tuple[str, S]], convert: Callable[[S], T]) -> list[T]:
    """Convert every row; if any is bad, one DataError names the first five and counts the rest."""
    good, bad = [], []
    for where, row in rows:
        try:
            good.append(convert(row))
        except BadRow as error:
            bad.append(f"{where}: {error.what}")
    if bad:
        shown = bad[:SHOWN_BAD_ROWS] + ([f"and {len(bad) - SHOWN_BAD_ROWS} more"] if len(bad) > SHOWN_BAD_ROWS else [])
        raise DataError(
            f"{len(bad)} of {len(bad) + len(good)} rows cannot be used",
            where=source_name(source),
            why="\n         ".join(shown),
        )
    return good
