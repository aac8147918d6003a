"""What a contrast compares: one number per sequence.

Axes: M tokens, B sequences.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Literal

from offon.lazy import Tensor
from offon.maths.policy_gradient import sum_by_sequence
from offon.maths.vocabulary import log1mexp
from offon.parts.models import SELF, SELF_START, ModelRef, Need
from offon.parts.terms.factors import LOGP
from offon.parts.terms.protocol import Reading

Normalise = Literal["none", "length"]


class SequenceScore(ABC):
    needs: tuple[Need, ...] = (LOGP,)

    @abstractmethod
    def __call__(self, reading: Reading) -> Tensor:
        """[B], over the selected tokens."""


@dataclass(frozen=True)
class LogProb(SequenceScore):
    """sum_t log pi(y_t), or its mean per token. Reference-free."""

    normalise: Normalise = "none"

    def __call__(self, reading: Reading) -> Tensor:
        return (reading.sum if self.normalise == "none" else reading.mean)(reading[LOGP])


@dataclass(frozen=True)
class LogRatio(SequenceScore):
    """sum_t log pi(y_t) - log pi_to(y_t), or its mean per token."""

    to: ModelRef = SELF_START
    normalise: Normalise = "none"

    @property
    def needs(self) -> tuple[Need, ...]:
        return (LOGP, Need("logp", self.to))

    def __call__(self, reading: Reading) -> Tensor:
        learner, other = (reading[need] for need in self.needs)
        return (reading.sum if self.normalise == "none" else reading.mean)(learner - other)


@dataclass(frozen=True)
class Odds(SequenceScore):
    """log(p / (1 - p)) with log p the mean log-prob per token (ORPO)."""

    def __call__(self, reading: Reading) -> Tensor:
        mean = reading.mean(reading[LOGP])
        return mean - log1mexp(mean)


@dataclass(frozen=True)
class Head(SequenceScore):
    """The score head at the last selected token: a reward model's reading of the whole response."""

    needs = (Need("score", SELF),)

    def __call__(self, reading: Reading) -> Tensor:
        batch, selected = reading.batch, reading.selected
        count_B = sum_by_sequence(selected.long(), batch.sequence, batch.n_sequences)
        last = selected & (selected.cumsum(0) == count_B.cumsum(0)[batch.sequence])
        return replace(reading, selected=last).sum(reading[self.needs[0]])
