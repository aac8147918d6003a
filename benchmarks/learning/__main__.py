"""Each mechanism on the bottleneck it is meant for: python -m benchmarks.learning [CELL ...] [--write]

A cell is a recipe on the testbed (docs/testbed.md), a family whose bottleneck was planted, and the gain in exact
success on that family's held-out prompts that the mechanism has to show. `before` is the model the recipe starts from,
or a node of the same recipe trained without the mechanism. Cells are in the YAML files beside this one, one per family
of methods:

    NAME:
      row: raft                # the catalogue's name, NAME unless written
      bottleneck: rare         # the family that has to improve
      pipeline: {...}          # the last node is measured
      model: testbed:base      # where the pipeline starts, unless a node says otherwise
      before: control          # a node, or a model; `model` unless written
      by: 0.05                 # smallest gain that counts, beyond the interval
      note: ...                # one clause for the table
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoTokenizer

from offon.behavior.statistics.intervals import Est, mean_over_prompts, paired_change
from offon.models.model import Model
from offon.pipeline.run import run_recipe
from offon.recipe import parse, resolve
from offon.runs.artefacts import locate
from offon.testbed import TestbedTask
from offon.testbed.oracle import exact

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
PAGE = HERE.parent.parent / "docs" / "learning.md"


@dataclass(frozen=True, kw_only=True)
class Cell:
    name: str
    family: str  # of methods: the file it is in
    pipeline: Mapping[str, Any]
    bottleneck: str
    row: str = ""
    model: str = "testbed:base"
    before: str | None = None
    by: float = 0.05
    note: str = ""

    @property
    def recipe(self) -> str:
        return yaml.safe_dump(
            {"model": self.model, "probe": False, "pipeline": dict(self.pipeline)}, sort_keys=False, width=1000
        )


@dataclass(frozen=True, kw_only=True)
class Result:
    row: str
    bottleneck: str
    against: str
    by: float
    note: str
    before: Est | None = None
    after: Est | None = None
    change: Est | None = None
    seconds: float = 0.0
    error: str = ""

    @property
    def learned(self) -> bool:
        """The gain is at least what was asked for, and its interval is above 0."""
        return self.change is not None and self.change[0] >= self.by and self.change[1] > 0


def cells() -> dict[str, Cell]:
    found = {}
    for file in sorted(HERE.glob("*.yaml")):
        for name, fields in (yaml.safe_load(file.read_text()) or {}).items():
            if name in found:
                raise ValueError(f"two cells are called {name}")
            found[name] = Cell(**{"name": name, "family": file.stem, "row": name.split()[0], **fields})
    return found


def run_cell(cell: Cell, output: Path | None = None) -> Result:
    """Train, then ask the oracle before and after."""
    said = {"row": cell.row, "bottleneck": cell.bottleneck, "against": cell.before or cell.model, "by": cell.by}
    with tempfile.TemporaryDirectory() as scratch:
        output = output or Path(scratch) / "run"
        started = time.process_time()
        try:
            run_recipe(resolve(parse(cell.recipe, folder=HERE)), output)
        except Exception as error:  # a cell that breaks is a line of the table, not its end
            return Result(**said, note=cell.note, error=f"{type(error).__name__} {error}".splitlines()[0])
        seconds = time.process_time() - started

        def path(source: str) -> Path:
            return output / "nodes" / source / "final" if source in cell.pipeline else locate(source)

        before = success(path(cell.before or cell.model), cell.bottleneck)
        after = success(path(list(cell.pipeline)[-1]), cell.bottleneck)
    return Result(
        **said, note=cell.note, seconds=seconds,
        before=mean_over_prompts(before)[0], after=mean_over_prompts(after)[0], change=paired_change(before, after),
    )  # fmt: skip


def success(path: Path, family: str) -> list[float]:
    """Exact success on each held-out prompt of a family."""
    if "testbed/models" in path.as_posix():
        return _shipped(path, family)
    return _success(path, family)


def _success(path: Path, family: str) -> list[float]:
    model = Model.load(path)
    tokenizer = model.tokenizer or AutoTokenizer.from_pretrained(path)
    return [row.success for row in exact(model.hf, tokenizer, TestbedTask(family).items("heldout"))]


_shipped = cache(_success)


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [
        "| cell | planted bottleneck | before | after | gain | seconds | |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in sorted(results.items(), key=lambda entry: (entry[1]["family"], entry[0])):
        if found["error"]:
            lines.append(f"| {name} | {found['bottleneck']} | | | | | failed: {found['error']} |")
            continue
        before, after, change = (Est(*found[key]) for key in ("before", "after", "change"))
        against = "" if found["against"].startswith("testbed:base") else f" ({found['against']})"
        verdict = "learned" if found["learned"] else f"not learned: a gain of {found['by']:g} was asked for"
        note = f"{verdict}; {found['note']}" if found["note"] else verdict
        lines.append(
            f"| {name} | {found['bottleneck']} | {before.estimate:.3f}{against} | {after} | {change} | "
            f"{'' if found['seconds'] is None else round(found['seconds'])} | {note} |"
        )
    return "\n".join(lines)


HEADER = """\
# Learning: each mechanism on the bottleneck it is meant for

`make learning` trains every cell below on the testbed ([testbed.md](testbed.md)) and writes this page; the recipes are
in `benchmarks/learning`. Numbers are exact success on the held-out prompts of one family, by enumeration: means over
prompts with 95% intervals over prompts, one training seed. Before is the model the stage starts from, or what is named
in brackets: the same recipe without the mechanism. A cell has learned if its gain is at least what was asked for (0.05
unless the cell says otherwise) and the gain's interval is above 0. Rows that differ from another by one value have no
cell: they are proved by identity, gradient and parity. Seconds are CPU seconds of one thread, data and all stages of
the recipe included.
"""


def main() -> None:
    torch.set_num_threads(1)  # models this small spend a second thread waiting for the first
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cells", nargs="*", help="names of cells or of files; all unless written")
    parser.add_argument("--write", action="store_true", help="keep the results, and write docs/learning.md")
    asked = parser.parse_args()
    known = cells()
    chosen = [cell for cell in known.values() if not asked.cells or {cell.name, cell.row, cell.family} & {*asked.cells}]
    failed = []
    for cell in chosen:
        result = run_cell(cell)
        failed += [cell.name] if result.error else []
        print(table({cell.name: _kept(cell, result)}).splitlines()[-1], flush=True)
        if asked.write:
            results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
            results[cell.name] = _kept(cell, result)
            results = {name: results[name] for name in known if name in results}
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
            PAGE.write_text(f"{HEADER}\n{table(results)}\n")
    sys.exit(f"did not run: {', '.join(failed)}" if failed else 0)


def _kept(cell: Cell, result: Result) -> dict[str, Any]:
    return {"family": cell.family, "learned": result.learned, **asdict(result)}


if __name__ == "__main__":
    main()
