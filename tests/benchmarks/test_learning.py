"""The learning cells: every one is a recipe that could run, and a sample of them learns."""

import pytest
from benchmarks.learning.__main__ import HERE, cells, run_cell

from offon.pipeline.check import check_recipe
from offon.recipe import parse, resolve
from offon.testbed.grammar import FAMILIES

pytestmark = pytest.mark.slow

CELLS = cells()


@pytest.mark.parametrize("name", CELLS)
def test_every_cell_resolves_and_is_about_a_planted_family(name):
    cell = CELLS[name]
    assert cell.bottleneck in FAMILIES
    assert cell.before is None or cell.before in cell.pipeline or cell.before.startswith("testbed:")
    check_recipe(resolve(parse(cell.recipe, folder=HERE)))


@pytest.mark.parametrize("name", ["raft", "dpo"])
def test_a_sample_of_the_cells_learns(name):
    result = run_cell(CELLS[name])
    assert result.learned, result
