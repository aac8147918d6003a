"""Log-probs, entropy and divergences against brute force, limits and the unified estimator."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from offon.maths import vocabulary as v
from tests.rounding import FLOAT64, FLOAT64_SUM, STORED

torch.manual_seed(0)
STUDENT, TEACHER = (torch.randn(5, 7, dtype=torch.float64) for _ in range(2))
LOG_P, LOG_Q = STUDENT.log_softmax(-1), TEACHER.log_softmax(-1)
P, Q = LOG_P.exp(), LOG_Q.exp()
DIVERGENCES = {
    "forward": v.forward_kl,
    "reverse": v.reverse_kl,
    "jsd": partial(v.generalised_jsd, beta=0.3),
    "skew_forward": partial(v.skew_forward_kl, alpha=0.3),
    "skew_reverse": partial(v.skew_reverse_kl, alpha=0.3),
}
every = pytest.mark.parametrize("divergence", DIVERGENCES.values(), ids=DIVERGENCES)


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
    log_p, log_q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.75, 0.25]]).log()
    assert v.forward_kl(log_p, log_q).item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), abs=STORED)
    assert v.reverse_kl(log_p, log_q).item() == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2), abs=STORED)


@every
def test_a_divergence_is_zero_only_for_the_same_distribution(divergence):
    assert divergence(LOG_P, LOG_P.clone()).abs().max() < FLOAT64
    assert (divergence(LOG_P, LOG_Q) > 0).all()


@every
def test_a_token_that_the_teacher_rules_out_is_finite_in_value_and_gradient(divergence):
    """Logits of -inf mean probability 0; 0 * inf would be nan. Only the reverse KL is rightly infinite there."""
    teacher = TEACHER.clone()
    teacher[:, 2] = -math.inf
    logits = STUDENT.clone().requires_grad_()
    value = divergence(logits.log_softmax(-1), teacher.log_softmax(-1))
    if divergence is v.reverse_kl:
        assert value.isposinf().all()
        return
    value.sum().backward()
    assert value.isfinite().all() and logits.grad.isfinite().all()


def test_jsd_ends_are_scaled_kls():
    """D_b / b -> KL(q||p) as b -> 0, D_{1-b} / b -> KL(p||q)."""
    b = 1e-6  # a hundredth of what the limit is allowed to be off
    assert torch.allclose(v.generalised_jsd(LOG_P, LOG_Q, b) / b, v.forward_kl(LOG_P, LOG_Q), rtol=1e-4)
    assert torch.allclose(v.generalised_jsd(LOG_P, LOG_Q, 1 - b) / b, v.reverse_kl(LOG_P, LOG_Q), rtol=1e-4)


def test_jsd_is_bounded_by_the_entropy_of_its_coin():
    far = torch.tensor([[50.0, 0.0]], dtype=torch.float64)
    coin = -(0.3 * math.log(0.3) + 0.7 * math.log(0.7))
    jsd = v.generalised_jsd(far.log_softmax(-1), (-far).log_softmax(-1), 0.3)
    assert jsd.item() == pytest.approx(coin, abs=STORED)


def test_the_logit_gradient_of_jsd():
    """d D_b / dz = (1 - b) p (log(p / m) - KL(p||m))."""
    logits = STUDENT.clone().requires_grad_()
    (direct,) = torch.autograd.grad(v.generalised_jsd(logits.log_softmax(-1), LOG_Q, 0.3).sum(), logits)
    log_ratio = LOG_P - (0.3 * Q + 0.7 * P).log()
    expected = 0.7 * P * (log_ratio - (P * log_ratio).sum(-1, keepdim=True))
    assert torch.allclose(direct, expected, atol=FLOAT64)


def test_skew_ends_are_the_kls_and_jsd_is_made_of_them():
    """alpha -> 0 gives the KLs; D_b = b KL(q||m) + (1 - b) KL(p||m) with both parts skewed to the same m."""
    assert torch.allclose(v.skew_forward_kl(LOG_P, LOG_Q, 1e-7), v.forward_kl(LOG_P, LOG_Q), rtol=1e-5)
    assert torch.allclose(v.skew_reverse_kl(LOG_P, LOG_Q, 1e-7), v.reverse_kl(LOG_P, LOG_Q), rtol=1e-5)
    parts = 0.3 * v.skew_forward_kl(LOG_P, LOG_Q, 0.3) + 0.7 * v.skew_reverse_kl(LOG_P, LOG_Q, 0.7)
    assert torch.allclose(v.generalised_jsd(LOG_P, LOG_Q, 0.3), parts)


@pytest.mark.parametrize(
    "divergence, advantage",
    [
        ("forward", lambda p, q: q / p),
        ("reverse", lambda p, q: (q / p).log()),
        ("jsd", lambda p, q: -0.7 * (p / (0.3 * q + 0.7 * p)).log()),
        ("skew_forward", lambda p, q: 0.7 * q / (0.3 * q + 0.7 * p)),
    ],
)
def test_a_divergence_is_a_policy_gradient_over_vocabulary_actions(divergence, advantage):
    """Bridge B: grad D = -sum_v p_v A_v grad log p_v with A_v = -dD/dp_v up to a constant."""
    logits = STUDENT.clone().requires_grad_()
    (direct,) = torch.autograd.grad(DIVERGENCES[divergence](logits.log_softmax(-1), LOG_Q).sum(), logits)
    again = STUDENT.clone().requires_grad_()
    (estimator,) = torch.autograd.grad(-(P * advantage(P, Q) * again.log_softmax(-1)).sum(), again)
    assert torch.allclose(direct, estimator, atol=FLOAT64)


def test_the_expected_sampled_advantage_is_the_reverse_kl_gradient():
    """On-policy distillation, sampled form: E_{y~p}[(log q - log p) grad log p(y)] = -grad KL(p||q)."""
    logits = STUDENT.clone().requires_grad_()
    (exact,) = torch.autograd.grad(v.reverse_kl(logits.log_softmax(-1), LOG_Q).sum(), logits)
    again = STUDENT.clone().requires_grad_()
    sampled = -(P * (LOG_Q - LOG_P).detach() * again.log_softmax(-1)).sum()
    (expected,) = torch.autograd.grad(sampled, again)
    assert torch.allclose(exact, expected, atol=FLOAT64)


def test_temperature_squared_keeps_the_scale_and_ends_in_the_squared_distance_of_logits():
    """d KL_T / dz = (p_T - q_T) / T; T^2 KL_T -> |z_s - z_t|^2 / 2V for zero-mean logits as T grows."""
    T, logits = 3.0, STUDENT.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(
        v.forward_kl((logits / T).log_softmax(-1), (TEACHER / T).log_softmax(-1)).sum(), logits
    )
    assert torch.allclose(gradient, ((STUDENT / T).softmax(-1) - (TEACHER / T).softmax(-1)) / T, atol=FLOAT64)
    student, teacher = (z - z.mean(-1, keepdim=True) for z in (STUDENT, TEACHER))
    hot = 1e4**2 * v.forward_kl((student / 1e4).log_softmax(-1), (teacher / 1e4).log_softmax(-1))
    assert torch.allclose(hot, (student - teacher).square().sum(-1) / (2 * 7), rtol=1e-3)


def test_two_teachers_are_one_mixture():
    """sum_k w_k KL(q_k||p) has the gradient of KL(sum_k w_k q_k||p); with KL(p||q_k) it is the geometric mean's."""
    other = torch.randn(5, 7, dtype=torch.float64).log_softmax(-1)
    arithmetic = torch.logaddexp(LOG_Q + math.log(0.3), other + math.log(0.7))
    geometric = (0.3 * LOG_Q + 0.7 * other).log_softmax(-1)

    def gradient(loss):
        logits = STUDENT.clone().requires_grad_()
        return torch.autograd.grad(loss(logits.log_softmax(-1)).sum(), logits)[0]

    for kl, mean in ((v.forward_kl, arithmetic), (v.reverse_kl, geometric)):
        several = gradient(lambda log_p, kl=kl: 0.3 * kl(log_p, LOG_Q) + 0.7 * kl(log_p, other))
        assert torch.allclose(several, gradient(lambda log_p, kl=kl, mean=mean: kl(log_p, mean)), atol=FLOAT64)


# --- a part of the vocabulary -------------------------------------------------------------------------------------


def top(k: int, log_p: torch.Tensor = LOG_Q) -> torch.Tensor:
    return log_p.topk(k).indices


def on(ids: torch.Tensor, rest: str, divergence=v.forward_kl, log_p=LOG_P) -> torch.Tensor:
    return divergence(v.restrict(log_p, ids, rest), v.restrict(LOG_Q, ids, rest))


@every
@pytest.mark.parametrize("rest", ["raw", "renormalised", "tail"])
def test_all_ids_are_the_whole_vocabulary_in_any_order(divergence, rest):
    ids = torch.stack([torch.randperm(7) for _ in range(5)])
    assert torch.allclose(on(ids, rest, divergence), divergence(LOG_P, LOG_Q), atol=STORED)


@every
def test_with_a_tail_the_divergence_grows_with_k_to_the_full_one_and_equals_it_one_id_short(divergence):
    values = torch.stack([on(top(k), "tail", divergence) for k in range(1, 8)])
    assert (values.diff(dim=0) > -FLOAT64_SUM).all()
    assert (values <= divergence(LOG_P, LOG_Q) + FLOAT64_SUM).all()
    assert torch.allclose(values[5], divergence(LOG_P, LOG_Q), atol=FLOAT64)


def test_tail_by_hand():
    """p = (.5, .3, .2), q = (.2, .2, .6) on the ids {0}: (.5, .5) against (.2, .8)."""
    log_p, log_q = (torch.tensor([x], dtype=torch.float64).log() for x in ([0.5, 0.3, 0.2], [0.2, 0.2, 0.6]))
    ids = torch.tensor([[0]])
    value = v.forward_kl(v.restrict(log_p, ids, "tail"), v.restrict(log_q, ids, "tail")).item()
    assert value == pytest.approx(0.2 * math.log(0.2 / 0.5) + 0.8 * math.log(0.8 / 0.5))
    raw = v.forward_kl(v.restrict(log_p, ids, "raw"), v.restrict(log_q, ids, "raw")).item()
    assert raw == pytest.approx(0.2 * math.log(0.2 / 0.5))  # negative: no divergence
    assert v.forward_kl(v.restrict(log_p, ids, "renormalised"), v.restrict(log_q, ids, "renormalised")).item() == 0.0


def minimiser(rest: str, ids: torch.Tensor) -> torch.Tensor:
    logits = STUDENT.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([logits], lr=1.0, max_iter=300, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = on(ids, rest, log_p=logits.log_softmax(-1)).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return logits.detach().softmax(-1)


def test_only_the_tail_bucket_learns_how_much_mass_lies_outside_the_ids():
    """Negative control for raw: its minimiser empties the tail. Renormalised leaves the tail anywhere."""
    ids = top(3)
    tail = 1 - Q.gather(-1, ids).sum(-1)
    assert (tail > 0.05).all()
    learned = {rest: 1 - minimiser(rest, ids).gather(-1, ids).sum(-1) for rest in ("tail", "raw", "renormalised")}
    assert torch.allclose(learned["tail"], tail, atol=1e-4)  # where L-BFGS stops
    assert (learned["raw"] < 0.02 * tail).all()
    assert (learned["renormalised"] - tail).abs().min() > 1e-3


def test_a_mass_of_one_leaves_a_finite_tail():
    sure = torch.tensor([[200.0, 0.0, 0.0]]).requires_grad_()
    tail = v.restrict(sure.log_softmax(-1), torch.tensor([[0]]), "tail")
    tail.sum().backward()
    assert tail.isfinite().all() and sure.grad.isfinite().all()
