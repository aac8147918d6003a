"""Roles of planted changes, and of none."""

import numpy as np
import pytest

from offon.behavior.stage.role import stage_role
from offon.behavior.statistics.counts import Counts

pytestmark = pytest.mark.slow

N, K = 256, 64


def change(before, after, seed=0):
    rng = np.random.default_rng(seed)
    return stage_role(*(Counts.of(rng.binomial(N, np.asarray(rates)), N) for rates in (before, after)), K)


def test_planted_roles():
    rare, common, absent = np.full(40, 0.2), np.full(40, 0.7), np.full(40, 0.0)
    assert change(absent, common).name == "expansion"
    assert change(rare, common).name == "reshaping"
    assert change(np.r_[absent, rare], np.r_[np.full(40, 0.5), common]).name == "mixed"


def test_the_same_checkpoint_twice_has_no_role():
    """100 repetitions at the 5% level: 11 or more have probability .01."""
    rng = np.random.default_rng(1)
    names = [change(rates, rates, seed).name for seed in range(100) for rates in [rng.beta(0.3, 0.8, 60)]]
    assert names.count("no change") >= 90


def test_attrition_is_told_beside_the_role():
    found = change(np.r_[np.full(30, 0.2), np.full(10, 0.5)], np.r_[np.full(30, 0.9), np.full(10, 0.0)])
    assert found.name == "reshaping" and found.attrition.low > 0.05


def under_scaffold(before, after, helped_before, helped_after):
    rng = np.random.default_rng(0)
    plain, helped = (
        tuple(Counts.of(rng.binomial(N, np.full(40, rate)), N) for rate in pair)
        for pair in ((before, after), (helped_before, helped_after))
    )
    return stage_role(*plain, K, scaffolded=helped).name


def test_help_that_became_the_models_own_is_consolidation():
    assert under_scaffold(0.2, 0.8, 0.9, 0.9) == "consolidation"


def test_what_was_learned_under_the_scaffold_too_is_not():
    """Success under the scaffold rose by .4; in the second, a sixth of the help is the model's own."""
    assert under_scaffold(0.2, 0.8, 0.5, 0.9) == "reshaping"
    assert under_scaffold(0.2, 0.32, 0.9, 0.9) == "reshaping"


def test_without_help_there_is_nothing_to_consolidate():
    assert under_scaffold(0.2, 0.8, 0.2, 0.2) == "reshaping"
    rates = Counts.of([0] * 10 + [50] * 10, N), Counts.of([200] * 20, N)
    partly = Counts.of([230] * 19 + [0], [N] * 19 + [0])  # the last prompt has no scaffold
    assert stage_role(*rates, K, scaffolded=(partly, partly)).name != "consolidation"
