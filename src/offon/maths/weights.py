"""The one home of the denominator.

With l the per-token loss, N selected sequences and m the selection mask:

    per_token             sum m l / sum m
    per_sequence          1/N sum_i [ sum_t m l / sum_t m ]
    per_sequence_sum      1/N sum_i sum_t m l
    constant(L)           1/N sum_i sum_t m l / L
    per_prompt(L)         1/P sum over prompts of 1/N_p sum over its sequences of sum_t m l / L
    per_pair              1/P sum over pairs (or sequences, or groups: any unit that is not a token)
    per_prompt            1/N over the prompts that have pairs, of the mean over a prompt's pairs

Counts are taken once, on the whole optimizer-step batch, before packing and micro-batches. What follows is a plain
weighted sum, so no split of the batch can change the gradient. A sequence whose mask is empty is not counted.

Axes: M tokens, B sequences, U units of any kind.
"""

from __future__ import annotations

from offon.lazy import Tensor, torch

REDUCTIONS = ("per_token", "per_sequence", "per_sequence_sum", "constant", "per_prompt")


def token_weights(
    selected_M: Tensor,
    sequence_M: Tensor,
    n_sequences: int,
    reduce: str,
    *,
    length: float | None = None,
    population_M: Tensor | None = None,
    group_B: Tensor | None = None,
) -> Tensor:
    """One weight per token, [M] float64; 0 where not selected. Their weighted sum is the reduction named.

    population_M: the tokens whose counts form the denominator; the selection itself unless given (LUFFY divides by
    all trained tokens while summing over some). group_B: the prompt of each sequence, for per_prompt.
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
        case "per_prompt":
            size_G = torch.zeros(int(group_B.max()) + 1, dtype=torch.float64)
            size_G = size_G.index_add(0, group_B, (length_B > 0).to(torch.float64))
            return selected / ((size_G > 0).sum() * size_G.clamp(min=1)[group_B[sequence_M]] * length)
    raise ValueError(f"unknown reduction {reduce!r}; one of {', '.join(REDUCTIONS)}")


def equal_weights(counted: Tensor) -> Tensor:
    """1/N for each of the N units counted, 0 for the others: [U] bool -> [U] float64."""
    counted = counted.to(torch.float64)
    return counted / counted.sum().clamp(min=1)


def weights_within(group_U: Tensor, n_groups: int) -> Tensor:
    """1/N of the N groups that have units, shared equally by the units of each (per_prompt). [U] float64."""
    size_G = torch.zeros(n_groups, dtype=torch.float64).index_add(
        0, group_U, torch.ones_like(group_U, dtype=torch.float64)
    )
    return 1 / (size_G[group_U] * (size_G > 0).sum())
