"""What every term is: the tokens it reads, what it divides by, what it needs scored, and its unit.

A term never divides: its weight column, fixed on the whole step batch, does.

Axes: M tokens of a (micro-)batch, B sequences.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from offon.lazy import Tensor, torch
from offon.maths.policy_gradient import sum_by_sequence
from offon.maths.weights import token_weights
from offon.parts.models import Need
from offon.parts.schedules import Schedule
from offon.parts.select import select
from offon.types.batch import Batch, Unit

# logp, entropy, value, score: Tensor [M]; logp_at: [M, K]; distribution: an object with .compare(...)
Scores = Mapping[Need, Any]
Metrics = dict[str, tuple[float, float]]  # name -> (sum, count); only sums and counts add up over micro-batches


class Term(ABC):
    """`units` returns the loss of each unit (token, sequence, pair or group) of a micro-batch; the loop multiplies by
    the weights and adds up. `prepare` runs once on the whole step batch, without gradient, before it is split: what a
    term reads of the batch as a whole (a mean, a quantile) it leaves there as columns, constants or weights. It sees
    the scores of the needs with when="step"."""

    coef: Schedule
    name: str
    unit: Unit = "token"

    @property
    def needs(self) -> tuple[Need, ...]:
        return ()

    @property
    def requires(self) -> frozenset[str]:
        return frozenset()

    @abstractmethod
    def weigh(self, batch: Batch) -> Tensor:
        """The weight of each unit on the whole step batch."""

    def prepare(self, batch: Batch, scores: Scores) -> Batch:
        return batch

    @abstractmethod
    def units(self, batch: Batch, scores: Scores) -> tuple[Tensor, Metrics]:
        """The loss of each unit, and what to report."""


@dataclass(frozen=True)
class Reading:
    """What the slots of a term may read: a batch, its scores, and which tokens are meant."""

    batch: Batch
    scores: Scores
    selected: Tensor  # [M] bool

    def __getitem__(self, need: Need) -> Tensor:
        """A score, wherever it was computed: with the buffer it is a column, else it came with the (micro-)batch."""
        return self.scores[need] if need.when != "buffer" else self.batch.columns[need.column]

    def sum(self, value_M: Tensor) -> Tensor:
        """[B]: over the selected tokens of each sequence."""
        kept = torch.where(self.selected, value_M, torch.zeros_like(value_M))
        return sum_by_sequence(kept, self.batch.sequence, self.batch.n_sequences)

    def mean(self, value_M: Tensor) -> Tensor:
        """[B]: over the selected tokens of each sequence; 0 where there are none. The length is data, not a weight."""
        return self.sum(value_M) / self.sum(torch.ones_like(value_M)).clamp(min=1)

    def total(self, value_M: Tensor) -> tuple[float, float]:
        """A metric: the sum over selected tokens, and their count."""
        return float(value_M.detach()[self.selected].sum()), float(self.selected.sum())


class Formula(NamedTuple):
    """A factor of a coefficient as pages write it, and what its symbols mean, a line each."""

    factor: str
    meaning: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reduce:
    """What a token term divides by, and over which population (see maths.weights).

    over: a selector whose tokens are counted in the denominator; the term's own selection unless written.
    """

    kind: Literal["per_token", "per_sequence", "per_sequence_sum", "constant", "per_prompt"]
    length: float | None = None
    over: str | None = None

    @property
    def formula(self) -> str:
        """The sums as pages write them: M tokens, N responses, P prompts, G_p responses of a prompt."""
        match self.kind:
            case "per_token":
                return "1/M sum_t"
            case "per_sequence":
                return "1/N sum_i 1/|y_i| sum_t"
            case "per_sequence_sum":
                return "1/N sum_i sum_t"
            case "constant":
                return f"1/N sum_i 1/{self.length:g} sum_t"
            case "per_prompt":
                return f"1/P sum_p 1/G_p sum_i 1/{self.length:g} sum_t"

    def weigh(self, batch: Batch, on: str | Tensor) -> Tensor:
        """on: a selector, or the tokens themselves [M]."""
        selected = select(batch, on) if isinstance(on, str) else on
        population = select(batch, self.over) if self.over else None
        return token_weights(
            selected, batch.sequence, batch.n_sequences, self.kind, length=self.length, population_M=population,
            group_B=batch.group,
        )  # fmt: skip


per_token = Reduce("per_token")
per_sequence = Reduce("per_sequence")
per_sequence_sum = Reduce("per_sequence_sum")


def constant(length: float, *, over: str | None = None) -> Reduce:
    return Reduce("constant", length=length, over=over)


def per_prompt(length: float, *, over: str | None = None) -> Reduce:
    return Reduce("per_prompt", length=length, over=over)
