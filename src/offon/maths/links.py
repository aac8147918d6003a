"""Links: losses of a margin h = beta * (better - worse). Decreasing at 0, neither masked nor averaged.

The general form is Tang et al. 2024, arXiv:2402.05749 (GPO): convex f with f'(0) < 0. At h = 0 they all push the same
way; f'(0) says how hard.

Axes: P pairs, K ranked responses.
"""

from __future__ import annotations

from offon.lazy import F, Tensor


def logistic(margin_P: Tensor, smoothing: float = 0.0) -> Tensor:
    """-(1 - e) log sigmoid(h) - e log sigmoid(-h), via softplus. [P]. f'(0) = -1/2 + e.

    smoothing 0: Rafailov et al. 2023, arXiv:2305.18290, eq. 7. Else cDPO (Mitchell 2023): lowest at sigmoid(h) = 1 - e.
    """
    loss = F.softplus(-margin_P)
    return loss if smoothing == 0 else (1 - smoothing) * loss + smoothing * F.softplus(margin_P)


def robust(margin_P: Tensor, flipped: float) -> Tensor:
    """[-(1 - e) log sigmoid(h) + e log sigmoid(-h)] / (1 - 2e): unbiased for the clean loss if a share e of the labels
    is flipped. [P]. Unbounded below. Chowdhury et al. 2024, arXiv:2403.00409, eq. 9."""
    return ((1 - flipped) * F.softplus(-margin_P) - flipped * F.softplus(margin_P)) / (1 - 2 * flipped)


def square(margin_P: Tensor, target: float = 1.0) -> Tensor:
    """(h - target)^2. [P]. f'(0) = -2 target. Azar et al. 2023, arXiv:2310.12036, with h the log-ratio difference and
    target 1 / (2 tau)."""
    return (margin_P - target).square()


def hinge(margin_P: Tensor, delta: float = 1.0) -> Tensor:
    """max(0, delta - h). [P]. f'(0) = -1. Zhao et al. 2023, arXiv:2305.10425."""
    return (delta - margin_P).clamp(min=0)


def truncated_square(margin_P: Tensor) -> Tensor:
    """max(0, 1 - h)^2. [P]. f'(0) = -2."""
    return (1 - margin_P).clamp(min=0).square()


def exponential(margin_P: Tensor) -> Tensor:
    """exp(-h), h at least -20. [P]. f'(0) = -1."""
    return (-margin_P.clamp(min=-20)).exp()


def savage(margin_P: Tensor) -> Tensor:
    """1 / (1 + e^h)^2: bounded, so a wrong label costs at most 1. [P]. f'(0) = -1/4."""
    return (-margin_P).sigmoid().square()


def prospect(margin_P: Tensor) -> Tensor:
    """1 - sigmoid(h). [P]. f'(0) = -1/4. Ethayarajh et al. 2024, arXiv:2402.01306, eq. 8, in losses."""
    return (-margin_P).sigmoid()


def plackett_luce(score_K: Tensor) -> Tensor:
    """-log P(ranking) of scores listed from best to worst: -sum_{k<K} [s_k - logsumexp_{j>=k} s_j]. Scalar.

    K = 2 is the logistic link of s_1 - s_2. Plackett 1975; as a policy loss: Rafailov et al. 2023, arXiv:2305.18290,
    appendix A.3.
    """
    below = score_K.flip(0).logcumsumexp(0).flip(0)
    return (below - score_K)[:-1].sum()
