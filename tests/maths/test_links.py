"""Links and head losses by hand, at their limits, and their slopes."""

from __future__ import annotations

import math

import pytest
import torch

from offon.maths import heads, links
from offon.maths.vocabulary import log1mexp
from tests.rounding import FLOAT64

double = torch.float64


def slope_at(link, h: float) -> float:
    margin = torch.tensor([h], dtype=double, requires_grad=True)
    (slope,) = torch.autograd.grad(link(margin).sum(), margin)
    return slope.item()


def test_logistic_is_log_two_at_zero_and_linear_far_out():
    margin = torch.tensor([0.0, 60.0, -60.0], dtype=double)
    assert torch.allclose(links.logistic(margin), torch.tensor([math.log(2), 0.0, 60.0], dtype=double), atol=FLOAT64)


def test_swapping_a_pair_turns_the_loss_into_itself_plus_the_margin():
    h = torch.tensor([0.3, -1.2, 2.0], dtype=double)
    assert torch.allclose(links.logistic(-h), links.logistic(h) + h)


@pytest.mark.parametrize(
    "link, value, slope",
    [
        (links.logistic, math.log(2), -0.5),
        (links.square, 1.0, -2.0),
        (links.hinge, 1.0, -1.0),
        (links.truncated_square, 1.0, -2.0),
        (links.exponential, 1.0, -1.0),
        (links.savage, 0.25, -0.25),
    ],
)
def test_links_differ_at_zero_by_a_factor_only(link, value, slope):
    """GPO: to first order every link is f(0) + f'(0) h, and f'(0) < 0."""
    assert link(torch.zeros(1, dtype=double)).item() == pytest.approx(value)
    assert slope_at(link, 0.0) == pytest.approx(slope)


def test_links_and_their_slopes_are_finite_at_extremes():
    far = torch.tensor([-1e4, 1e4], dtype=torch.float32, requires_grad=True)
    for link in (links.logistic, links.square, links.hinge, links.truncated_square, links.exponential, links.savage):
        (slope,) = torch.autograd.grad(link(far).sum(), far)
        assert link(far).isfinite().all() and slope.isfinite().all()


def test_label_smoothing_is_lowest_where_sigmoid_is_one_minus_it():
    """d/dh = sigmoid(h) - (1 - e)."""
    e = 0.2
    assert slope_at(lambda h: links.logistic(h, e), math.log((1 - e) / e)) == pytest.approx(0.0, abs=FLOAT64)
    assert slope_at(lambda h: links.logistic(h, e), 0.7) == pytest.approx(1 / (1 + math.exp(-0.7)) - (1 - e))


def test_the_robust_link_is_unbiased_for_the_clean_one():
    """(1 - e) L(h) + e L(-h) = -log sigmoid(h): labels flipped with probability e average out."""
    h, e = torch.tensor([0.3, -1.2, 2.0], dtype=double), 0.1
    mixed = (1 - e) * links.robust(h, e) + e * links.robust(-h, e)
    assert torch.allclose(mixed, links.logistic(h))
    assert torch.allclose(links.robust(h, 0.0), links.logistic(h))


def test_the_robust_link_never_stops_pushing():
    """-[(1 - e) sigmoid(-h) + e sigmoid(h)] / (1 - 2e) tends to -e / (1 - 2e) far out, where DPO's slope is 0."""
    assert slope_at(lambda h: links.robust(h, 0.1), 40.0) == pytest.approx(-0.1 / 0.8)


def test_a_ranking_of_two_is_a_pair():
    assert links.plackett_luce(torch.tensor([0.4, -0.3], dtype=double)).item() == pytest.approx(
        links.logistic(torch.tensor([0.7], dtype=double)).item()
    )


def test_a_ranking_of_three_by_hand():
    """Scores 1, 0, 0: -log [e / (e + 2)] - log [1 / 2]."""
    expected = math.log((math.e + 2) / math.e) + math.log(2)
    assert links.plackett_luce(torch.tensor([1.0, 0.0, 0.0], dtype=double)).item() == pytest.approx(expected)


def test_ranking_coefficients_are_those_of_the_closed_form():
    """A_j = sum_{k <= min(j, K-1)} ([k = j] - softmax over items ranked >= k, at j)."""
    score = torch.tensor([0.2, -0.5, 1.0, 0.1], dtype=double, requires_grad=True)
    (slope,) = torch.autograd.grad(links.plackett_luce(score), score)
    s, K = score.detach(), 4
    for j in range(K):
        a = sum((k == j) - (s[j] - s[k:].logsumexp(0)).exp().item() for k in range(min(j, K - 2) + 1))
        assert -slope[j].item() == pytest.approx(a)


def test_log1mexp_is_accurate_at_both_ends():
    logp = torch.tensor([-1e-6, -math.log(2), -40.0], dtype=double)
    expected = torch.tensor([math.log(-math.expm1(-1e-6)), math.log(0.5), -math.exp(-40.0)], dtype=double)
    assert torch.allclose(log1mexp(logp), expected, rtol=FLOAT64, atol=0)


def test_log1mexp_of_certainty_and_of_the_impossible_is_finite_with_finite_gradient():
    logp = torch.tensor([0.0, -1e4, -float("inf")], requires_grad=True)
    (slope,) = torch.autograd.grad(log1mexp(logp).sum(), logp)
    assert log1mexp(logp).isfinite().all() and slope.isfinite().all()


def test_the_value_error_takes_the_worse_of_moved_and_held():
    """V 1.0, R 0.0, V_old 0.2, c 0.3: held to 0.5; 1/2 max(1, 0.25). V 1.0, R 1.0: held 0.5 is worse: 1/2 * 0.25."""
    value, old = torch.tensor([1.0, 1.0]), torch.tensor([0.2, 0.2])
    loss = heads.clipped_squared_error(value, torch.tensor([0.0, 1.0]), old, 0.3)
    assert loss.tolist() == pytest.approx([0.5, 0.125])


def test_a_label_of_one_half_is_lowest_at_score_zero():
    score = torch.tensor([0.0, 2.0, -2.0], dtype=double)
    loss = heads.label_cross_entropy(score, torch.tensor([0.5, 1.0, 1.0], dtype=double))
    assert loss.tolist() == pytest.approx([math.log(2), math.log1p(math.exp(-2)), math.log1p(math.exp(2))])
