"""The report of a run: `write` the page, `summarise` the numbers, print the `headline`."""

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


__all__ = ["summarise", "write"]
