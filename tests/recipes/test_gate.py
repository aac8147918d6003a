"""recipes/gate.yaml says what it claims: the base goes on if sft loses the guard, and the next stage reads the gate."""

from pathlib import Path

import pytest

from offon.pipeline.check import check_recipe
from offon.recipe import resolve

pytestmark = pytest.mark.slow

RECIPE = Path(__file__).parents[2] / "recipes" / "gate.yaml"


def test_the_base_goes_on_in_place_of_a_stage_that_lost_the_guard():
    recipe = resolve(RECIPE)
    lines = {line["node"]: line for line in check_recipe(recipe)["nodes"]}
    assert lines["kept"]["gate"] == "$sft against testbed:base" and lines["kept"]["if_not"] == "testbed:base goes on"
    assert lines["kept"]["limits"] == "retention at least 0.8 on guard"
    assert recipe.node("rl").settings.init == "$kept" and recipe.node("kept").sides == ("$sft", "testbed:base")
