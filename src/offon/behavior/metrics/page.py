"""The metrics' table in the documentation: `python -m offon.behavior.metrics.page docs/behavior.md`."""

from __future__ import annotations

import sys
from pathlib import Path

from offon.behavior.metrics import registry

BEGIN = "<!-- metrics: written by `python -m offon.behavior.metrics.page docs/behavior.md` -->"
END = "<!-- end of metrics -->"


def table() -> str:
    """Every metric: its key, its title on the page, its unit, what is under the key, and what it says."""
    head = ["| key | on the page | unit | value | what it says |", "|---|---|---|---|---|"]
    rows = (
        f"| `tasks.T.{metric.key}` | {metric.title} | {metric.unit} | {metric.value} | {metric.meaning} |"
        for metric in registry.METRICS
    )
    return "\n".join([*head, *rows])


def rewritten(text: str) -> str:
    """A page with the table between its marks."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(rewritten(path.read_text(encoding="utf-8")), encoding="utf-8")
