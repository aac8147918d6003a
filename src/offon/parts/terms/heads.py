"""Supervised losses of a head: values, and labels of tokens, steps or whole responses. The target is a token signal;
tokens where it is NaN have no target and no weight.

Axes: M tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from offon.maths import heads as maths
from offon.parts.models import SELF, Need
from offon.parts.schedules import Schedule
from offon.parts.select import select
from offon.parts.terms.protocol import Metrics, Reading, Reduce, Scores, Term, per_token
from offon.types.batch import Batch

VALUE, SCORE = Need("value", SELF), Need("score", SELF)
OLD_VALUE = Need("value", SELF, when="buffer")


@dataclass(frozen=True, kw_only=True)
class SquaredError(Term):
    """1/2 (V_t - R_t)^2 of the value head before token t, R the token signal `target`.

    clip: V may not move further than this from what it was when the buffer was filled (PPO); the larger of the two
    errors counts.
    """

    target: str = "return"
    clip: float | None = None
    on: str = "trainable"
    reduce: Reduce = per_token
    coef: Schedule = 1.0
    name: str = "value"

    @property
    def needs(self) -> tuple[Need, ...]:
        return (VALUE,) if self.clip is None else (VALUE, OLD_VALUE)

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({self.target})

    def weigh(self, batch: Batch) -> Tensor:
        return self.reduce.weigh(batch, _with_target(batch, self.on, self.target))

    def units(self, batch: Batch, scores: Scores) -> tuple[Tensor, Metrics]:
        reading = Reading(batch, scores, batch.weights[self.name] != 0)
        value = torch.where(reading.selected, scores[VALUE], 0.0)
        target = _target(batch, self.target).to(value)
        old = value.detach() if self.clip is None else batch.columns[OLD_VALUE.column].detach().to(value)
        loss = maths.clipped_squared_error(value, target, old, torch.inf if self.clip is None else self.clip)
        return loss, {f"{self.name}/mean": reading.total(value), f"{self.name}/target": reading.total(target)}


@dataclass(frozen=True, kw_only=True)
class LabelCrossEntropy(Term):
    """-y log sigmoid(s_t) - (1 - y) log sigmoid(-s_t) of the score head at token t, y in [0, 1] the token signal
    `target`: at the last token of a step its correctness, at the last token of a response whether it is good."""

    target: str = "label"
    on: str = "trainable"
    reduce: Reduce = per_token
    coef: Schedule = 1.0
    name: str = "label"
    needs = (SCORE,)

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({self.target})

    def weigh(self, batch: Batch) -> Tensor:
        return self.reduce.weigh(batch, _with_target(batch, self.on, self.target))

    def units(self, batch: Batch, scores: Scores) -> tuple[Tensor, Metrics]:
        reading = Reading(batch, scores, batch.weights[self.name] != 0)
        score = torch.where(reading.selected, scores[SCORE], 0.0)
        label = _target(batch, self.target).to(score)
        right = ((score > 0) == (label > 0.5)).to(score)
        metrics = {f"{self.name}/accuracy": reading.total(right), f"{self.name}/positive": reading.total(label)}
        return maths.label_cross_entropy(score, label), metrics


def _target(batch: Batch, target: str) -> Tensor:
    """The target of each token, a constant; 0 where there is none, which has no weight (NaN times 0 is NaN)."""
    return batch.columns[target].detach().nan_to_num()


def _with_target(batch: Batch, on: str, target: str) -> Tensor:
    return select(batch, on) & batch.columns[target].isfinite()
