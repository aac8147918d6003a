"""Functions of next-token logits: log-probs, entropy, divergences. The one home of every log-prob.

Axes: M token positions, V vocabulary, K chosen ids. Logits are float32 or float64 and already divided by the
temperature; divergences take log-probs (log_softmax of logits, or `restrict` of that). Nothing here is masked or
averaged. They are called on chunks of M, so that [M, V] is never whole.
"""

from __future__ import annotations

import math

from offon.lazy import Tensor, torch


def token_logp(logits_MV: Tensor, target_M: Tensor) -> Tensor:
    """log p(target), gather then subtract: z_y - logsumexp(z). Nats, [M]."""
    return logits_MV.gather(-1, target_M[:, None])[:, 0] - logits_MV.logsumexp(-1)


def logp_at(logits_MV: Tensor, ids_MK: Tensor) -> Tensor:
    """log p of K chosen ids at each position, normalised over the whole vocabulary; ids below 0 are padding. [M, K]."""
    return logits_MV.gather(-1, ids_MK.clamp(min=0).long()) - logits_MV.logsumexp(-1, keepdim=True)


def log1mexp(logp: Tensor) -> Tensor:
    """log(1 - p) from log p, accurate at both ends; log p above -1e-7 counts as -1e-7, so that p = 1 stays finite."""
    a = logp.clamp(max=-1e-7)
    near_one = a > -math.log(2)
    return torch.where(
        near_one,
        (-torch.expm1(torch.where(near_one, a, -1.0))).log(),
        torch.log1p(-torch.where(near_one, -1.0, a).exp()),
    )


def entropy(logits_MV: Tensor) -> Tensor:
    """H(p) = logsumexp(z) - sum_v p_v z_v, nats, [M]. Entries at -inf count as p = 0."""
    finite = logits_MV.masked_fill(logits_MV == -math.inf, 0.0)
    return logits_MV.logsumexp(-1) - (logits_MV.softmax(-1) * finite).sum(-1)


def forward_kl(log_p_MV: Tensor, log_q_MV: Tensor) -> Tensor:
    """KL(q || p) = sum_v q_v (log q_v - log p_v): teacher q, student p; covers the teacher's mass. [M]."""
    return _expected(log_q_MV, log_q_MV - log_p_MV)


def reverse_kl(log_p_MV: Tensor, log_q_MV: Tensor) -> Tensor:
    """KL(p || q) = sum_v p_v (log p_v - log q_v): student p stays where the teacher q is likely. [M]."""
    return _expected(log_p_MV, log_p_MV - log_q_MV)


def generalised_jsd(log_p_MV: Tensor, log_q_MV: Tensor, beta: float) -> Tensor:
    """D = beta KL(q || m) + (1 - beta) KL(p || m), m = beta q + (1 - beta) p, 0 < beta < 1. [M].

    D / beta tends to KL(q || p) as beta -> 0, D / (1 - beta) to KL(p || q) as beta -> 1; D itself tends to 0 at both
    ends, so an end is a different method and is asked for by name (forward_kl, reverse_kl).
    Reference: Agarwal et al. 2023, arXiv:2306.13649, eq. 1.
    """
    log_m = _log_mixture(log_q_MV, log_p_MV, beta)
    return beta * _expected(log_q_MV, log_q_MV - log_m) + (1 - beta) * _expected(log_p_MV, log_p_MV - log_m)


def skew_forward_kl(log_p_MV: Tensor, log_q_MV: Tensor, alpha: float) -> Tensor:
    """KL(q || alpha q + (1 - alpha) p), 0 < alpha < 1: finite where p misses mass of q; alpha -> 0 is forward_kl. [M].

    Reference: Ko et al. 2024, arXiv:2402.03898, eq. 4. Their code leaves out the teacher's entropy, a constant.
    """
    return _expected(log_q_MV, log_q_MV - _log_mixture(log_q_MV, log_p_MV, alpha))


def skew_reverse_kl(log_p_MV: Tensor, log_q_MV: Tensor, alpha: float) -> Tensor:
    """KL(p || alpha p + (1 - alpha) q), 0 < alpha < 1: finite where q misses mass of p; alpha -> 0 is reverse_kl. [M].

    Reference: Ko et al. 2024, arXiv:2402.03898, eq. 5.
    """
    return _expected(log_p_MV, log_p_MV - _log_mixture(log_p_MV, log_q_MV, alpha))


def _expected(log_w_MV: Tensor, value_MV: Tensor) -> Tensor:
    """sum_v w_v value_v, where w_v = 0 counts as 0 whatever the value: 0 * inf is nan, and so is its gradient. [M]."""
    return (log_w_MV.exp() * value_MV.masked_fill(log_w_MV == -math.inf, 0.0)).sum(-1)


def _log_mixture(log_a_MV: Tensor, log_b_MV: Tensor, share: float) -> Tensor:
    """log(share a + (1 - share) b), never leaving log space."""
    return torch.logaddexp(log_a_MV + math.log(share), log_b_MV + math.log1p(-share))


LOG_MASS_BOUND = -1e-7  # a mass closer to 1 than float32 resolves: its remainder carries no gradient


def restrict(log_p_MV: Tensor, ids_MK: Tensor, rest: str) -> Tensor:
    """Log-probs on K chosen ids, with one of three answers to what the other ids are. [M, K], or [M, K + 1] for tail.

        raw            log p_k as they are: they sum to less than 1, and a divergence of such vectors is none. The
                       minimiser of the forward one is q_k / sum_K q: it drives the student's mass off the K to 0
        renormalised   log p_k - log sum_K p: the distribution given that one of the K is drawn; says nothing about
                       how much mass is on them
        tail           one more id that stands for all others, log(1 - sum_K p): a coarser view of both
                       distributions, whose divergence is at most the full one and equals it at K = V - 1

    Reference: arXiv:2601.20802 (tail bucket).
    """
    log_p_MK = log_p_MV.gather(-1, ids_MK)
    match rest:
        case "raw":
            return log_p_MK
        case "renormalised":
            return log_p_MK.log_softmax(-1)
        case "tail":
            mass = log_p_MK.logsumexp(-1, keepdim=True).clamp(max=LOG_MASS_BOUND)
            return torch.cat([log_p_MK, (-mass.expm1()).log()], -1)
    raise ValueError(f"unknown rest {rest!r}; one of raw, renormalised, tail")
