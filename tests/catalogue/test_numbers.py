"""Numbers have versions: those of a row do not move while its version stands, so that what was trained is kept."""

from __future__ import annotations

import pytest

from offon.catalogue import registry
from offon.pipeline.resume import numbers
from tests.catalogue.golden import FIRST, measured, written

KERNELS = 1e-4  # of a gradient's norm: what float32 leaves to the kernels of other machines


@pytest.mark.fault("W10")
@pytest.mark.parametrize("row", sorted(FIRST))
def test_the_numbers_of_a_row_are_those_of_its_version(row):
    known = written().get(row)
    write = "python -m tests.catalogue.golden"
    assert known is not None, f"a new row: {write}"
    assert known["versions"] == numbers.numbers_of([row]), f"its version was raised: {write}"
    now = measured(row)
    same = len(now) == len(known["numbers"]) and all(
        new == pytest.approx(old, abs=KERNELS * old[0]) for new, old in zip(now, known["numbers"], strict=True)
    )
    assert same, (
        f"{row} gives {now} and gave {known['numbers']}: if that is meant, raise its version or its mechanism's "
        f"in src/offon/pipeline/resume/numbers.py, then {write}"
    )


def test_versions_are_of_rows_that_there_are():
    assert set(numbers.ROWS) <= set(registry.names())
    assert set(FIRST) <= set(registry.names())
