"""Support calls at a budget: hand numbers, and error rates by enumeration of the binomial law."""

import numpy as np
import pytest
from scipy import stats

from offon.behavior.change.support import (
    IN,
    OUT,
    can_certify,
    jeffreys_states,
    largest_certifiable_k,
    prompt_changes,
    samples_to_certify_out,
    support_calls,
    support_threshold,
)
from offon.behavior.statistics.counts import Counts
from offon.errors import ConfigError, DataError


def call_rates(n, k, rates):
    """Probability of (IN, OUT) at each true rate, exactly."""
    calls = support_calls(Counts.of(np.arange(n + 1), n), k)
    law = stats.binom.pmf(np.arange(n + 1), n, np.asarray(rates)[:, None])
    return law @ (calls == IN), law @ (calls == OUT)


def test_threshold_is_the_rate_that_k_rollouts_show_with_probability_95():
    for k in (1, 64, 8192):
        assert (1 - support_threshold(k)) ** k == pytest.approx(0.05)
    assert support_threshold(64) == pytest.approx(0.0457, abs=5e-5)
    assert support_threshold(8192) == pytest.approx(-np.log(0.05) / 8192, rel=1e-3)  # arXiv:2507.14843
    with pytest.raises(ConfigError, match="budget of 0"):
        support_threshold(0)


@pytest.mark.parametrize("n, most_out, least_in", [(64, None, 8), (128, 1, 12), (256, 5, 20)])
def test_calls_change_at_the_counts_stated(n, most_out, least_in):
    calls = support_calls(Counts.of(np.arange(n + 1), n), 64).tolist()
    assert calls.index(IN) == least_in
    assert (n - calls[::-1].index(OUT) if OUT in calls else None) == most_out


@pytest.mark.parametrize("n, k", [(64, 32), (128, 64), (128, 103), (256, 64), (1024, 64)])
def test_a_wrong_call_has_at_most_half_alpha(n, k):
    eps = support_threshold(k)
    says_in, _ = call_rates(n, k, np.linspace(0, eps, 200, endpoint=False))
    _, says_out = call_rates(n, k, np.linspace(eps, 1, 400))
    assert says_in.max() <= 0.025
    assert says_out.max() <= 0.025


@pytest.mark.parametrize("n, k", [(64, 32), (64, 51), (128, 64), (128, 103), (256, 64), (1024, 64)])
def test_identical_checkpoints_are_called_gained_less_than_once_in_a_thousand(n, k):
    says_in, says_out = call_rates(n, k, np.linspace(0, 5 * support_threshold(k), 1000))
    assert (says_in * says_out).max() < 0.001


def test_real_gains_are_found():
    """128 samples, k = 64: 0 -> .2 always; .005 -> .3 with probability .87."""
    says_in, says_out = call_rates(128, 64, [0, 0.005, 0.2, 0.3])
    assert says_out[0] * says_in[2] > 0.995
    assert says_out[1] * says_in[3] == pytest.approx(0.87, abs=0.01)


def test_sample_sizes_are_the_smallest_and_budgets_the_largest_that_certify():
    assert samples_to_certify_out(64) == 79
    assert largest_certifiable_k(64) == 51
    assert largest_certifiable_k(0) == 0
    for k in (2, 16, 51, 64, 100):
        n = samples_to_certify_out(k)
        assert OUT in can_certify(n, k) and OUT not in can_certify(n - 1, k)
    for n in (20, 64, 128, 256):
        k = largest_certifiable_k(n)
        assert OUT in can_certify(n, k) and OUT not in can_certify(n, k + 1)


def test_a_small_budget_makes_in_the_hard_call():
    assert can_certify(64, 1) == {OUT}
    assert can_certify(72, 1) == {IN, OUT}


def test_changes_name_pairs_of_calls():
    before = Counts.of([0, 0, 60, 60, 0, 5], 128)
    after = Counts.of([60, 0, 0, 60, 5, 60], 128)
    assert prompt_changes(before, after, 64) == ["gained", "never", "lost", "kept", "undecided", "undecided"]
    with pytest.raises(DataError):
        prompt_changes(before, after.at([0]), 64)


def test_more_successes_never_move_a_call_or_posterior_away_from_in():
    counts = Counts.of(np.arange(129), 128)
    order = [["OUT", "undecided", "IN"].index(call) for call in support_calls(counts, 64).tolist()]
    assert order == sorted(order)
    assert (np.diff(jeffreys_states(counts, 64)[:, 0]) >= 0).all()


def test_an_unscored_prompt_is_undecided():
    assert support_calls(Counts.of([0], 0), 64).tolist() == ["undecided"]
