"""D1: brute force over halvings, exact sums, exact nulls, planted stages recovered."""

import itertools

import numpy as np
import pytest
from scipy import stats

from offon.behavior.change.success_decomposition import SIGNS, cross_fitted_cells, decompose
from offon.behavior.change.support import jeffreys_states, support_calls, support_threshold
from offon.behavior.statistics.counts import Counts
from offon.errors import DataError
from tests.rounding import EPS64, FLOAT64

IN, OUT = 0, 1  # columns of the states below


def two_states(half):
    """A made-up membership: IN with weight a / size, so that every count matters."""
    inside = half.successes / half.scored
    return np.stack([inside, 1 - inside], axis=1)


def signed_sum(terms):
    return sum(SIGNS[name] * term.estimate for name, term in terms.items())


def sampled(rates, n, rng):
    return Counts.of(rng.binomial(n, rates), n)


def test_hand_number_of_one_lucky_sample():
    """Two samples, 0/2 before and 1/2 after, IN if the half (one sample) succeeds.

    Before is OUT in either half. After, the half that holds the success calls IN and the other half then shows no
    change; the half without it calls OUT and the other shows 1 of n = 2. So nothing is expansion, 1/2 is diffuse.
    """
    cells = cross_fitted_cells(Counts.of(0, 2), Counts.of(1, 2), two_states)[0]
    assert cells[OUT, IN] == 0
    assert cells[OUT, OUT] == pytest.approx(0.5)
    assert cells[IN].tolist() == [0, 0]


@pytest.mark.parametrize("c0, n0, c1, n1", [(1, 4, 3, 4), (2, 5, 3, 5), (0, 4, 2, 5), (5, 5, 1, 3), (2, 2, 0, 6)])
def test_equals_the_mean_over_all_halvings_of_the_samples(c0, n0, c1, n1):
    def halvings(c, n):
        outcomes = [1] * c + [0] * (n - c)
        for chosen in itertools.combinations(range(n), n // 2):
            a = [outcomes[i] for i in chosen]
            yield a, [outcomes[i] for i in range(n) if i not in chosen]

    def weights(half):
        return two_states(Counts.of(sum(half), len(half)))[0]

    total, number = np.zeros((2, 2)), 0
    for (a0, b0), (a1, b1) in itertools.product(halvings(c0, n0), halvings(c1, n1)):
        change_a, change_b = sum(a1) / n1 - sum(a0) / n0, sum(b1) / n1 - sum(b0) / n0
        total += np.outer(weights(a0), weights(a1)) * change_b + np.outer(weights(b0), weights(b1)) * change_a
        number += 1
    cells = cross_fitted_cells(Counts.of(c0, n0), Counts.of(c1, n1), two_states)[0]
    np.testing.assert_allclose(cells, total / number, atol=64 * EPS64)


@pytest.mark.parametrize("n", [2, 31, 128, 4096])
def test_terms_sum_to_the_measured_change(n):
    rng = np.random.default_rng(n)
    scored0, scored1 = rng.integers(2, n + 1, 60), rng.integers(2, n + 1, 60)
    before = Counts.of(rng.binomial(scored0, rng.beta(0.3, 1, 60)), scored0)
    after = Counts.of(rng.binomial(scored1, rng.beta(0.5, 0.5, 60)), scored1)
    d1 = decompose(before, after, k=16)
    assert d1.total.estimate == pytest.approx((after.rate - before.rate).mean(), abs=FLOAT64)
    assert signed_sum(d1.certified) == pytest.approx(d1.total.estimate, abs=FLOAT64)
    assert signed_sum(d1.soft) == pytest.approx(d1.total.estimate, abs=FLOAT64)
    assert "ambiguous" not in d1.soft


def expected_terms(p, n0, n1, k):
    """The exact mean of each certified term for one prompt with rate p before and after, over all counts."""
    c0, c1 = (grid.ravel() for grid in np.meshgrid(np.arange(n0 + 1), np.arange(n1 + 1), indexing="ij"))

    def states(half):
        calls = support_calls(half, k)
        return np.stack([calls == name for name in ("IN", "OUT", "undecided")], axis=1).astype(float)

    law = stats.binom.pmf(c0, n0, p) * stats.binom.pmf(c1, n1, p)
    return np.einsum("p,pij->ij", law, cross_fitted_cells(Counts.of(c0, n0), Counts.of(c1, n1), states))


@pytest.mark.parametrize("p", [0.02, 0.2, 0.35, 0.7])
def test_identical_checkpoints_have_mean_zero_exactly(p):
    """k = 8, eps .31, halves of 20 samples: every cell occurs near eps, and each has mean 0."""
    for n0, n1 in ((40, 40), (40, 60), (41, 41)):
        np.testing.assert_allclose(expected_terms(p, n0, n1, 8), 0, atol=512 * EPS64)
    assert np.abs(expected_terms(p, 40, 41, 8)).max() < 1 / 40  # halves of unequal share: small, not zero


def test_identical_checkpoints_by_simulation_and_the_bias_of_reusing_samples():
    """20,000 prompts with rates around eps, k = 32, 128 samples: |z| < 4 in each of 4 cells (false alarm 3e-4).

    Negative control: the same weights and the same change from all samples call luck an expansion, with |z| > 4.
    """
    rng = np.random.default_rng(0)
    rates = rng.uniform(0.2, 3, 20_000) * support_threshold(32)
    before, after = sampled(rates, 128, rng), sampled(rates, 128, rng)

    def states(half):
        return jeffreys_states(half, 32)

    def z(values):
        return values.mean(axis=0) / (values.std(axis=0) / np.sqrt(len(values)))

    assert np.abs(z(cross_fitted_cells(before, after, states))).max() < 4
    naive = states(before)[:, :, None] * states(after)[:, None, :] * (after.rate - before.rate)[:, None, None]
    assert z(naive)[OUT, IN] > 4 and z(naive)[IN, OUT] < -4


@pytest.mark.slow
def test_null_intervals_contain_zero():
    """120 pairs of identical checkpoints, 80 prompts: every term covers 0 in .92 to .97 of them (docs/validation.md);
    below .86 with probability under .01 each.
    """
    rng = np.random.default_rng(1)
    hits = dict.fromkeys(("total", "reshaping", "diffuse", "expansion", "attrition"), 0)
    for _ in range(120):
        rates = rng.uniform(0, 0.3, 80)
        d1 = decompose(sampled(rates, 64, rng), sampled(rates, 64, rng), k=16)
        for term, est in {"total": d1.total, **d1.soft}.items():
            hits[term] += est.low <= 0 <= est.high
    assert min(hits.values()) >= 0.86 * 120, hits


@pytest.mark.parametrize(
    "rate_before, rate_after, term",
    [(0.0005, 0.4, "expansion"), (0.25, 0.7, "reshaping"), (0.4, 0.0005, "attrition"), (0.0, 0.004, "diffuse")],
)
def test_planted_stage_is_found(rate_before, rate_after, term):
    """40 of 120 prompts move across, within or below support at k = 64 (256 samples); 80 stay at .2."""
    rng = np.random.default_rng(2)
    moved = np.arange(120) < 40
    before = sampled(np.where(moved, rate_before, 0.2), 256, rng)
    after = sampled(np.where(moved, rate_after, 0.2), 256, rng)
    d1 = decompose(before, after, k=64)
    planted = SIGNS[term] * (rate_after - rate_before) / 3
    noise = 0 if term == "reshaping" else 0.01  # the 80 that stay add sampling noise to reshaping only
    assert d1.can_certify_out and d1.note == ""
    for weighting in (d1.certified, d1.soft):
        low, high = weighting[term].low - 1e-3, weighting[term].high + 1e-3
        assert low <= planted <= high
        others = {"expansion", "attrition", "diffuse"} - {term}
        assert all(abs(weighting[name].estimate) < 5e-4 for name in others)
        assert abs(weighting["reshaping"].estimate - (planted if term == "reshaping" else 0)) < 0.01 + noise
    if abs(planted) > 0.01:
        assert d1.certified[term].low > 0


def test_attrition_is_a_loss_printed_positive():
    d1 = decompose(Counts.of([200] * 10, 256), Counts.of([0] * 10, 256), k=64)
    assert d1.certified["attrition"].estimate == pytest.approx(200 / 256)
    assert d1.total.estimate == pytest.approx(-200 / 256)


def test_too_few_samples_certify_nothing_and_say_so():
    before, after = Counts.of([0] * 50, 128), Counts.of([64] * 50, 128)
    at_64 = decompose(before, after, k=64)
    assert not at_64.can_certify_out
    assert at_64.certified["expansion"].estimate == 0
    assert at_64.certified["ambiguous"].estimate == pytest.approx(0.5)
    assert "64 samples per half before" in at_64.note and "takes 79" in at_64.note and "k <= 51" in at_64.note
    at_51 = decompose(before, after, k=51)
    assert at_51.can_certify_out and at_51.note == ""
    assert at_51.certified["expansion"].estimate == pytest.approx(0.5)


def test_order_of_prompts_changes_nothing():
    rng = np.random.default_rng(4)
    before, after = sampled(rng.random(60), 64, rng), sampled(rng.random(60), 64, rng)
    order = rng.permutation(60)
    assert decompose(before, after, k=32) == decompose(before.at(order), after.at(order), k=32)


def test_no_change_anywhere_still_has_a_width():
    total = decompose(Counts.of([0] * 20, 128), Counts.of([0] * 20, 128), k=32).total
    assert total.estimate == 0 and -0.002 < total.low < 0 < total.high < 0.002


def test_a_prompt_without_two_halves_is_refused():
    with pytest.raises(DataError, match="1 of 2 prompts have fewer than 2"):
        decompose(Counts.of([0, 1], 8), Counts.of([0, 1], [8, 1]), k=4)
