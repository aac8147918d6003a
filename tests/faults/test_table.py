"""Every numbered fault has a test, or a reason why there is none; every number that a test carries is in the table."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.faults.table import FAULTS

TESTS = Path(__file__).parents[1]


def carried() -> set[str]:
    """The numbers in every marker fault(...) below tests/."""
    numbers: set[str] = set()
    for path in TESTS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "fault":
                numbers |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    return numbers


def test_every_fault_is_provoked_or_says_why_not():
    provoked = carried()
    assert provoked <= FAULTS.keys(), provoked - FAULTS.keys()
    assert {number for number, fault in FAULTS.items() if not fault.without} - provoked == set()
    assert not {number for number, fault in FAULTS.items() if fault.without} & provoked
    assert {f"F{n:02}" for n in range(1, 55)} <= FAULTS.keys()


def test_the_page_has_a_row_of_each():
    page = (TESTS.parent / "docs" / "faults.md").read_text()
    assert [number for number in FAULTS if f"| {number} |" not in page] == []
    assert "failed" not in page
