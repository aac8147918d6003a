"""What goes to stdout: a table for people, or exactly one JSON document for programs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from offon.api.json_form import json_text, plain

__all__ = ["only_results_on_stdout", "plain", "print_json", "table"]


@contextlib.contextmanager
def only_results_on_stdout() -> Iterator[None]:
    """While a command works, whatever a library prints goes to stderr."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def print_json(value: Any) -> None:
    print(json_text(value))


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], *, widest: int = 60) -> str:
    """Left-aligned columns of text, numbers to the right; long cells are cut."""
    cells = [[_cell(value, widest) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    numeric = [all(map(_is_number, column)) for column in zip(*cells, strict=True)] if cells else [False] * len(header)

    def line(row: Sequence[str]) -> str:
        aligned = (c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, numeric, strict=True))
        return "  ".join(aligned).rstrip()

    return "\n".join([line(list(header)), "  ".join("-" * width for width in widths), *map(line, cells)])


def _cell(value: Any, widest: int) -> str:
    text = "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    text = text.replace("\n", "\\n")
    return text if len(text) <= widest else text[: widest - 3] + "..."


def _is_number(text: str) -> bool:
    with contextlib.suppress(ValueError):
        float(text or 0)
        return True
    return False
