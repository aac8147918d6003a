"""The report of a run: `write` the page, `summarise` the numbers, `show` the headline in a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def write(run_dir: str | Path, out: str | Path | None = None) -> Path:
    """Write RUN/report.html (or `out`): one file, no server, no external request."""
    from offon.report import page

    return page.write(run_dir, out)


def summarise(run_dir: str | Path) -> dict[str, Any]:
    """The report's numbers as one JSON document."""
    from offon.report import summary

    return summary.summarise(run_dir)


def show(run_dir: str | Path) -> None:
    """Print the report's headline table and warnings on stdout."""
    from offon.report import terminal

    terminal.show(run_dir)


__all__ = ["show", "summarise", "write"]
