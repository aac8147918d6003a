"""What a collector may use: four members, and no more. Credit and terms never see it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from offon.parts.models import ModelRef, Need
from offon.types import Group, Sampling, Trajectory
from offon.types.trajectory import Tokens


@dataclass(frozen=True)
class Prompted:
    """A request to sample one response: the prefix to continue, how, and the key of its randomness.

    begun: how many tokens at the end of the prefix are the beginning of the response; the text of what comes back
    includes them, its tokens do not.
    """

    prefix: Tokens
    sampling: Sampling
    key: tuple[int, ...]
    begun: int = 0


@dataclass(frozen=True)
class Step:
    """Where a stage is, and its counter-based randomness: the same (seed, node, key) always gives the same number."""

    index: int
    steps: int
    seed: int
    node: str

    def key(self, *parts: int) -> tuple[int, ...]:
        """A key for a sampler: unique to this seed, node and parts (draw, member)."""
        return (self.seed, _digest(self.node), *parts)

    def uniform(self, *parts: int) -> float:
        return float(np.random.Generator(np.random.Philox(_digest(self.key(*parts)))).random())


@dataclass(frozen=True)
class Context:
    """generate: sample responses with a model; score: add log-probs under a model as token signals;
    memory: trajectories this run generated before (a query over the ledger); step: where we are, and randomness."""

    generate: Callable[[Sequence[Prompted], ModelRef], list[Trajectory]]
    score: Callable[[Sequence[Group], Need], list[Group]]
    memory: Callable[[str], list[Trajectory]]
    step: Step


Seed = int | tuple[int, ...]


def _digest(value: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(value).encode()).digest()[:8], "little")


def permuted(n: int, seed: Seed, draw: int) -> int:
    """The index of draw k in the data order: a fresh permutation of n for every pass, a pure function of (seed, k)."""
    epoch, position = divmod(draw, n)
    return int(_permutation(n, seed, epoch)[position])


_PERMUTATIONS: dict[tuple[int, Seed, int], np.ndarray] = {}


def _permutation(n: int, seed: Seed, epoch: int) -> np.ndarray:
    key = (n, seed, epoch)
    if key not in _PERMUTATIONS:
        _PERMUTATIONS.clear()
        _PERMUTATIONS[key] = np.random.Generator(np.random.Philox(_digest(key))).permutation(n)
    return _PERMUTATIONS[key]
