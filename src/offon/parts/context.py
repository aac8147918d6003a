"""What a collector may use: four members, and no more. Credit and terms never see it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from offon.parts.models import ModelRef, Need
from offon.types import Group, Sampling, Source, Trajectory
from offon.types.trajectory import Tokens


@dataclass(frozen=True)
class Prompted:
    """A request to sample one response: the prefix to continue, how, and the key of its randomness.

    begun: the response so far (a demonstration's beginning, an earlier attempt and the turn after it). What is sampled
    follows it in one trajectory, which keeps the source, the log-probs and the spans of every token of it.
    """

    prefix: Tokens
    sampling: Sampling
    key: tuple[int, ...]
    begun: Trajectory | None = None

    @property
    def seen(self) -> Tokens:
        """All that the sampler sees."""
        return self.prefix if self.begun is None else (*self.prefix, *self.begun.tokens.tolist())

    def answered(self, tokens: Sequence[int], source: Source, behavior_logp: Sequence[float]) -> Trajectory:
        """The trajectory of what was begun and of these tokens after it."""
        if self.begun is None:
            return Trajectory.of(tokens, self.prefix, source, behavior_logp=behavior_logp)
        begun = self.begun.replace(views={**self.begun.views, "sample": self.prefix})
        return begun.then(tokens, source, behavior_logp=behavior_logp)


def _no_more(n: int) -> list[Group]:
    return []


@dataclass(frozen=True)
class Step:
    """Where a stage is, and its counter-based randomness: the same (seed, node, key) always gives the same number.

    more    the next n prompts of the data order; how many were drawn is part of a checkpoint
    render  prompts and turns as tokens, with the learner's tokenizer and chat template (`data.Renderer`)
    """

    index: int
    steps: int
    seed: int
    node: str
    more: Callable[[int], list[Group]] = field(default=_no_more, compare=False)
    render: Any = field(default=None, compare=False)

    def key(self, *parts: int) -> tuple[int, ...]:
        """A key for a sampler: unique to this seed, node and parts (draw, member)."""
        return (self.seed, _digest(self.node), *parts)

    def id(self, draw: int, member: int) -> str:
        """The name of a trajectory in the ledger: that of the sampler's key it has or would have."""
        return f"{self.node}/{draw}/{member}"

    def random(self, *parts: int | str) -> np.random.Generator:
        """A generator that is a pure function of (seed, node, parts)."""
        return np.random.Generator(np.random.Philox(_digest((self.seed, _digest(self.node), *parts))))

    def uniform(self, *parts: int | str) -> float:
        return float(self.random(*parts).random())


class Remembers(Protocol):
    """What this stage generated before, up to the last buffer, as the ledger has it."""

    def __call__(self, where: str) -> list[Group]:
        """Trajectories that satisfy an SQL condition over `trajectories`, in their groups, as members."""
        ...

    def ask(self, sql: str) -> list[dict[str, Any]]:
        """The rows of a SELECT, for what needs counts and not tokens."""
        ...


@dataclass(frozen=True)
class Context:
    """generate: sample responses with a model; score: add log-probs under a model as token signals;
    memory: trajectories this run generated before (a query over the ledger); step: where we are, and randomness;
    judged: takes one reason for each response that was to be scored, None where it was; it may end the stage."""

    generate: Callable[[Sequence[Prompted], ModelRef], list[Trajectory]]
    score: Callable[[Sequence[Group], Need], list[Group]]
    memory: Remembers
    step: Step
    judged: Callable[[Sequence[str | None]], None] = lambda reasons: None


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
