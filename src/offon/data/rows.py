"""Rows from files and objects, with the place each came from, and all bad rows reported at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from offon.errors import DataError

SHOWN_BAD_ROWS = 5
# What other conventions call our columns; used to propose a mapping, never to apply one.
SYNONYMS = {
    "prompt": ("question", "instruction", "query", "input", "problem", "user"),
    "completion": ("answer", "response", "output", "solution", "target", "assistant"),
    "answer": ("solution", "target", "label", "gold", "final_answer", "expected"),
    "messages": ("conversation", "conversations", "dialogue", "chat", "turns"),
    "text": ("content", "document", "body"),
    "chosen": ("preferred", "accepted", "winner", "better", "response_chosen"),
    "rejected": ("dispreferred", "loser", "worse", "response_rejected"),
}

T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    where: str  # "demos.jsonl:3", or "row 2" counted from 0 as in dataset[2]
    columns: Mapping[str, Any]


class BadRow(Exception):
    """Why one row cannot be used. Collected by `convert_rows`."""


def source_name(source: Any) -> str:
    return str(source) if isinstance(source, str | Path) else f"a {type(source).__name__} of {len(source)} rows"


def read_rows(source: Any, columns: Mapping[str, str] | None, *alternatives: Sequence[str]) -> list[Row]:
    """The rows of a JSONL, JSON or Parquet file, of a `datasets` object, or of a list of mappings.

    `columns` renames on reading: {"prompt": "question"} takes `prompt` from the column `question`. The first row must
    then have all the columns of one of the `alternatives`.
    """
    rows = [_renamed(row, columns or {}) for row in _read(source)]
    if not rows:
        raise DataError("there are no rows", where=source_name(source))
    found = sorted(rows[0].columns)
    if not any(set(names) <= set(found) for names in alternatives):
        wanted = " or ".join(" + ".join(names) for names in alternatives)
        raise DataError(
            f"columns {wanted} not found",
            where=f"{source_name(source)} ({len(rows)} rows; columns: {', '.join(found)})",
            fix=_proposal(found, alternatives),
        )
    return rows


def _renamed(row: Row, columns: Mapping[str, str]) -> Row:
    missing = [name for name in columns.values() if name not in row.columns]
    if missing:
        raise DataError(
            f"column {missing[0]!r} of the mapping not found",
            where=f"{row.where} (columns: {', '.join(sorted(row.columns))})",
        )
    kept = {name: value for name, value in row.columns.items() if name not in columns.values()}
    return Row(row.where, kept | {target: row.columns[name] for target, name in columns.items()})


def _proposal(found: Sequence[str], alternatives: Sequence[Sequence[str]]) -> str:
    for names in alternatives:
        mapping = {name: next((c for c in (name, *SYNONYMS.get(name, ())) if c in found), None) for name in names}
        if all(mapping.values()):
            return "columns: {" + ", ".join(f"{name}: {column}" for name, column in mapping.items()) + "}"
    return "name them with columns: {" + ", ".join(f"{name}: ..." for name in alternatives[0]) + "}"


def _read(source: Any) -> list[Row]:
    if not isinstance(source, str | Path):
        return [Row(f"row {index}", row) for index, row in enumerate(source)]
    path = Path(source).expanduser()
    if not path.is_file():
        raise DataError(f"there is no file {source}", fix="a .jsonl, .json or .parquet file")
    if path.suffix == ".parquet":
        import pyarrow.parquet

        return [Row(f"row {index}", row) for index, row in enumerate(pyarrow.parquet.read_table(path).to_pylist())]
    if path.suffix == ".json":
        return [Row(f"row {index}", row) for index, row in enumerate(_json_array(path))]
    if path.suffix == ".jsonl":
        return _json_lines(path)
    raise DataError(f"{path.name} is of no known kind", where=str(path), fix="a .jsonl, .json or .parquet file")


def _json_array(path: Path) -> list[Mapping[str, Any]]:
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
    raw = [Row(f"{path.name}:{number}", line) for number, line in enumerate(lines, 1) if line.strip()]
    return convert_rows(path, raw, _json_object)


def _json_object(row: Row) -> Row:
    try:
        value = json.loads(row.columns)
    except ValueError as error:
        text = row.columns.decode("utf-8", "replace").strip()
        raise BadRow(f"not JSON ({error}): {text:.60}") from error
    if not isinstance(value, dict):
        raise BadRow(f"not an object but a {type(value).__name__}")
    return Row(row.where, value)


def convert_rows(source: Any, rows: Sequence[Row], convert: Callable[[Row], T]) -> list[T]:
    """Convert every row; if any is bad, one DataError names the first five and counts the rest."""
    good, bad = [], []
    for row in rows:
        try:
            good.append(convert(row))
        except BadRow as error:
            bad.append(f"{row.where}: {error}")
    if bad:
        raise DataError(
            f"{len(bad)} of {len(rows)} rows cannot be used", where=source_name(source), why="\n         ".join(_first(bad))
        )
    return good


def _first(bad: Sequence[str]) -> Iterator[str]:
    yield from bad[:SHOWN_BAD_ROWS]
    if len(bad) > SHOWN_BAD_ROWS:
        yield f"and {len(bad) - SHOWN_BAD_ROWS} more"
