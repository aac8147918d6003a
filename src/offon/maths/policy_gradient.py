"""The maths of the policy gradient: pure functions on token columns, neither masked nor averaged; weights do that.

Axes: M tokens, B sequences. Log-probs in nats.
"""

from __future__ import annotations

import math

from offon.lazy import Tensor, torch
from offon.maths.vocabulary import log1mexp

LOG_NEARLY_SURE = math.log1p(-1e-5)
LOG_RATIO_BOUND = 20.0  # exp(20) is 5e8: beyond it a ratio carries no information and only overflows


def sum_by_sequence(value_M: Tensor, sequence_M: Tensor, n_sequences: int) -> Tensor:
    """[M] -> [B]: S_i = sum_t value_it."""
    return value_M.new_zeros(n_sequences).index_add(0, sequence_M, value_M)


def pooled_ratio(log_ratio_M: Tensor, sequence_M: Tensor, n_sequences: int, level: str, mask_M: Tensor) -> Tensor:
    """From log-ratios d_t = lp_t - anchor_t (0 outside mask_M) to one ratio per token, detached.

        token      r_t = exp(d_t)
        geometric  r_t = exp(mean_s d_s), the same for every token of its sequence (GSPO)
        sequence   r_t = exp(sum_s d_s)

    The mean and the sum run over the tokens of mask_M. Log-ratios are clamped to +-20 before exp.
    """
    log_ratio = log_ratio_M.detach()
    if level != "token":
        total = sum_by_sequence(log_ratio, sequence_M, n_sequences)
        if level == "geometric":
            total = total / sum_by_sequence(mask_M.to(total.dtype), sequence_M, n_sequences).clamp(min=1)
        log_ratio = total[sequence_M]
    return log_ratio.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp()


def clip_mask(ratio_M: Tensor, advantage_M: Tensor, low: float, high: float, *, dual: float | None = None) -> Tensor:
    """The tokens on which -min(r A, clip(r, 1 - low, 1 + high) A) still has a gradient, [M] bool.

        mask = not (A > 0 and r > 1 + high) and not (A < 0 and r < 1 - low) and not (A < 0 and r > dual)

    Reference: Schulman et al. 2017, arXiv:1707.06347, eq. 7, differentiated. dual: the loss of a negative advantage is
    capped at -dual A (Ye et al. 2019, arXiv:1912.09729).
    """
    stopped = ((advantage_M > 0) & (ratio_M > 1 + high)) | ((advantage_M < 0) & (ratio_M < 1 - low))
    if dual is not None:
        stopped |= (advantage_M < 0) & (ratio_M > dual)
    return ~stopped


def clip_log_ratio(log_ratio_M: Tensor, advantage_M: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """c = min(d, bound) where A > 0, max(d, -bound) where A < 0; and where that changed d, [M] bool. (GMPO)

    Reference: Zhao et al. 2025, arXiv:2507.20673: clipped per token, in log space, before the geometric mean.
    """
    stopped = ((advantage_M > 0) & (log_ratio_M > bound)) | ((advantage_M < 0) & (log_ratio_M < -bound))
    return torch.where(stopped, log_ratio_M.clamp(-bound, bound), log_ratio_M), stopped


def soft_gate(ratio_M: Tensor, advantage_M: Tensor, tau_pos: float, tau_neg: float) -> Tensor:
    """sech^2(tau (r - 1) / 2): dL/dr over -A of L = -(4 / tau) sigmoid(tau (r - 1)) A. [M]. arXiv:2511.20347."""
    tau = torch.where(advantage_M > 0, tau_pos, tau_neg)
    s = torch.sigmoid(tau * (ratio_M - 1))
    return 4 * s * (1 - s)


def shaped(x_M: Tensor, gamma: float) -> Tensor:
    """x f'(x) of f(x) = x / (x + gamma): x gamma / (x + gamma)^2. [M]. At x = gamma 1/4. arXiv:2504.14945, eq. 6."""
    return x_M * gamma / (x_M + gamma).square()


def kl_estimate(d_M: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """(k(d), dk/dd) of an estimator of the KL from d = lp - lp_to, d clamped to +-20. [M] each."""
    d = d_M.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)
    match kind:
        case "k1":
            return d, torch.ones_like(d)
        case "k2":
            return d.square() / 2, d
        case "k3":
            return torch.expm1(-d) + d, -torch.expm1(-d)
    raise ValueError(f"unknown KL estimator {kind!r}; one of k1, k2, k3")


def top_threshold(value_N: Tensor, share: float) -> Tensor:
    """The smallest of the `share` largest values: value >= threshold selects ceil(share N) of them, ties included."""
    count = max(math.ceil(share * len(value_N)), 1)
    return value_N.topk(min(count, len(value_N))).values[-1] if len(value_N) else value_N.new_tensor(math.inf)


def token_covariance(advantage_M: Tensor, logp_M: Tensor, mask_M: Tensor) -> Tensor:
    """(A_t - mean A)(lp_t - mean lp), means over mask_M; 0 elsewhere. [M]. Cui et al. 2025, arXiv:2505.22617, eq. 8."""
    advantage, logp = advantage_M[mask_M], logp_M[mask_M]
    product = (advantage - advantage.mean()) * (logp - logp.mean())
    return torch.zeros_like(logp_M).masked_scatter(mask_M, product)


def unlikelihood(logp_MK: Tensor, candidate_MK: Tensor) -> Tensor:
    """-sum_k log(1 - p_k) over the candidates, [M]. Above p = 1 - 1e-5 the value stays and the gradient is 0.

    Its gradient by log p is p / (1 - p). Reference: Welleck et al. 2019, arXiv:1908.04319, eq. 4; the bound is the
    authors' clamp of 1 - p at 1e-5.
    """
    bounded = torch.where(candidate_MK, logp_MK, -1.0).clamp(max=LOG_NEARLY_SURE)
    return -torch.where(candidate_MK, log1mexp(bounded), 0.0).sum(-1)


def policy_gradient(logp_M: Tensor, coefficient_M: Tensor) -> Tensor:
    """-coefficient * logp per token, the coefficient detached. [M].

    With coefficient 1 this is the negative log-likelihood; with ratio * advantage * mask its gradient is that of the
    clipped surrogate. Its value is not the surrogate's: only gradients compare across objectives.
    Reference: Lv et al. 2025, arXiv:2509.04419 (unified policy gradient estimator).
    """
    return -coefficient_M.detach() * logp_M
