"""Terms of sequence scores within a group: a link of a margin between the members of a pair.

Axes: P pairs, B sequences, M tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from offon.maths import links
from offon.maths.weights import equal_weights, weights_within
from offon.parts.models import Need
from offon.parts.schedules import Schedule
from offon.parts.select import select
from offon.parts.terms.protocol import Metrics, Reading, Scores, Term
from offon.parts.terms.scores import LogRatio, SequenceScore
from offon.types.batch import Batch


class Link(ABC):
    @abstractmethod
    def __call__(self, margin_P: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Logistic(Link):
    """-log sigmoid(h); smoothing e: -(1 - e) log sigmoid(h) - e log sigmoid(-h)."""

    smoothing: float = 0.0

    def __call__(self, margin_P: Tensor) -> Tensor:
        return links.logistic(margin_P, self.smoothing)


@dataclass(frozen=True)
class Robust(Link):
    """The logistic link, unbiased where a share `flipped` of the labels is wrong."""

    flipped: float

    def __call__(self, margin_P: Tensor) -> Tensor:
        return links.robust(margin_P, self.flipped)


@dataclass(frozen=True)
class Square(Link):
    """(h - target)^2"""

    target: float = 1.0

    def __call__(self, margin_P: Tensor) -> Tensor:
        return links.square(margin_P, self.target)


@dataclass(frozen=True)
class Hinge(Link):
    """max(0, delta - h)"""

    delta: float = 1.0

    def __call__(self, margin_P: Tensor) -> Tensor:
        return links.hinge(margin_P, self.delta)


@dataclass(frozen=True)
class TruncatedSquare(Link):
    """max(0, 1 - h)^2"""

    def __call__(self, margin_P: Tensor) -> Tensor:
        return links.truncated_square(margin_P)


@dataclass(frozen=True)
class Exponential(Link):
    """exp(-h)"""

    def __call__(self, margin_P: Tensor) -> Tensor:
        return links.exponential(margin_P)


@dataclass(frozen=True)
class Savage(Link):
    """1 / (1 + e^h)^2"""

    def __call__(self, margin_P: Tensor) -> Tensor:
        return links.savage(margin_P)


@dataclass(frozen=True, kw_only=True)
class Contrast(Term):
    """link(h) for each (winner, loser) pair, with h = beta * (score(winner) - score(loser)) - margin.

    DPO is the score LogRatio and the link Logistic. The unit is the pair: both members are always in one micro-batch.

    margin  a number, or "data": each comparison's own (0 where it has none)
    of      "sum" adds the two scores instead (a reward model's centring: Square(0) of r_w + r_l)
    reduce  per_pair: 1/P; per_prompt: the mean over prompts of the mean over a prompt's pairs (InstructGPT's 1/C(K,2))
    """

    score: SequenceScore = LogRatio()
    link: Link = Logistic()
    beta: float = 0.1
    margin: float | Literal["data"] = 0.0
    of: Literal["difference", "sum"] = "difference"
    on: str = "trainable"
    reduce: Literal["per_pair", "per_prompt"] = "per_pair"
    coef: Schedule = 1.0
    name: str = "contrast"

    unit = "pair"
    requires = frozenset({"comparisons"})

    @property
    def needs(self) -> tuple[Need, ...]:
        return self.score.needs

    def weigh(self, batch: Batch) -> Tensor:
        group = batch.group[batch.pairs[:, 0]]
        return equal_weights(group >= 0) if self.reduce == "per_pair" else weights_within(group, batch.n_groups)

    def units(self, batch: Batch, scores: Scores) -> tuple[Tensor, Metrics]:
        score_B = self.beta * self.score(Reading(batch, scores, select(batch, self.on)))
        winner, loser = score_B[batch.pairs[:, 0]], score_B[batch.pairs[:, 1]]
        h = winner - loser if self.of == "difference" else winner + loser
        better = (winner - loser).detach()
        count = float(len(h))
        metrics: Metrics = {
            "rewards/chosen": (float(winner.detach().sum()), count),
            "rewards/rejected": (float(loser.detach().sum()), count),
            "rewards/margins": (float(better.sum()), count),
            "rewards/accuracies": (float((better > 0).sum() + 0.5 * (better == 0).sum()), count),
        }
        return self.link(h - (batch.margins.to(h) if self.margin == "data" else self.margin)), metrics
