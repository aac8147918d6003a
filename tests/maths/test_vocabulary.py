"""Log-probs, entropy and divergences against brute force, limits and the unified estimator."""

from __future__ import annotations

import math

import pytest
import torch

from offon.maths import vocabulary as v

torch.manual_seed(0)
STUDENT, TEACHER = (torch.randn(5, 7, dtype=torch.float64) for _ in range(2))
P, Q = STUDENT.softmax(-1), TEACHER.softmax(-1)


def test_token_logp_is_log_softmax_gathered():
    target = torch.tensor([0, 3, 6, 1, 2])
    assert torch.allclose(v.token_logp(STUDENT, target), STUDENT.log_softmax(-1)[torch.arange(5), target])


def test_log_probs_survive_huge_logits():
    logits = torch.tensor([[1e4, 0.0], [-1e4, 0.0]])
    assert torch.allclose(v.token_logp(logits, torch.tensor([1, 0])), torch.tensor([-1e4, -1e4]))


def test_entropy_is_log_of_the_size_when_uniform_and_ignores_ruled_out_tokens():
    logits = torch.zeros(1, 8)
    assert v.entropy(logits).item() == pytest.approx(math.log(8))
    logits[0, 4:] = -math.inf
    assert v.entropy(logits).item() == pytest.approx(math.log(4))


def test_kl_by_hand():
    """p = (1/2, 1/2), q = (3/4, 1/4): KL(q||p) = 3/4 ln 3/2 + 1/4 ln 1/2; KL(p||q) = 1/2 ln 2/3 + 1/2 ln 2."""
    student, teacher = torch.zeros(1, 2), torch.tensor([[0.75, 0.25]]).log()
    assert v.forward_kl(student, teacher).item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), abs=1e-6)
    assert v.reverse_kl(student, teacher).item() == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2), abs=1e-6)


@pytest.mark.parametrize("divergence", [v.forward_kl, v.reverse_kl, lambda s, t: v.generalised_jsd(s, t, 0.3)])
def test_a_divergence_is_zero_only_for_the_same_distribution(divergence):
    assert divergence(STUDENT, STUDENT + 3.0).abs().max() < 1e-12
    assert (divergence(STUDENT, TEACHER) > 0).all()


def test_jsd_ends_are_scaled_kls():
    """D_b / b -> KL(q||p) as b -> 0, D_{1-b} / b -> KL(p||q)."""
    b = 1e-6
    assert torch.allclose(v.generalised_jsd(STUDENT, TEACHER, b) / b, v.forward_kl(STUDENT, TEACHER), rtol=1e-4)
    assert torch.allclose(v.generalised_jsd(STUDENT, TEACHER, 1 - b) / b, v.reverse_kl(STUDENT, TEACHER), rtol=1e-4)


def test_jsd_is_bounded_by_the_entropy_of_its_coin():
    far = torch.tensor([[50.0, 0.0]], dtype=torch.float64)
    coin = -(0.3 * math.log(0.3) + 0.7 * math.log(0.7))
    assert v.generalised_jsd(far, -far, 0.3).item() == pytest.approx(coin, abs=1e-6)


@pytest.mark.parametrize(
    "divergence, advantage",
    [
        (v.forward_kl, lambda p, q: q / p),
        (v.reverse_kl, lambda p, q: (q / p).log()),
        (lambda s, t: v.generalised_jsd(s, t, 0.3), lambda p, q: -0.7 * (p / (0.3 * q + 0.7 * p)).log()),
    ],
)
def test_a_divergence_is_a_policy_gradient_over_vocabulary_actions(divergence, advantage):
    """grad D = -sum_v p_v A_v grad log p_v with A_v = -dD/dp_v up to a constant."""
    logits = STUDENT.clone().requires_grad_()
    (direct,) = torch.autograd.grad(divergence(logits, TEACHER).sum(), logits)
    again = STUDENT.clone().requires_grad_()
    (estimator,) = torch.autograd.grad(-(P * advantage(P, Q) * again.log_softmax(-1)).sum(), again)
    assert torch.allclose(direct, estimator, atol=1e-12)


def test_the_expected_sampled_advantage_is_the_reverse_kl_gradient():
    """On-policy distillation, sampled form: E_{y~p}[(log q - log p) grad log p(y)] = -grad KL(p||q)."""
    logits = STUDENT.clone().requires_grad_()
    (exact,) = torch.autograd.grad(v.reverse_kl(logits, TEACHER).sum(), logits)
    again = STUDENT.clone().requires_grad_()
    sampled = -(P * (Q.log() - P.log()).detach() * again.log_softmax(-1)).sum()
    (expected,) = torch.autograd.grad(sampled, again)
    assert torch.allclose(exact, expected, atol=1e-12)
