"""Rows against TRL on equal inputs, where TRL is installed (make parity): see tests/parity/table.py."""

import pytest

pytest.importorskip("trl", reason="TRL is not installed: make parity sets up an environment with it")

from tests.parity.table import ENTRIES, TOLERANCE


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.name} and {entry.peer}")
def test_the_gradient_is_that_of_the_peer(entry):
    found = entry.difference()
    assert found > 100 * TOLERANCE if entry.differs else found < TOLERANCE
