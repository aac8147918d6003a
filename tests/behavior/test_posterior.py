"""Posteriors of success probabilities, alone, in company, and behind a checker with errors."""

import numpy as np
import pytest

from offon.behavior.diagnosis.bottleneck import Measured, class_calls, posterior
from offon.behavior.statistics.checker_errors import Checker, error_draws
from offon.behavior.statistics.counts import Counts
from offon.behavior.statistics.intervals import jeffreys_quantile
from offon.behavior.statistics.posterior import FEWEST_TO_POOL, rate_quantiles
from offon.errors import DataError

LEVELS = np.array([0.025, 0.1, 0.5, 0.9, 0.975])


def checker(tpr: float, fpr: float, labels: int = 400) -> Checker:
    return Checker(accepted_right=round(tpr * labels), right=labels, accepted_wrong=round(fpr * labels), wrong=labels)


@pytest.mark.parametrize("c, n", [(0, 32), (3, 64), (32, 32), (200, 4000), (0, 0)])
def test_alone_it_is_jeffreys_posterior(c, n):
    found = rate_quantiles(Counts.of([c], n), LEVELS)[:, 0]
    np.testing.assert_allclose(found, jeffreys_quantile(c, n, LEVELS), atol=1e-4, rtol=0.02)


def test_a_perfect_checker_with_endless_labels_changes_nothing():
    counts = Counts.of([0, 5, 30], 32)
    exact = checker(1, 0, labels=10**7)
    np.testing.assert_allclose(rate_quantiles(counts, LEVELS, checker=exact), rate_quantiles(counts, LEVELS), atol=2e-3)


def test_with_many_samples_it_is_rogan_and_gladens_number():
    """Acceptance .5 behind TPR .8 and FPR .1: (.5 - .1) / .7 = .571."""
    known = checker(0.8, 0.1, labels=10**6)
    median = rate_quantiles(Counts.of([4000], 8000), np.array([0.5]), checker=known)[0, 0]
    assert median == pytest.approx((0.5 - 0.1) / (0.8 - 0.1), abs=0.005)


def test_intervals_behind_a_checker_cover():
    """TPR .8, FPR .1 estimated from 100 right and 100 wrong outputs, anew each time; 64 rollouts each of rates from 0
    to 1. Of 600 intervals of .95 fewer than .92 hold the truth in one of a thousand draws."""
    rng, held = np.random.default_rng(0), []
    for _ in range(12):
        found = Checker(
            accepted_right=rng.binomial(100, 0.8), right=100, accepted_wrong=rng.binomial(100, 0.1), wrong=100
        )
        p = rng.beta(0.5, 0.5, 50)
        low, high = rate_quantiles(Counts.of(rng.binomial(64, 0.1 + 0.7 * p), 64), LEVELS[[0, -1]], checker=found)
        held += ((low <= p) & (p <= high)).tolist()
    assert 0.92 <= np.mean(held) <= 0.995


def test_a_checker_that_rejects_right_answers_does_not_turn_solved_into_ranking():
    """p = .9, TPR .8: accepted in 144 of 200, ranking at face value."""
    seen = Measured(strict=Counts.of([144], 200))
    assert class_calls(posterior(seen, 64)) == ["ranking"]
    assert class_calls(posterior(seen, 64, checker=checker(0.8, 0))) == ["solved"]


def test_a_checker_that_accepts_wrong_answers_does_not_turn_missing_into_ranking():
    """p = 0, FPR .1: accepted in 60 of 600, ranking at face value. 100 wrong labels leave open whether it is above
    eps = .0457; 4,000 do not."""
    seen = Measured(strict=Counts.of([60], 600), placed=Counts.of([3], 32))
    assert class_calls(posterior(seen, 64)) == ["ranking"]
    assert class_calls(posterior(seen, 64, checker=checker(0.9, 0.1, labels=100))) == ["undecided"]
    assert class_calls(posterior(seen, 64, checker=checker(0.9, 0.1, labels=4000))) == ["missing"]


def test_the_prior_is_estimated_from_a_hundred_prompts_on():
    """Half at 0, half at .5, of 8 samples each. In company 0 of 8 is near 0 and 4 of 8 near .5; with a prompt fewer
    each has its own posterior."""
    counts = Counts.of(np.repeat([0, 4], FEWEST_TO_POOL // 2), 8)
    pooled = rate_quantiles(counts, LEVELS, pooled=True)
    alone = rate_quantiles(counts.at(slice(1, None)), LEVELS, pooled=True)
    np.testing.assert_array_equal(alone, rate_quantiles(counts.at(slice(1, None)), LEVELS))
    assert pooled[3, 0] < 0.5 * alone[3, 0]
    assert pooled[3, -1] - pooled[1, -1] < 0.7 * (alone[3, -1] - alone[1, -1])


def test_estimated_priors_are_closer_and_hold_what_they_say():
    """2,000 rates, 60% within [0, .02], the others within [.3, .9], 16 samples each. Intervals of .8 hold at least that
    share (a prior stopped early is a little too wide), and means are closer by a quarter in the square."""
    rng = np.random.default_rng(0)
    p = np.where(rng.random(2000) < 0.6, rng.uniform(0, 0.02, 2000), rng.uniform(0.3, 0.9, 2000))
    counts, levels = Counts.of(rng.binomial(16, p), 16), np.linspace(0.01, 0.99, 50)
    low, high = rate_quantiles(counts, LEVELS[[1, 3]], pooled=True)
    assert 0.8 <= ((low <= p) & (p <= high)).mean() <= 0.95
    pooled, alone = (
        ((rate_quantiles(counts, levels, pooled=pool).mean(axis=0) - p) ** 2).mean() for pool in (True, False)
    )
    assert pooled < 0.75 * alone


def test_labels_tell_a_checkers_errors():
    found = checker(0.9, 0.2, labels=100)
    assert found.sensitivity.estimate == 0.9 and found.false_positive.estimate == 0.2
    assert found.youden.low < 0.7 < found.youden.high and found.usable
    assert error_draws(found, 64).mean(axis=0) == pytest.approx([90.5 / 101, 20.5 / 101], abs=2e-3)
    assert not checker(0.6, 0.5, labels=100).usable
    with pytest.raises(DataError, match="labelled outputs"):
        checker(0.9, 0.2, labels=40)
    with pytest.raises(DataError, match="labelled outputs"):
        Checker(accepted_right=100, right=120, accepted_wrong=0, wrong=0)
