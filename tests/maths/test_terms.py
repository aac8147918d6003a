"""Hand numbers, limits and gradients of the terms."""

from __future__ import annotations

import math

import pytest
import torch

from offon.maths import terms


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
        r = terms.likelihood_ratio(logp, anchor, sequence, 5, "token", everything)
        coefficient = r * advantage * terms.clip_mask(r, advantage, 0.2, 0.28)
        (got,) = torch.autograd.grad(terms.policy_gradient(logp, coefficient).sum(), logp)
        assert torch.allclose(got, expected, atol=1e-12)


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
        ratio = terms.likelihood_ratio(logp, anchor, sequence, 2, level, mask)
        assert torch.allclose(ratio.log(), torch.tensor(log_ratio), atol=1e-6), level


def test_masked_tokens_do_not_enter_a_sequence_ratio_not_even_as_nan():
    logp, anchor = torch.tensor([-1.0, -1.0]), torch.tensor([-1.1, math.nan])
    ratio = terms.likelihood_ratio(logp, anchor, torch.tensor([0, 0]), 1, "geometric", torch.tensor([True, False]))
    assert torch.allclose(ratio.log(), torch.tensor([0.1, 0.1]), atol=1e-6)


def test_ratio_is_finite_at_extremes():
    ratio = terms.likelihood_ratio(
        torch.tensor([0.0, -1e4]),
        torch.tensor([-1e4, 0.0]),
        torch.arange(2),
        2,
        "token",
        torch.ones(2, dtype=torch.bool),
    )
    assert ratio.isfinite().all() and ratio[0] == pytest.approx(math.exp(20), rel=1e-6)


def test_coefficient_is_detached():
    """A coefficient that depends on the parameters adds nothing to the gradient: DFT's -sg(p) lp, not -p lp."""
    logp = torch.tensor([-0.7], requires_grad=True)
    terms.policy_gradient(logp, logp.exp()).sum().backward()
    assert logp.grad.item() == pytest.approx(-math.exp(-0.7))


def test_logistic_is_log_two_at_zero_and_linear_far_out():
    margin = torch.tensor([0.0, 60.0, -60.0], dtype=torch.float64)
    assert torch.allclose(
        terms.logistic(margin), torch.tensor([math.log(2), 0.0, 60.0], dtype=torch.float64), atol=1e-12
    )


def test_swapping_a_pair_turns_the_loss_into_itself_plus_the_margin():
    h = torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64)
    assert torch.allclose(terms.logistic(-h), terms.logistic(h) + h)
