"""Functions of next-token logits: log-probs, entropy, divergences. The one home of every log-prob.

Axes: M token positions, V vocabulary, K chosen ids. Logits are float32 or float64 and already divided by the
temperature; nothing here is masked or averaged. They are called on chunks of M, so that [M, V] is never whole.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def token_logp(logits_MV: Tensor, target_M: Tensor) -> Tensor:
    """log p(target), gather then subtract: z_y - logsumexp(z). Nats, [M]."""
    return logits_MV.gather(-1, target_M[:, None])[:, 0] - logits_MV.logsumexp(-1)


def logp_at(logits_MV: Tensor, ids_MK: Tensor) -> Tensor:
    """log p of K chosen ids at each position, normalised over the whole vocabulary; ids below 0 are padding. [M, K]."""
    return logits_MV.gather(-1, ids_MK.clamp(min=0)) - logits_MV.logsumexp(-1, keepdim=True)


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


def forward_kl(student_MV: Tensor, teacher_MV: Tensor) -> Tensor:
    """KL(q || p) = sum_v q_v (log q_v - log p_v): teacher q, student p; covers the teacher's mass. [M]."""
    log_p, log_q = student_MV.log_softmax(-1), teacher_MV.log_softmax(-1)
    return (log_q.exp() * (log_q - log_p)).sum(-1)


def reverse_kl(student_MV: Tensor, teacher_MV: Tensor) -> Tensor:
    """KL(p || q) = sum_v p_v (log p_v - log q_v): student p stays where the teacher q is likely. [M]."""
    log_p, log_q = student_MV.log_softmax(-1), teacher_MV.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def generalised_jsd(student_MV: Tensor, teacher_MV: Tensor, beta: float) -> Tensor:
    """D = beta KL(q || m) + (1 - beta) KL(p || m), m = beta q + (1 - beta) p, 0 < beta < 1. [M].

    D / beta tends to KL(q || p) as beta -> 0, D / (1 - beta) to KL(p || q) as beta -> 1; D itself tends to 0 at both
    ends, so an end is a different method and is asked for by name (forward_kl, reverse_kl).
    Reference: Agarwal et al. 2023, arXiv:2306.13649, eq. 1.
    """
    log_p, log_q = student_MV.log_softmax(-1), teacher_MV.log_softmax(-1)
    log_m = torch.logaddexp(log_q + math.log(beta), log_p + math.log1p(-beta))
    to_teacher = (log_q.exp() * (log_q - log_m)).sum(-1)
    to_student = (log_p.exp() * (log_p - log_m)).sum(-1)
    return beta * to_teacher + (1 - beta) * to_student
