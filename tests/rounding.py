"""Which rounding a comparison allows. Whoever compares floating-point results names it: kernels (instruction sets,
threads, BLAS) sum in other orders, so the last bits differ from one machine to the next.

    FLOAT64        float64 arithmetic, both sides from the same numbers
    FLOAT64_SUM    the same, where hundreds of terms are added, or nearly equal ones subtracted
    STORED         float64 arithmetic on numbers that one side kept in float32 (advantages, behaviour log-probs); also a
                   handful of float32 operations on equal numbers
    FLOAT32        float32 arithmetic of a tiny model: its scores or gradients computed in two ways (packed and padded,
                   whole and in micro-batches, cached and plain)
    FLOAT32_SUM    sums, differences and quotients of such scores: log-probs of responses, whitened advantages
    SLOPE          the slope of a float64 loss by finite differences: (L(s + h) - L(s - h)) / 2h with h = 1e-5 loses
                   EPS64 / h = 2e-11 of L to rounding and h^2 of its third derivative

Each is a multiple of the machine's epsilon, at least ten times the worst error seen over kernels (ATen's default, AVX2
and AVX512; MKL and oneDNN held to SSE4 and AVX2; one and two threads).

As `rel` or `rtol` it is a share of each number. As `abs` or `atol` it is meant for numbers of order one: probabilities,
log-probs of a few nats, advantages. Where the result is a small difference of large numbers, its own size says nothing
about its error: `close` judges a whole tensor by its largest number, or by the parts given as `of`.

What is no rounding is written where it is used: bands of Monte-Carlo error (so many standard deviations, or a share
seen in so many draws), the digits that a paper or a docstring prints, pixels of a figure, the accuracy of an iterative
solver, and how far a limit is from being reached. `pytest.approx` and `allclose` without a number (relative 1e-6 and
1e-5) compare float64 results, and float32 results of a single operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

EPS64 = float(np.finfo(np.float64).eps)  # 2.2e-16
EPS32 = float(np.finfo(np.float32).eps)  # 1.2e-7

FLOAT64 = 2**12 * EPS64  # 9.1e-13
FLOAT64_SUM = 2**22 * EPS64  # 9.3e-10
STORED = 2**3 * EPS32  # 9.5e-7
FLOAT32 = 2**7 * EPS32  # 1.5e-5
FLOAT32_SUM = 2**10 * EPS32  # 1.2e-4
SLOPE = 1e-6


@dataclass(frozen=True)
class Comparison:
    """True where the error is allowed; a failing assertion shows the numbers."""

    error: float
    allowed: float

    def __bool__(self) -> bool:
        return self.error <= self.allowed


def close(found: Any, expected: Any, rounding: float, *, of: Any = None) -> Comparison:
    """Whether tensors, arrays or numbers agree to a share of the largest number among `of` (by default `expected`):
    max |found - expected| <= rounding max |of|.

    of: the parts of a sum that nearly cancels, one array or a sequence of them.
    """
    found, expected = in_float64(found), in_float64(expected)
    assert found.shape == expected.shape, f"shapes {found.shape} and {expected.shape}"
    error = np.abs(found - expected).max(initial=0.0)
    return Comparison(float(error), rounding * largest(expected if of is None else of))


def largest(parts: Any) -> float:
    if isinstance(parts, Sequence):
        return max(map(largest, parts), default=0.0)
    return float(np.abs(in_float64(parts)).max(initial=0.0))


def in_float64(numbers: Any) -> np.ndarray:
    if isinstance(numbers, torch.Tensor):
        return numbers.detach().double().cpu().numpy()
    return np.asarray(numbers, dtype=np.float64)
