"""Supervised losses of a head: values, and labels of tokens, steps or whole responses.

Axes: M tokens.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from offon.lazy import Tensor, torch
from offon.maths import heads as maths
from offon.parts.models import SELF, Need
from offon.parts.schedules import Schedule
from offon.parts.select import select
from offon.parts.terms.protocol import Metrics, Reading, Reduce, Scores, Term, per_token
from offon.types.batch import Batch

VALUE, SCORE = Need("value", SELF), Need("score", SELF)
OLD_VALUE = Need("value", SELF, when="buffer")


@dataclass(frozen=True, kw_only=True)
class Supervised(Term):
    """Base of losses between a head's number, its first need, and the token signal `target`. Tokens where that is NaN
    have no target and no weight."""

    target: str
    on: str = "trainable"
    reduce: Reduce = per_token
    coef: Schedule = 1.0

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({self.target})

    def weigh(self, batch: Batch) -> Tensor:
        return self.reduce.weigh(batch, select(batch, self.on) & batch.columns[self.target].isfinite())

    def units(self, batch: Batch, scores: Scores) -> tuple[Tensor, Metrics]:
        reading = Reading(batch, scores, batch.weights[self.name] != 0)
        number = torch.where(reading.selected, scores[self.needs[0]], 0.0)
        target = batch.columns[self.target].detach().nan_to_num().to(number)  # NaN times a weight of 0 is NaN
        loss, measured = self.against(target, number, batch)
        return loss, {f"{self.name}/{name}": reading.total(value) for name, value in measured.items()}

    @abstractmethod
    def against(self, target_M: Tensor, number_M: Tensor, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss of each token, and what to report of each by name."""


@dataclass(frozen=True, kw_only=True)
class SquaredError(Supervised):
    """1/2 (V_t - R_t)^2 of the value head before token t, R the token signal `target`.

    clip: V may not move further than this from what it was when the buffer was filled (PPO); the larger of the two
    errors counts.
    """

    target: str = "return"
    clip: float | None = None
    name: str = "value"

    @property
    def needs(self) -> tuple[Need, ...]:
        return (VALUE,) if self.clip is None else (VALUE, OLD_VALUE)

    def against(self, target_M: Tensor, number_M: Tensor, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        old = number_M.detach() if self.clip is None else batch.columns[OLD_VALUE.column].detach().to(number_M)
        loss = maths.clipped_squared_error(number_M, target_M, old, torch.inf if self.clip is None else self.clip)
        return loss, {"mean": number_M, "target": target_M}


@dataclass(frozen=True, kw_only=True)
class LabelCrossEntropy(Supervised):
    """-y log sigmoid(s_t) - (1 - y) log sigmoid(-s_t) of the score head at token t, y in [0, 1] the token signal
    `target`: at the last token of a step its correctness, at the last token of a response whether it is good."""

    target: str = "label"
    name: str = "label"
    needs = (SCORE,)

    def against(self, target_M: Tensor, number_M: Tensor, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        right = ((number_M > 0) == (target_M > 0.5)).to(number_M)
        return maths.label_cross_entropy(number_M, target_M), {"accuracy": right, "positive": target_M}
