"""The one home of the denominator.

With l the per-token loss, N selected sequences and m the selection mask:

    per_token             sum m l / sum m
    per_sequence          1/N sum_i [ sum_t m l / sum_t m ]
    per_sequence_sum      1/N sum_i sum_t m l
    constant(L)           1/N sum_i sum_t m l / L
    per_pair              1/P sum over pairs

Counts are taken once, on the whole optimizer-step batch, before packing and micro-batches. What follows is a plain
weighted sum, so no split of the batch can change the gradient. A sequence whose mask is empty is not counted.

Axes: M tokens, B sequences, P pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

REDUCTIONS = ("per_token", "per_sequence", "per_sequence_sum", "constant")


def token_weights(
    selected_M: Tensor,
    sequence_M: Tensor,
    n_sequences: int,
    reduce: str,
    *,
    length: float | None = None,
    population_M: Tensor | None = None,
) -> Tensor:
    """One weight per token, [M] float64; 0 where not selected. Their weighted sum is the reduction named.

    population_M: the tokens whose counts form the denominator; the selection itself unless given (LUFFY divides by
    all trained tokens while summing over some).
    """
    population = selected_M if population_M is None else population_M
    selected = selected_M.to(torch.float64)
    length_B = torch.zeros(n_sequences, dtype=torch.float64).index_add(0, sequence_M, population.to(torch.float64))
    n_tokens, n_counted = length_B.sum(), (length_B > 0).sum()
    if n_tokens == 0:
        return torch.zeros_like(selected)
    match reduce:
        case "per_token":
            return selected / n_tokens
        case "per_sequence":
            return selected / (n_counted * length_B.clamp(min=1)[sequence_M])
        case "per_sequence_sum":
            return selected / n_counted
        case "constant":
            return selected / (n_counted * length)
    raise ValueError(f"unknown reduction {reduce!r}; one of {', '.join(REDUCTIONS)}")


def pair_weights(n_pairs: int) -> Tensor:
    """1/P for each pair, [P] float64."""
    return torch.full((n_pairs,), 1.0 / max(n_pairs, 1), dtype=torch.float64)
