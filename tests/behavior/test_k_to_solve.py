"""k-to-solve: bounds that hold, and what known successes buy."""

import numpy as np
import pytest

from offon.behavior.change.k_to_solve import betting_lower, importance_weights, k_to_solve, known_mass, rounded_down
from offon.errors import DataError
from tests.rounding import FLOAT64_SUM


def test_known_successes_are_a_certain_lower_bound_and_may_not_exceed_1():
    assert known_mass({(1, 2): np.log(0.25), (3,): np.log(0.5)}) == pytest.approx(0.75)
    assert known_mass({}) == 0
    with pytest.raises(DataError, match="together"):
        known_mass({(1,): 0.0, (2,): np.log(0.1)})


@pytest.mark.slow
def test_the_betting_bound_fails_no_more_often_than_alpha():
    """2,000 experiments at alpha .05; 3.5 sigma above .05 is .067."""
    rng = np.random.default_rng(0)
    for p in (0.02, 0.3):
        failures = np.mean([betting_lower(rng.random(80) < p) > p for _ in range(1000)])
        assert failures <= 0.067


def test_the_betting_bound_grows_with_evidence_and_approaches_the_mean():
    some, more = ([1.0, 0.0] * n for n in (20, 2000))
    assert 0 < betting_lower(some) < betting_lower(more) < 0.5
    assert betting_lower(more) > 0.45
    assert betting_lower(np.zeros(50)) == 0


def test_importance_weights_are_bounded_by_the_own_share_and_average_to_1():
    rng = np.random.default_rng(1)
    own, other = rng.dirichlet(np.ones(6)), rng.dirichlet(np.ones(6))
    drawn = np.concatenate([rng.choice(6, 4000, p=own), rng.choice(6, 4000, p=other)])
    logp = np.log(np.stack([own, other], axis=1))[drawn]
    weights = importance_weights(logp[:, 0], logp, [0.5, 0.5])
    assert weights.max() <= 2 + FLOAT64_SUM
    assert weights.mean() == pytest.approx(1, abs=0.05)


def test_a_teacher_bounds_a_rate_that_plain_samples_cannot_see():
    """p_0 = 1e-4; a teacher who answers right half the time shows the successes and their exact probability."""
    rng = np.random.default_rng(2)
    own, teacher = np.array([1e-4, 1 - 1e-4]), np.array([0.5, 0.5])
    bounds = []
    for _ in range(20):
        drawn = np.concatenate([rng.choice(2, 200, p=own), rng.choice(2, 200, p=teacher)])
        logp = np.log(np.stack([own, teacher], axis=1))[drawn]
        weighted = importance_weights(logp[:, 0], logp, [0.5, 0.5]) * (drawn == 0)
        found = k_to_solve(0, 200, weighted=weighted)
        bounds.append(found.low)
        assert found.low <= 1e-4 <= found.high and found.tries[0] <= 1e4 <= found.tries[1]
    assert np.median(bounds) > 0.4e-4
    certain = k_to_solve(0, 200, known={(0,): np.log(1e-4)})
    assert certain.low == certain.certain == pytest.approx(1e-4)


def test_without_any_success_nothing_is_known_below():
    assert k_to_solve(0, 100).tries[1] == np.inf
    assert k_to_solve(0, 0) == (0.0, 1.0, 0.0)


def test_known_failures_are_a_certain_upper_bound():
    """Failures known to hold .9 leave .1 at most (and the rounding), where 40 samples without success leave .0881."""
    failures = {(1,): np.log(0.6), (2,): np.log(0.3)}
    assert k_to_solve(0, 0, failures=failures).high == pytest.approx(0.1, abs=2e-4)
    assert k_to_solve(0, 40, failures=failures).high == pytest.approx(1 - 0.025 ** (1 / 40))
    both = k_to_solve(0, 20, known={(3,): np.log(0.0998)}, failures=failures)
    assert (both.low, both.high) == pytest.approx((0.0998, 0.1), abs=2e-4)


def test_a_statistical_bound_that_contradicts_a_certain_one_is_left_out():
    """No success in 100 samples says p < .037; a known response of probability .2 says otherwise, and is certain."""
    found = k_to_solve(0, 100, known={(1,): np.log(0.2)})
    assert found.low == pytest.approx(0.2) and found.high == 1
    found = k_to_solve(100, 100, failures={(1,): np.log(0.5)})
    assert found.high == pytest.approx(0.5, abs=2e-4) and found.low == 0


def test_exact_bounds_are_rounded_outward():
    """Log-probs of ten tokens, each off by up to 1e-6 nats as float32 leaves them: the bound stays a bound, and stays
    close."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        logp_RT = np.log(rng.dirichlet(np.ones(8)))[:4, None] / 10 * np.ones(10)
        read_RT = logp_RT + rng.uniform(-1e-6, 1e-6, logp_RT.shape)
        truth = np.exp(logp_RT.sum(1)).sum()
        known = {tuple(range(r, r + 10)): rounded_down(float(row.sum()), 10) for r, row in enumerate(read_RT)}
        interval = k_to_solve(0, 0, known=known, failures=None)
        assert truth * (1 - 1e-4) < interval.certain <= truth
        assert k_to_solve(0, 0, failures=known).high >= 1 - truth
