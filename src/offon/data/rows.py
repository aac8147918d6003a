"""Rows from files and objects, with the place each came from, and all bad rows reported at once."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from offon.errors import DataError
from offon.hub import look_for_the_hub
from offon.objects import stands_for

SHOWN_BAD_ROWS = 5
SURROGATE = re.compile("[\ud800-\udfff]")
FILES = (".jsonl", ".json", ".parquet")
LISTS = ("data", "rows", "examples", "train")  # under which a .json file that is one object may hold its rows
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
    existing = sorted(rows[0][1])
    if not any(set(names) <= set(existing) for names in alternatives):
        wanted = " or ".join(" + ".join(names) for names in alternatives)
        raise DataError(
            f"columns {wanted} not found",
            where=f"{source_name(source)} ({len(rows)} rows; columns: {', '.join(existing)})",
            fix=_proposal(existing, alternatives),
        )
    return rows


def _renamed(mapping: Mapping[str, str], columns: Columns) -> Columns:
    if not isinstance(columns, Mapping):
        raise BadRow(f"not columns by name but a {type(columns).__name__}")
    if not all(isinstance(name, str) for name in columns):
        raise BadRow("a column's name is not text")
    for name, value in columns.items():
        require_encodable(name, name)
        require_encodable(name, value)
    missing = sorted(name for name in mapping.values() if name not in columns)
    if missing:
        raise BadRow(f"no column {missing[0]!r}, which the mapping names (columns: {', '.join(sorted(columns))})")
    kept = {name: value for name, value in columns.items() if name not in mapping.values()}
    return kept | {target: columns[name] for target, name in mapping.items()}


def require_encodable(name: str, value: Any) -> None:
    """Text anywhere in a value can be written as UTF-8: no file and no tokenizer takes half of a surrogate pair."""
    if isinstance(value, str):
        if not value.isascii() and (halves := SURROGATE.search(value)):
            where, half = halves.start(), halves.group()
            raise BadRow(
                f"{ascii(name)[1:-1]} holds {ascii(half)[1:-1]} at position {where}, half of a character",
                fix="write the text again from its source: it was cut inside a character, or decoded wrongly",
            )
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            require_encodable(name, key)
            require_encodable(f"{name}.{key}", inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            require_encodable(name, inner)


def _proposal(existing: Sequence[str], alternatives: Sequence[Sequence[str]]) -> str:
    for names in alternatives:
        mapping = {name: next((c for c in (name, *SYNONYMS.get(name, ())) if c in existing), None) for name in names}
        if all(mapping.values()):
            return "columns: {" + ", ".join(f"{name}: {column}" for name, column in mapping.items()) + "}"
    return "name them with columns: {" + ", ".join(f"{name}: ..." for name in alternatives[0]) + "}"


def _read(source: Any) -> list[Row]:
    source = stands_for(source)
    if not isinstance(source, str | Path):
        return _plain(source, _numbered(source))
    path = Path(source).expanduser()
    if not path.is_file():
        return _plain(source, _numbered(_from_hub(str(source))))
    if path.suffix == ".parquet":
        return _from_parquet(path)
    if path.suffix == ".json":
        return _from_json(path)
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


def _from_parquet(path: Path) -> list[Row]:
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        why = str(error).splitlines()[0]
        raise DataError("this is no Parquet file", where=str(path), why=why, fix="write it again") from error
    names = [field.name for field in table.schema if _has_numbers(field.type)]
    return _plain(path, _numbered(table.to_pylist()), names)


def _has_numbers(kind: Any) -> bool:
    """Whether a column's type holds numbers that JSON may not have."""
    import pyarrow.types

    if pyarrow.types.is_floating(kind) or pyarrow.types.is_decimal(kind):
        return True
    return any(_has_numbers(kind.field(index).type) for index in range(kind.num_fields))


def _plain(source: Any, rows: list[Row], names: Sequence[str] | None = None) -> list[Row]:
    """The rows with numbers as JSON has them, in these columns or in all."""
    if names is not None and not names:
        return rows

    def plain(row: Columns) -> Columns:
        if not isinstance(row, Mapping):
            return row  # what it is instead is said where columns are named
        return {name: value if names and name not in names else _value(name, value) for name, value in row.items()}

    return list(zip((where for where, _ in rows), convert_rows(source, rows, plain), strict=True))


def _value(name: str, value: Any) -> Any:
    """A value with numbers that can be stored: a decimal as the number that is written the same, NaN (what a data frame
    makes of a missing number) as null, numpy's as Python's."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if math.isinf(value):
            raise BadRow(f"{name} is {value}, which JSON does not have", fix="null, or the number as text")
        return None if math.isnan(value) else value
    if isinstance(value, Decimal):
        return _number(name, value)
    if isinstance(value, Mapping):
        return {key: _value(f"{name}.{key}", inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        inside = [_value(name, inner) for inner in value]
        return tuple(inside) if isinstance(value, tuple) else inside
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return _value(name, value.tolist())
    return value


def _number(name: str, value: Decimal) -> int | float | None:
    if value.is_nan():
        return None
    if value.is_finite():
        number = int(value) if value == value.to_integral_value() else float(value)
        if Decimal(repr(number)) == value:
            return number
    raise BadRow(f"{name} is {value}, a decimal that no number holds exactly", fix="write it as text")


def _from_json(path: Path) -> list[Row]:
    """An array of objects, an object that holds one under a name of LISTS, or (as in .jsonl) one object per line."""
    try:
        rows = _loads(path.read_text(encoding="utf-8-sig"))
    except BadRow as error:
        raise DataError(error.what, where=str(path), fix=error.fix) from error
    except ValueError as error:
        try:
            return _json_lines(path)
        except DataError as lines:
            fix = "an array of objects, or one object per line"
            what = f"neither one JSON document ({error}) nor lines of JSON"
            raise DataError(what, where=str(path), why=lines.why, fix=fix) from error
    if isinstance(rows, dict):
        rows = next((rows[name] for name in LISTS if _are_objects(rows.get(name))), [rows])
    if rows != [] and not _are_objects(rows):
        known = ", ".join(LISTS)
        what = f"not an array of objects, nor an object with one under any of {known}"
        raise DataError(what, where=str(path), fix="an array of objects, or one object per line")
    return _numbered(rows)


def _are_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _json_lines(path: Path) -> list[Row]:
    """One object per line. A byte order mark, CRLF line ends and blank lines are no errors."""
    lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    numbered = [(f"{path.name}:{number}", line) for number, line in enumerate(lines, 1) if line.strip()]
    objects = convert_rows(path, numbered, _json_object)
    return [(where, columns) for (where, _), columns in zip(numbered, objects, strict=True)]


def _json_object(line: bytes) -> Columns:
    try:
        value = _loads(line)
    except BadRow:
        raise
    except ValueError as error:
        raise BadRow(f"not JSON ({error}): {line.decode('utf-8', 'replace').strip():.60}") from error
    if not isinstance(value, dict):
        raise BadRow(f"not an object but a {type(value).__name__}")
    return value


def _loads(text: str | bytes) -> Any:
    try:
        return json.loads(text, parse_constant=_constant)
    except RecursionError as error:
        raise BadRow("nested too deeply to be read", fix="flatter rows") from error


def _constant(name: str) -> None:
    """Python's writer puts NaN and Infinity where JSON has no word for them."""
    return _value("a number", float(name))


def convert_rows(source: Any, rows: Iterable[tuple[str, S]], convert: Callable[[S], T]) -> list[T]:
    """Convert every row; if any is bad, one DataError names the first five and counts the rest."""
    good, bad, fix = [], [], ""
    for where, row in rows:
        try:
            good.append(convert(row))
        except BadRow as error:
            bad.append(f"{where}: {error.what}")
            fix = fix or error.fix
    if bad:
        shown = bad[:SHOWN_BAD_ROWS] + ([f"and {len(bad) - SHOWN_BAD_ROWS} more"] if len(bad) > SHOWN_BAD_ROWS else [])
        raise DataError(
            f"{len(bad)} of {len(bad) + len(good)} rows cannot be used",
            where=source_name(source),
            why="\n         ".join(shown),
            fix=fix,
        )
    return good
