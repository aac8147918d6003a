"""Data parallel, all of it: every process holds the whole step batch with its weights, computes its share of the
micro-batches, and gradients are summed. Weights were fixed on the whole batch, so the sum is what one process computes.

Nothing happens here unless torch.distributed is initialised.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import distributed, nn

from offon.types.batch import Batch


def rank_and_size() -> tuple[int, int]:
    running = distributed.is_available() and distributed.is_initialized()
    return (distributed.get_rank(), distributed.get_world_size()) if running else (0, 1)


def share(batch: Batch, max_tokens: int | None) -> list[Batch]:
    """The micro-batches that this process computes: every size-th, of at most the tokens that an even share has."""
    rank, size = rank_and_size()
    if size > 1:
        even = -(-batch.n_tokens // size)
        max_tokens = even if max_tokens is None else min(max_tokens, even)
    return batch.split(max_tokens)[rank::size]


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Each gradient becomes the sum over processes. A parameter that no process reached has none, as in one process."""
    _, size = rank_and_size()
    if size == 1:
        return
    parameters = list(parameters)
    reached = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
    distributed.all_reduce(reached)
    for parameter, count in zip(parameters, reached.tolist(), strict=True):
        if count:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            distributed.all_reduce(parameter.grad)


def sum_metrics(metrics: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """(sum, count) pairs added up over processes."""
    _, size = rank_and_size()
    everyone: list[dict[str, tuple[float, float]]] = [metrics] * size
    if size > 1:
        distributed.all_gather_object(everyone, metrics)
    total: dict[str, tuple[float, float]] = {}
    for one in everyone:
        add(total, one)
    return total


def add(total: dict[str, tuple[float, float]], more: dict[str, tuple[float, float]]) -> None:
    for name, (value, count) in more.items():
        before = total.get(name, (0.0, 0.0))
        total[name] = (before[0] + value, before[1] + count)
