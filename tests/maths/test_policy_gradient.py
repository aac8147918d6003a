"""Hand numbers, limits and gradients of the terms."""

from __future__ import annotations

import math

import pytest
import torch

from offon.maths import policy_gradient as terms
from tests.rounding import FLOAT64, STORED


def test_clip_mask_agrees_with_autograd_of_the_clipped_surrogate():
    """d/dlp of -min(r A, clip(r, 1-l, 1+h) A) is -mask * r * A, at every ratio and sign."""
    logp = torch.tensor([-2.0, -1.0, -0.5, -0.1, -0.05], dtype=torch.float64, requires_grad=True)
    anchor = torch.tensor([-0.5, -1.05, -0.5, -0.6, -1.0], dtype=torch.float64)
    sequence = torch.arange(5)
    everything = torch.ones(5, dtype=torch.bool)
    for sign in (1.0, -1.0):
        advantage = sign * torch.tensor([0.5, 1.0, 2.0, 1.0, 0.3], dtype=torch.float64)
        ratio = (logp - anchor).exp()
        surrogate = -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.28) * advantage)
        (expected,) = torch.autograd.grad(surrogate.sum(), logp)
        r = terms.pooled_ratio(logp - anchor, sequence, 5, "token", everything)
        coefficient = r * advantage * terms.clip_mask(r, advantage, 0.2, 0.28)
        (got,) = torch.autograd.grad(terms.policy_gradient(logp, coefficient).sum(), logp)
        assert torch.allclose(got, expected, atol=FLOAT64)


def test_ratio_levels_by_hand():
    """Log-ratios (.1, .3), (-.2): token exp of each; geometric exp(.2), exp(-.2); sequence exp(.4), exp(-.2)."""
    logp, anchor = torch.tensor([-1.0, -1.0, -1.0]), torch.tensor([-1.1, -1.3, -0.8])
    sequence, mask = torch.tensor([0, 0, 1]), torch.ones(3, dtype=torch.bool)
    by_level = {
        "token": [0.1, 0.3, -0.2],
        "geometric": [0.2, 0.2, -0.2],
        "sequence": [0.4, 0.4, -0.2],
    }
    for level, log_ratio in by_level.items():
        ratio = terms.pooled_ratio(logp - anchor, sequence, 2, level, mask)
        assert torch.allclose(ratio.log(), torch.tensor(log_ratio), atol=STORED), level


def test_ratio_is_finite_at_extremes():
    ratio = terms.pooled_ratio(
        torch.tensor([1e4, -1e4]),
        torch.arange(2),
        2,
        "token",
        torch.ones(2, dtype=torch.bool),
    )
    assert ratio.isfinite().all() and ratio[0] == pytest.approx(math.exp(20), rel=STORED)


def test_coefficient_is_detached():
    """A coefficient that depends on the parameters adds nothing to the gradient: DFT's -sg(p) lp, not -p lp."""
    logp = torch.tensor([-0.7], requires_grad=True)
    terms.policy_gradient(logp, logp.exp()).sum().backward()
    assert logp.grad.item() == pytest.approx(-math.exp(-0.7))


def test_dual_clip_stops_a_bad_token_that_became_likely():
    """A < 0 and r > 3: -min(r A, ...) would grow without bound; the loss is capped at 3 |A| and its gradient is 0."""
    ratio, advantage = torch.tensor([2.0, 4.0, 4.0]), torch.tensor([-1.0, -1.0, 1.0])
    assert terms.clip_mask(ratio, advantage, 0.2, 5.0, dual=3.0).tolist() == [True, False, True]


def test_log_clip_before_the_mean_by_hand():
    """d = (.9, .1) with A > 0 and bound .4: c = (.4, .1), the first token stopped, ratio exp(.25). With A < 0 nothing
    stops: large ratios of bad tokens must come down."""
    d = torch.tensor([0.9, 0.1], dtype=torch.float64)
    clipped, stopped = terms.clip_log_ratio(d, torch.ones(2), 0.4)
    assert clipped.tolist() == pytest.approx([0.4, 0.1]) and stopped.tolist() == [True, False]
    both = torch.ones(2, dtype=torch.bool)
    ratio = terms.pooled_ratio(clipped, torch.zeros(2, dtype=torch.long), 1, "geometric", both)
    assert ratio.log().tolist() == pytest.approx([0.25, 0.25])
    assert not terms.clip_log_ratio(d, -torch.ones(2), 0.4)[1].any()


def test_the_soft_gate_is_the_derivative_of_its_surrogate():
    """L = -(4 / tau) sigmoid(tau (r - 1)) A has dL/dlp = -A r sech^2(tau (r - 1) / 2); at r = 1 it is -A."""
    for sign, tau in ((1.0, 1.0), (-1.0, 1.05)):
        logp = torch.tensor([-0.4, 0.0, 0.7], dtype=torch.float64, requires_grad=True)
        ratio = logp.exp()
        (expected,) = torch.autograd.grad((-(4 / tau) * torch.sigmoid(tau * (ratio - 1)) * sign).sum(), logp)
        gate = terms.soft_gate(ratio.detach(), torch.full((3,), sign), 1.0, 1.05)
        assert torch.allclose(-sign * ratio.detach() * gate, expected) and gate[1].item() == pytest.approx(1.0)


def test_shaping_peaks_at_gamma_with_a_quarter():
    assert terms.shaped(torch.tensor([0.1, 1.0]), 0.1).tolist() == pytest.approx([0.25, 0.1 / 1.21])


@pytest.mark.parametrize(
    "kind, value", [("k1", lambda d: d), ("k2", lambda d: d**2 / 2), ("k3", lambda d: (-d).exp() - 1 + d)]
)
def test_kl_estimators_and_their_slopes(kind, value):
    d = torch.tensor([-0.7, 0.0, 1.3], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(value(d).sum(), d)
    got = terms.kl_estimate(d.detach(), kind)
    assert torch.allclose(got[0], value(d)) and torch.allclose(got[1], slope)


@pytest.mark.parametrize(
    "kind, target",
    [("k1", "none"), ("k2", "reverse"), ("k3", "forward"), ("ratio k1", "reverse"), ("ratio k3", "reverse")],
)
def test_the_expected_gradient_of_each_kl_estimator(kind, target):
    """Exact expectation over one categorical position, samples from pi (methods.md E.19): k1 as a loss regularises
    nothing, k2 is KL(pi || ref), k3 is KL(ref || pi); times the ratio k1 and k3 are KL(pi || ref)."""
    z = torch.tensor([0.3, -0.8, 1.1, 0.0], dtype=torch.float64, requires_grad=True)
    ref = torch.tensor([-0.5, 0.2, 0.4, 0.9], dtype=torch.float64).log_softmax(0)
    logp = z.log_softmax(0)
    value, slope = terms.kl_estimate((logp - ref).detach(), kind[-2:])
    weight = value + slope if kind.startswith("ratio") else slope
    (got,) = torch.autograd.grad((logp.detach().exp() * weight * logp).sum(), z, retain_graph=True)
    divergence = {
        "none": 0.0 * logp.sum(),
        "reverse": (logp.exp() * (logp - ref)).sum(),
        "forward": (ref.exp() * (ref - logp)).sum(),
    }[target]
    (expected,) = torch.autograd.grad(divergence, z)
    assert torch.allclose(got, expected, atol=FLOAT64)


def test_the_share_with_the_highest_values():
    values = torch.tensor([3.0, 1.0, 2.0, 5.0, 4.0])
    assert (values >= terms.top_threshold(values, 0.4)).tolist() == [False, False, False, True, True]
    assert (values >= terms.top_threshold(values, 1.0)).all()


def test_token_covariance_by_hand():
    """Masked tokens (A 9) do not enter the means. A (1, -1), lp (-1, -3): means 0 and -2, products 1 and 1."""
    cov = terms.token_covariance(
        torch.tensor([1.0, 9.0, -1.0]), torch.tensor([-1.0, -9.0, -3.0]), torch.tensor([True, False, True])
    )
    assert cov.tolist() == [1.0, 0.0, 1.0]
