"""Which numbers this offon computes: a version per mechanism and per row, raised with every change of what they give.

They stand in a node's inputs in place of offon's own version, so that a release that changes no number of a row keeps
what was trained with it. `tests/catalogue/test_numbers.py` holds the numbers of every row and fails when they move;
`python -m tests.catalogue.numbers` writes them anew once the version is raised.
"""

from __future__ import annotations

from collections.abc import Sequence

MECHANISMS = {
    "data": 1,  # what rows become: templates, cuts, what is trained, the order in which they are drawn
    "sampling": 1,  # what is generated for a seed
    "training": 1,  # what a step computes: scores, weights, clipping, the optimizer
}
ROWS: dict[str, int] = {}  # a row of the catalogue by its name; 1 where none is given


def numbers_of(rows: Sequence[str]) -> dict[str, int]:
    """The versions that the result of these rows rests on. Rows of a user's own count by their code."""
    return MECHANISMS | {name: ROWS.get(name, 1) for name in rows}
