"""The maths of the terms: pure functions on token, sequence and pair columns. Every result is a loss to minimise,
neither masked nor averaged: weights do that, once.

Axes: M tokens, B sequences, P pairs. Log-probs in nats.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LOG_RATIO_BOUND = 20.0  # exp(20) is 5e8: beyond it a ratio carries no information and only overflows


def sum_by_sequence(value_M: Tensor, sequence_M: Tensor, n_sequences: int) -> Tensor:
    """[M] -> [B]: S_i = sum_t value_it."""
    return value_M.new_zeros(n_sequences).index_add(0, sequence_M, value_M)


def likelihood_ratio(
    logp_M: Tensor, anchor_M: Tensor, sequence_M: Tensor, n_sequences: int, level: str, mask_M: Tensor
) -> Tensor:
    """pi(y) / pi_anchor(y), detached, one value per token.

        token      r_t = exp(lp_t - anchor_t)
        geometric  r_t = exp(mean_s (lp_s - anchor_s)), the same for every token of its sequence (GSPO)
        sequence   r_t = exp(sum_s (lp_s - anchor_s))

    The mean and the sum run over the tokens of mask_M. Log-ratios are clamped to +-20 before exp.
    """
    log_ratio = torch.where(mask_M, logp_M - anchor_M, torch.zeros_like(logp_M)).detach()
    if level != "token":
        total = sum_by_sequence(log_ratio, sequence_M, n_sequences)
        if level == "geometric":
            total = total / sum_by_sequence(mask_M.to(total.dtype), sequence_M, n_sequences).clamp(min=1)
        log_ratio = total[sequence_M]
    return log_ratio.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp()


def clip_mask(ratio_M: Tensor, advantage_M: Tensor, low: float, high: float) -> Tensor:
    """The tokens on which -min(r A, clip(r, 1 - low, 1 + high) A) still has a gradient, [M] bool.

        mask = not (A > 0 and r > 1 + high) and not (A < 0 and r < 1 - low)

    Reference: Schulman et al. 2017, arXiv:1707.06347, eq. 7, differentiated.
    """
    return ~(((advantage_M > 0) & (ratio_M > 1 + high)) | ((advantage_M < 0) & (ratio_M < 1 - low)))


def policy_gradient(logp_M: Tensor, coefficient_M: Tensor) -> Tensor:
    """-coefficient * logp per token, the coefficient detached. [M].

    With coefficient 1 this is the negative log-likelihood; with ratio * advantage * mask its gradient is that of the
    clipped surrogate. Its value is not the surrogate's: only gradients compare across objectives.
    Reference: Lv et al. 2025, arXiv:2509.04419 (unified policy gradient estimator).
    """
    return -coefficient_M.detach() * logp_M


def logistic(margin_P: Tensor) -> Tensor:
    """-log sigmoid(h), via softplus. [P]. Rafailov et al. 2023, arXiv:2305.18290, eq. 7, with h = beta * margin."""
    return F.softplus(-margin_P)
