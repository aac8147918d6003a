"""Estimates of KL(policy || reference) from the policy's own samples, one token at a time."""

from __future__ import annotations

import torch
from torch import Tensor

ESTIMATORS = ("k1", "k2", "k3")


def kl_estimate(log_ratio_M: Tensor, kind: str) -> Tensor:
    """With d = log pi(y_t) - log pi_ref(y_t), y_t sampled from pi, in nats:

        k1 = d              unbiased; negative on half of the tokens
        k2 = d^2 / 2        biased; as a loss its gradient is that of the per-position reverse KL
        k3 = e^-d - 1 + d   unbiased, never negative; as a loss its gradient is that of the forward KL

    Gradients flow through d as given. Which of them regularises depends on where it is put: k1 as a loss has expected
    gradient 0; k1 in the reward with return-to-go is the exact sequence KL; k3 in the reward is biased.
    Reference: Schulman 2020, "Approximating KL divergence"; gradients: Tang and Munos 2025, arXiv:2506.09477.

        >>> [round(float(kl_estimate(torch.tensor(0.5), kind)), 4) for kind in ESTIMATORS]
        [0.5, 0.125, 0.1065]
    """
    match kind:
        case "k1":
            return log_ratio_M
        case "k2":
            return 0.5 * log_ratio_M.square()
        case "k3":
            return torch.expm1(-log_ratio_M) + log_ratio_M
    raise ValueError(f"unknown KL estimate {kind!r}; one of {', '.join(ESTIMATORS)}")
