"""The numbers of every row that trains, as they are under its version: `python -m tests.catalogue.golden` writes them
anew for rows whose version, or that of a mechanism, was raised (`offon.pipeline.resume.numbers`), and for new rows."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from offon.pipeline.resume.numbers import MECHANISMS, numbers_of
from tests.catalogue.cases import CASES, gradient_of, ready

FILE = Path(__file__).with_name("golden.json")
FIRST = {case.row: index for index, case in reversed(list(enumerate(CASES)))}


def written() -> dict[str, Any]:
    return json.loads(FILE.read_text()) if FILE.exists() else {}


def measured(row: str) -> list[list[float]]:
    """Of each learner of a row's first case, on one step: the norm of its gradient, and its part along a fixed
    direction, which a turned gradient of the same norm does not have."""
    return [_norm_and_part(gradient_of(learner)) for learner in ready(FIRST[row])]


def _norm_and_part(gradient: dict[str, torch.Tensor]) -> list[float]:
    flat = torch.cat([gradient[name].flatten().double() for name in sorted(gradient)])
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(len(flat), generator=generator, dtype=torch.float64)
    return [float(f"{number:.8g}") for number in (float(flat.norm()), float(flat @ direction / direction.norm()))]


def main() -> None:
    """Numbers that moved under an unchanged version are left as they are: their tests go on failing."""
    rows = written()
    for row in sorted(FIRST):
        versions, numbers = numbers_of([row]), measured(row)
        if rows.get(row, {}).get("versions") != versions:
            rows[row] = {"versions": versions, "numbers": numbers}
            print(row, numbers, file=sys.stderr)
    lines = [f'"{row}": {json.dumps(rows[row])}' for row in sorted(rows) if row in FIRST]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    assert MECHANISMS
    main()
