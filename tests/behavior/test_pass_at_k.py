"""pass@k: the definition by enumeration, limits, exactness at large n."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from offon.behavior.statistics.counts import Counts
from offon.behavior.statistics.pass_at_k import budgets, curve, mean_pass_at_k, mixed_group_probability, pass_at_k
from offon.errors import DataError
from tests.rounding import FLOAT64


@pytest.mark.parametrize("c", range(7))
@pytest.mark.parametrize("k", range(1, 7))
def test_equals_the_share_of_subsets_with_a_success(c, k):
    samples = [1] * c + [0] * (6 - c)
    subsets = list(itertools.combinations(samples, k))
    assert pass_at_k(Counts.of(c, 6), k)[0] == pytest.approx(sum(map(any, subsets)) / len(subsets))
    mixed = sum(any(s) and not all(s) for s in subsets) / len(subsets)
    assert mixed_group_probability(Counts.of(c, 6), k)[0] == pytest.approx(mixed)


@pytest.mark.parametrize("k", [1, 4, 32])
def test_is_unbiased(k):
    """Its expectation over the binomial law of c is 1 - (1 - p)^k, exactly."""
    c = np.arange(65)
    for p in (0.003, 0.1, 0.8):
        expected = stats.binom.pmf(c, 64, p) @ pass_at_k(Counts.of(c, 64), k)
        assert expected == pytest.approx(1 - (1 - p) ** k, abs=FLOAT64)


def test_limits():
    counts = Counts.of([0, 3, 10], 10)
    np.testing.assert_allclose(pass_at_k(counts, 1), counts.rate)
    np.testing.assert_array_equal(pass_at_k(counts, 10), [0, 1, 1])
    np.testing.assert_array_equal(mixed_group_probability(counts, 1), 0)


def test_keeps_its_digits_at_large_n():
    n, c, k = 10**6, 3, 64
    exact = 1 - Fraction(math.comb(n - c, k), math.comb(n, k))
    assert pass_at_k(Counts.of(c, n), k)[0] == pytest.approx(float(exact), rel=FLOAT64)


def test_is_refused_beyond_n():
    with pytest.raises(DataError, match="pass@11 from 10"):
        pass_at_k(Counts.of(3, 10), 11)


def test_curve_stops_at_half_the_samples_and_holds_the_declared_budgets():
    counts = Counts.of(np.arange(50), 128)
    points = curve(counts, declared=(48, 100))
    assert [point["k"] for point in points] == [1, 2, 4, 8, 16, 32, 48, 64]
    assert points[0]["estimate"] == pytest.approx(counts.rate.mean())
    assert all(point["low"] <= point["estimate"] <= point["high"] for point in points)
    assert [p["estimate"] for p in points] == sorted(p["estimate"] for p in points)
    assert budgets(Counts.of([0], 1)) == [1]


def test_a_prompt_short_of_scored_samples_is_left_out_and_counted():
    points = curve(Counts.of([8, 8, 1], [16, 16, 2]))
    assert {point["k"]: point["prompts"] for point in points} == {1: 3, 2: 3, 4: 2, 8: 2}


def test_no_success_anywhere_still_has_a_width():
    """0 of 64 x 128: Wilson on the pooled counts has its upper end at z^2 / (n + z^2)."""
    success = mean_pass_at_k(Counts.of([0] * 64, 128), 1)
    assert success.estimate == success.low == 0
    assert success.high == pytest.approx(3.8415 / (8192 + 3.8415), rel=1e-4)
    assert mean_pass_at_k(Counts.of([0] * 64, 128), 64).high == pytest.approx(1 - (1 - success.high) ** 64)
    assert mean_pass_at_k(Counts.of([128] * 64, 128), 1).low == pytest.approx(1 - success.high)
