"""Intervals over prompts from random weights: exact laws, hand numbers, invariances, limits."""

import numpy as np
import pytest
from scipy import special, stats

from offon.behavior.statistics.bayesian_bootstrap import mean_bounds, ratio_bounds, tail, unseen

EVERYWHERE = np.array([np.inf])
SEARCH = 1e-6  # the search for a bound stops 1e-7 of a standard deviation from it


def column(*values):
    return np.array(values, float)[:, None]


@pytest.mark.parametrize("ones, zeros", [(0.5, 60.5), (1, 20), (5.5, 59.5), (32, 32)])
def test_tail_is_the_beta_law_where_outcomes_are_0_and_1(ones, zeros):
    """sum of gammas on ones over all is Beta(ones, zeros), so Pr(sum g (x - m) <= 0) is its distribution at m. The tilt
    solves ones (1 - m) / (1 - t (1 - m)) = zeros m / (1 + t m), that is t = (ones - m n) / (-m (1 - m) n)."""
    n = ones + zeros
    for probability in (0.001, 0.025, 0.3, 0.975, 0.999):
        m = stats.beta.ppf(probability, ones, zeros)
        tilt = (m * n - ones) / (m * (1 - m) * n)
        found = tail(column(1 - m, -m), column(ones, zeros), np.array([tilt]))
        assert special.ndtr(found[0]) == pytest.approx(probability, rel=0.05 if ones >= 1 else 0.12)


def test_the_unseen_lie_four_gaps_out_and_within_reach():
    """0, .1, .3: gaps .1 and .2, so -.4 and 1.1, of which a rate cannot reach more than 1."""
    assert unseen(column(0, 0.1, 0.3), EVERYWHERE).ravel() == pytest.approx([-0.4, 1.1])
    assert unseen(column(0, 0.1, 0.3), np.ones(1)).ravel() == pytest.approx([-0.4, 1])


def test_the_unseen_are_as_far_on_the_side_that_was_not_seen():
    """Zeros and one 8 of four: mean 2, gap 8, so 40 above; below as far from the mean as 8 is."""
    assert unseen(column(0, 0, 0, 8), EVERYWHERE).ravel() == pytest.approx([-4, 40])


def test_ends_move_with_shift_scale_and_sign():
    x = np.random.default_rng(0).normal(size=(40, 3)) * [1, 5, 30]
    low, high = mean_bounds(x)
    np.testing.assert_allclose(mean_bounds(3 * x + 7), [3 * low + 7, 3 * high + 7], rtol=SEARCH)
    np.testing.assert_allclose(mean_bounds(-x), [-high, -low], rtol=SEARCH)


def test_columns_do_not_see_each_other():
    x = np.random.default_rng(1).random((30, 4))
    x[:, 2] = 0.25
    both = mean_bounds(x)
    np.testing.assert_allclose(np.concatenate([mean_bounds(x[:, [q]]) for q in range(4)], axis=1), both, rtol=SEARCH)
    assert both[:, 2].tolist() == [0.25, 0.25]


def test_many_normal_values_give_the_normal_interval():
    x = np.random.default_rng(2).normal(size=(4000, 1))
    half = 1.96 * x.std() / np.sqrt(4000)
    np.testing.assert_allclose(mean_bounds(x).ravel(), [x.mean() - half, x.mean() + half], atol=0.02 * half)


def test_values_of_one_sign_exclude_0_from_the_fourth_on():
    """As a sign test would: of prompts that moved, all up, three have probability 1/4 by chance, four 1/8."""
    moved = [mean_bounds(column(*[0.2] * m, *[0.0] * (64 - m)))[0, 0] for m in range(1, 8)]
    assert all(low <= 0 for low in moved[:2]) and all(low > 0 for low in moved[3:])


def test_a_ratio_over_ones_is_a_mean():
    x = np.random.default_rng(3).normal(size=(50, 5)) * 10
    np.testing.assert_allclose(ratio_bounds(x, np.ones_like(x)), mean_bounds(x), rtol=100 * SEARCH)


def test_ratio_bounds_follow_the_units():
    rng = np.random.default_rng(4)
    top, bottom = 5 * rng.random((60, 2)), 2 + rng.random((60, 2))
    np.testing.assert_allclose(ratio_bounds(6 * top, 3 * bottom), 2 * ratio_bounds(top, bottom), rtol=10 * SEARCH)


def test_ratio_of_proportional_columns_has_no_width():
    bottom = np.random.default_rng(5).random((20, 1))
    np.testing.assert_allclose(ratio_bounds(2 * bottom, bottom).ravel(), [2, 2])


def test_a_bottom_that_may_be_0_bounds_nothing():
    bottom = column(*[0.0] * 19, 5)
    low, high = ratio_bounds(0.3 * bottom + 0.01 * np.arange(20)[:, None], bottom)
    assert low[0] < 0 and high[0] == np.inf
