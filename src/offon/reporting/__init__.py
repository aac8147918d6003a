"""The report of a run: `write` the page, `summarise` the numbers, `show` the headline in a terminal.

`write_comparison`, `write_diagnosis` and `write_attribution` make a page of one comparison, diagnosis or study.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def write(run_dir: str | Path, out: str | Path | None = None) -> Path:
    """Write RUN/report.html (or `out`): one file, no server, no external request."""
    from offon.reporting import page

    return page.write(run_dir, out)


def summarise(run_dir: str | Path) -> dict[str, Any]:
    """The report's numbers as one JSON document."""
    from offon.reporting import summary

    return summary.summarise(run_dir)


def show(run_dir: str | Path) -> None:
    """Print the report's headline table and warnings on stdout."""
    from offon.reporting import terminal

    terminal.show(run_dir)


def write_comparison(entry: Mapping[str, Any], path: str | Path) -> Path:
    """Write the page of one comparison: what `offon.measure.compare.compare_models` returns."""
    from offon.reporting import standalone

    return standalone.write_comparison(entry, path)


def write_diagnosis(entries: Mapping[str, Any] | Sequence[Mapping[str, Any]], path: str | Path) -> Path:
    """Write the page of one or several diagnoses: what `offon.diagnosis.run.diagnose_model` returns."""
    from offon.reporting import standalone

    return standalone.write_diagnosis(entries, path)


def write_attribution(study: Mapping[str, Any], path: str | Path) -> Path:
    """Write the page of a study of stages left out."""
    from offon.reporting import standalone

    return standalone.write_attribution(study, path)


__all__ = ["show", "summarise", "write", "write_attribution", "write_comparison", "write_diagnosis"]
