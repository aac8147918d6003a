"""docs/faults.md: each numbered fault, its promise, and what the tests that provoke it say today.

python -m tests.faults.page        runs every test with the marker fault(...), and writes the page
"""

from __future__ import annotations

import datetime
import platform
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import torch
import transformers

from tests.faults.table import FAULTS

DOCS = Path(__file__).parents[2] / "docs" / "faults.md"
HEAD = """# Faults

What goes wrong around training, provoked on purpose: a number each, with what is promised and what the tests that carry
it said when this page was written by `make faults`. F: a fault of a run, its data, its models or its machine; W: of the
world around it. Rows are killed and resumed by `make resume`, readers fuzzed by `make fuzz`.

TRL: version 1.16.0 with transformers 5.23.0 and torch 2.13.0, tried with a tiny model on a CPU or read in its source; a
dash where neither was done.
"""


class Tally:
    """Of each fault: the tests that carry it, and how they ended."""

    def __init__(self) -> None:
        self.ids: dict[str, list[str]] = {}
        self.ends: dict[str, Counter] = defaultdict(Counter)
        self.files: dict[str, set[str]] = defaultdict(set)

    def pytest_collection_modifyitems(self, config, items) -> None:
        kept = []
        for item in items:
            marks = [str(one) for mark in item.iter_markers("fault") for one in mark.args]
            if marks:
                self.ids[item.nodeid] = marks
                kept.append(item)
        items[:] = kept

    def pytest_runtest_logreport(self, report) -> None:
        if report.when == "call" or report.outcome != "passed":
            for fault in self.ids.get(report.nodeid, ()):
                self.ends[fault][report.outcome] += 1
                self.files[fault].add(report.nodeid.split("::")[0])


def result(fault: str, tally: Tally) -> str:
    ends = tally.ends[fault]
    if not ends:
        return f"no test: {FAULTS[fault].without}" if FAULTS[fault].without else "no test"
    return ", ".join(f"{ends[outcome]} {outcome}" for outcome in ("passed", "failed", "skipped") if ends[outcome])


def page(tally: Tally) -> str:
    today = datetime.date.today().isoformat()
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}"
    lines = [
        HEAD,
        f"{today}; {versions}; {platform.machine()}.",
        "",
        "| | provoked | promised | tests | result | TRL |",
    ]
    lines.append("|---|---|---|---|---|---|")
    for fault, (provoked, promised, trl, _) in FAULTS.items():
        files = ", ".join(sorted(name.removeprefix("tests/").removesuffix(".py") for name in tally.files[fault]))
        cells = (fault, provoked, promised or "-", files or "-", result(fault, tally), trl or "-")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    tally = Tally()
    ended = pytest.main(["-p", "no:cacheprovider", "-q", "tests", *sys.argv[1:]], plugins=[tally])
    DOCS.write_text(page(tally))
    return int(ended)


if __name__ == "__main__":
    sys.exit(main())
