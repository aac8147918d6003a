"""Handoff numbers: hand-computed, 0 between identical checkpoints, and right about planted losses."""

import numpy as np
import pytest

from offon.behavior.stage.retention import (
    amortisation,
    attrition_rate,
    cost_per_point,
    gain_retention,
    portability,
    ratio,
    retention,
    scaffold_dependence,
    selective_forgetting,
    split_product,
    trainability,
)
from offon.behavior.statistics.counts import Counts
from offon.behavior.statistics.intervals import Est
from offon.errors import DataError
from tests.rounding import FLOAT64_SUM

N = 64


def sampled(rates, seed, n=N):
    return Counts.of(np.random.default_rng(seed).binomial(n, rates), n)


def test_split_product_is_the_average_over_all_halvings():
    """Brute force over every way to halve 4 samples before and 4 after."""
    from itertools import combinations

    before, after = [1, 0, 0, 1], [1, 1, 1, 0]
    weights, products = [], []
    for a in combinations(range(4), 2):
        for b in combinations(range(4), 2):
            half = [sum(before[i] for i in a), sum(after[i] for i in b)]
            rest = [(2 - half[0]) / 2, (3 - half[1]) / 2]
            weights.append(float(half[1] > half[0]))
            products.append(weights[-1] * (rest[1] - rest[0]))
    weight, first, second = split_product(
        Counts.of(2, 4), Counts.of(3, 4), lambda a, b: (b.successes > a.successes).astype(float)
    )
    assert weight[0] == pytest.approx(np.mean(weights)) and second[0] - first[0] == pytest.approx(np.mean(products))


def test_attrition_of_identical_checkpoints_has_mean_0_where_the_naive_one_does_not():
    rates = np.random.default_rng(0).beta(0.5, 1, 60)
    pairs = [(sampled(rates, 2 * i, 16), sampled(rates, 2 * i + 1, 16)) for i in range(60)]
    ours = np.array([attrition_rate(a, b).estimate for a, b in pairs])
    naive = np.array([np.maximum(a.rate - b.rate, 0).sum() / a.rate.sum() for a, b in pairs])
    assert abs(ours.mean()) < 4 * ours.std() / np.sqrt(len(ours))
    assert naive.mean() > 0.05


def test_attrition_of_planted_losses():
    before, after = np.r_[np.full(30, 0.8), np.full(30, 0.4)], np.r_[np.full(30, 0.8), np.full(30, 0.0)]
    lost = attrition_rate(sampled(before, 1), sampled(after, 2))
    assert lost.low <= 1 / 3 <= lost.high and lost.high - lost.low < 0.3
    kept = retention(sampled(before, 1), sampled(after, 2))
    assert kept.estimate == pytest.approx(1 - lost.estimate)
    chosen = np.r_[np.ones(30, bool), np.zeros(30, bool)]
    assert selective_forgetting(sampled(before, 1), sampled(after, 2), chosen).low > 0.8


def test_gain_retention():
    start, gained = np.full(40, 0.05), np.full(40, 0.85)
    for later, truth in ((0.85, 1.0), (0.45, 0.5), (0.05, 0.0)):
        found = gain_retention(sampled(start, 1), sampled(gained, 2), sampled(np.full(40, later), 3))
        assert found.low - 0.03 <= truth <= found.high + 0.03
    with pytest.raises(DataError, match="certain gain"):
        gain_retention(sampled(start, 1), sampled(start, 2), sampled(start, 3))


def test_gain_that_is_all_kept_is_told_as_kept():
    """Choosing prompts by their gain and measuring what was kept from the same samples told .90 here."""
    rng, kept = np.random.default_rng(0), []
    for _ in range(40):
        start = np.where(rng.random(256) < 0.4, 0.02, 0.4)
        gained = np.where(start < 0.1, rng.choice([0.02, 0.12, 0.5], 256), start)
        counts = (Counts.of(rng.binomial(32, rates), 32) for rates in (start, gained, gained))
        kept.append(gain_retention(*counts).estimate)
    assert abs(np.mean(kept) - 1) < 4 * np.std(kept) / np.sqrt(len(kept)) < 0.06


def test_one_prompt_that_gained_bounds_nothing():
    start, gained = np.full(40, 0.05), np.r_[0.85, np.full(39, 0.05)]
    with pytest.raises(DataError, match="of 40 prompts have a certain gain"):
        gain_retention(sampled(start, 1), sampled(gained, 2), sampled(gained, 3))


def test_trainability_of_all_solved_and_of_half_solved_prompts():
    assert trainability(Counts.of([64] * 5, 64), 8, 8)["mixed_groups"].estimate == 0
    found = trainability(Counts.of([32] * 5, 64), 8, 8)
    assert found["mixed_groups"].estimate > 0.98 and found["ers"].estimate > 0.99


def test_scaffold_dependence_and_amortisation():
    plain, helped, after = sampled(np.full(50, 0.2), 1), sampled(np.full(50, 0.8), 2), sampled(np.full(50, 0.5), 3)
    assert scaffold_dependence(plain, helped).estimate == pytest.approx(0.6, abs=0.05)
    amortised = amortisation(plain, helped, after)
    assert amortised.low < 0.5 < amortised.high
    with pytest.raises(DataError, match="nothing certain"):
        amortisation(plain, sampled(np.full(50, 0.2), 4), after)


def test_portability_is_a_ratio_of_gains():
    rng = np.random.default_rng(0)
    found = portability(rng.normal(0.2, 0.1, 80), rng.normal(0.4, 0.1, 100))
    assert found.low < 0.5 < found.high


def test_ratio_keeps_rows_together():
    top = np.random.default_rng(0).random(100)
    exact = ratio(top, 2 * top)
    assert exact.estimate == pytest.approx(0.5) and exact.high - exact.low < FLOAT64_SUM


def test_cost_per_point_turns_the_interval_over():
    """60 seconds for 20 [10, 30] points: 3 [2, 6] a point; nothing where the gain is not certain."""
    assert cost_per_point(Est(0.2, 0.1, 0.3), 60) == pytest.approx((3, 2, 6))
    assert cost_per_point(Est(0.2, 0.0, 0.4), 60) is None


def test_gain_retention_is_above_1_where_the_next_stage_adds_to_the_gain():
    start, gained, later = (sampled(np.full(40, rate), i) for i, rate in enumerate((0.1, 0.4, 0.7)))
    found = gain_retention(start, gained, later)
    assert found.low < 2 < found.high and found.low > 1
