"""Losses of a head's output. Neither masked nor averaged: weights do that, once.

Axes: M tokens.
"""

from __future__ import annotations

from offon.lazy import F, Tensor, torch


def clipped_squared_error(value_M: Tensor, target_M: Tensor, old_M: Tensor, clip: float) -> Tensor:
    """1/2 max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2). [M]. PPO's value loss (baselines, 2017)."""
    held = old_M + (value_M - old_M).clamp(-clip, clip)
    return 0.5 * torch.maximum((value_M - target_M).square(), (held - target_M).square())


def label_cross_entropy(score_M: Tensor, label_M: Tensor) -> Tensor:
    """-y log sigmoid(s) - (1 - y) log sigmoid(-s) = softplus(s) - y s, labels in [0, 1]. [M]."""
    return F.softplus(score_M) - label_M * score_M
