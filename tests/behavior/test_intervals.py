"""Intervals: parity with scipy, coverage by enumeration where it can be exact, by seeded simulation where not."""

import numpy as np
import pytest
from scipy import stats

from offon.behavior.statistics.counts import Counts, count
from offon.behavior.statistics.intervals import (
    FEW_PROMPTS,
    bootstrap_means,
    clopper_pearson_lower,
    clopper_pearson_upper,
    jeffreys_above,
    jeffreys_quantile,
    mean_over_prompts,
    newcombe,
    paired_change,
    ratio,
    wilson,
)
from offon.behavior.statistics.pass_at_k import mean_pass_at_k
from offon.errors import DataError
from tests.rounding import FLOAT64

RATES = np.linspace(0.001, 0.999, 499)


def binomial_law(n):
    """[len(RATES), n + 1] probability of each number of successes."""
    return stats.binom.pmf(np.arange(n + 1), n, RATES[:, None])


def both_bounds(c, n):
    return clopper_pearson_lower(c, n, alpha=0.025), clopper_pearson_upper(c, n, alpha=0.025)


@pytest.mark.parametrize("n", [1, 7, 64])
def test_wilson_and_clopper_pearson_equal_scipy(n):
    c = np.arange(n + 1)
    for ours, method in ((wilson, "wilson"), (both_bounds, "exact")):
        theirs = [stats.binomtest(int(x), n).proportion_ci(method=method) for x in c]
        np.testing.assert_allclose(np.transpose(ours(c, n)), theirs, atol=FLOAT64)


def test_clopper_pearson_bounds_fail_at_most_at_their_stated_rate():
    c, alpha = np.arange(65), 0.05
    too_high = clopper_pearson_lower(c, 64, alpha=alpha) > RATES[:, None]
    too_low = clopper_pearson_upper(c, 64, alpha=alpha) < RATES[:, None]
    for wrong in (too_high, too_low):
        error = (binomial_law(64) * wrong).sum(axis=1)
        assert error.max() <= alpha
        assert error.max() > 0.8 * alpha, "a bound this loose certifies nothing"


def test_wilson_covers_at_its_level_on_average_over_rates():
    low, high = wilson(np.arange(65), 64)
    covered = (low <= RATES[:, None]) & (RATES[:, None] <= high)
    assert 0.945 < (binomial_law(64) * covered).sum(axis=1).mean() < 0.965


def test_jeffreys_tail_and_quantile_are_inverse_and_one_half_at_symmetry():
    assert jeffreys_above(8, 16, 0.5) == pytest.approx(0.5)
    c = np.arange(17)
    np.testing.assert_allclose(jeffreys_above(c, 16, jeffreys_quantile(c, 16, 0.3)), 0.7)


def test_nothing_scored_says_nothing():
    assert np.array_equal(np.array(wilson(0, 0)), [0, 1])
    assert np.array_equal(np.array(both_bounds(0, 0)), [0, 1])


def test_newcombe_reproduces_his_worked_example():
    """56/70 against 48/80: method 10 gives .0524 to .3339 (Newcombe 1998, table II)."""
    assert newcombe(48, 80, 56, 70) == pytest.approx((0.0524, 0.3339), abs=5e-5)


@pytest.mark.parametrize("n_prompts", [FEW_PROMPTS - 1, FEW_PROMPTS])
def test_bootstrap_standard_error_is_that_of_the_mean(n_prompts):
    values = np.random.default_rng(1).normal(size=n_prompts)
    spread = bootstrap_means(values, replicates=4000, seed=2)[:, 0].std()
    assert spread == pytest.approx(values.std() / np.sqrt(n_prompts), rel=0.05)  # 4000 replicates: sd of spread 1.1%


@pytest.mark.parametrize("n_prompts", [40, 120])
def test_intervals_are_blind_to_the_order_of_prompts(n_prompts):
    rng = np.random.default_rng(3)
    rows, mixed = rng.random((n_prompts, 2)), rng.permutation(n_prompts)
    assert mean_over_prompts(rows) == mean_over_prompts(rows[mixed])
    assert ratio(rows[:, 0], rows[:, 1]) == ratio(rows[mixed, 0], rows[mixed, 1])


def test_interval_covers_the_population_mean():
    """400 experiments of 64 prompts x 128 samples, p ~ Beta(1/4, 6/5). Nominal .95; measured .945 to .955 over seeds.

    Outside [.905, .98] with probability under .01 if the true coverage is .935 to .96.
    """
    rng = np.random.default_rng(7)
    truth, covered = 0.25 / 1.45, 0
    for _ in range(400):
        success = mean_pass_at_k(Counts.of(rng.binomial(128, rng.beta(0.25, 1.2, 64)), 128), 1)
        covered += success.low <= truth <= success.high
    assert 0.905 <= covered / 400 <= 0.98


def test_shares_stay_shares():
    [rare], [sure] = (mean_over_prompts(np.r_[np.full(29, end), abs(end - 0.05)]) for end in (0.0, 1.0))
    assert rare.low == 0 and rare.high > rare.estimate
    assert sure.low < sure.estimate < sure.high <= 1


def test_pairing_removes_what_prompts_have_in_common():
    rng = np.random.default_rng(8)
    before = rng.random(60)
    after = before + 0.1 + 0.01 * rng.normal(size=60)
    change = paired_change(before, after)
    assert change.low < 0.1 < change.high
    assert change.high - change.low < 0.1 * (mean_over_prompts(after)[0].high - mean_over_prompts(after)[0].low)


def test_unscored_samples_are_in_neither_number():
    counts = count([[1, 0, None], [0, float("nan"), 0, 0], [None, None]])
    assert counts.successes.tolist() == [1, 0, 0]
    assert counts.scored.tolist() == [2, 3, 0]


def test_impossible_counts_and_scores_are_refused_with_their_numbers():
    with pytest.raises(DataError, match="5 successes out of 4"):
        wilson(5, 4)
    with pytest.raises(DataError, match="outcome is 0.5"):
        count([[1, 0], [0.5, 1]])
    with pytest.raises(DataError, match="3 prompts before, 2 after"):
        paired_change([0, 0, 1], [1, 1])
