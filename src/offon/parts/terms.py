"""The terms a learner minimises. Each says which tokens it reads, what it divides by, what it needs scored, and its
atom; the loop binds it to tensors. A term never divides: its weight column, fixed on the whole step batch, does.

Axes: M tokens of a (micro-)batch, P pairs, R tokens with non-zero weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from offon.maths import terms as maths
from offon.maths.weights import pair_weights, token_weights
from offon.parts.models import SELF, SELF_START, ModelRef, Need
from offon.parts.schedules import Schedule
from offon.parts.select import select
from offon.types.batch import PAIRS, Batch

Scores = Mapping[
    Need, Any
]  # logp: Tensor [M]; distribution: an object with .compare(other, function, rows, temperature)
Metrics = dict[str, tuple[float, float]]  # name -> (sum, count); only sums and counts add up over micro-batches


@dataclass(frozen=True)
class Reduce:
    """What a token term divides by, and over which population (see maths.weights).

    over: a selector whose tokens are counted in the denominator; the term's own selection unless written.
    """

    kind: Literal["per_token", "per_sequence", "per_sequence_sum", "constant"]
    length: float | None = None
    over: str | None = None

    def weigh(self, batch: Batch, on: str) -> Tensor:
        population = select(batch, self.over) if self.over else None
        selected = select(batch, on)
        return token_weights(
            selected, batch.sequence, batch.n_sequences, self.kind, length=self.length, population_M=population
        )


per_token = Reduce("per_token")
per_sequence = Reduce("per_sequence")
per_sequence_sum = Reduce("per_sequence_sum")


def constant(length: float, *, over: str | None = None) -> Reduce:
    return Reduce("constant", length=length, over=over)


class Term(Protocol):
    """`units` returns the loss of each unit (token or pair) of a micro-batch; the loop multiplies by the weights."""

    coef: Schedule

    @property
    def name(self) -> str: ...
    @property
    def needs(self) -> tuple[Need, ...]: ...
    @property
    def requires(self) -> frozenset[str]: ...
    def weigh(self, batch: Batch) -> Tensor: ...
    def units(self, batch: Batch, scores: Scores) -> tuple[Tensor, Metrics]: ...


@dataclass(frozen=True)
class Ratio:
    """pi(y) / pi_anchor(y). anchor "behavior": the distribution that was sampled; "proximal": the learner when the
    buffer was filled. level: token, geometric (mean of the log-ratio over a sequence) or sequence (its sum)."""

    anchor: Literal["behavior", "proximal"] = "behavior"
    level: Literal["token", "geometric", "sequence"] = "token"


behavior = Ratio("behavior")
proximal = Ratio("proximal")
PROXIMAL = Need("logp", SELF, when="buffer")


@dataclass(frozen=True)
class Clip:
    """Tokens whose ratio has left [1 - low, 1 + high] in the direction of their advantage stop pushing."""

    low: float = 0.2
    high: float = 0.2


class One:
    """The advantage of a plain demonstration: always written, so that it is never multiplied by a group's."""

    def __repr__(self) -> str:
        return "one"


class Credit:
    """The advantage column that the learner's credit wrote."""

    def __repr__(self) -> str:
        return "credit"


one, credit = One(), Credit()


@dataclass(frozen=True, kw_only=True)
class PolicyGradient:
    """-weight * coefficient * log pi(y_t), with

        coefficient = advantage * gain(log pi) * ratio * [trusted]        (detached)

    SFT is advantage one, gain 1, no ratio. GRPO is advantage credit, ratio behavior, trust Clip.
    """

    advantage: One | Credit
    gain: Callable[[Tensor], Tensor] | None = None
    ratio: Ratio | None = None
    trust: Clip | None = None
    on: str = "trainable"
    reduce: Reduce = per_token
    coef: Schedule = 1.0
    name: str = "policy_gradient"

    @property
    def needs(self) -> tuple[Need, ...]:
        anchor = (PROXIMAL,) if self.ratio and self.ratio.anchor == "proximal" else ()
        return (Need("logp", SELF), *anchor)

    @property
    def requires(self) -> frozenset[str]:
        anchored = {"behavior_logp"} if self.ratio and self.ratio.anchor == "behavior" else set()
        return frozenset(anchored | ({"advantage"} if self.advantage is credit else set()))

    def weigh(self, batch: Batch) -> Tensor:
        return self.reduce.weigh(batch, self.on)

    def units(self, batch: Batch, scores: Scores) -> tuple[Tensor, Metrics]:
        logp = scores[Need("logp", SELF)]
        selected = batch.weights[self.name] != 0
        coefficient = torch.ones_like(logp)
        if self.advantage is credit:
            coefficient = batch.columns["advantage"].to(logp)
        if self.gain is not None:
            coefficient = coefficient * self.gain(logp.detach())
        metrics: Metrics = {}
        if self.advantage is credit:
            metrics["advantage/mean"] = (float(coefficient[selected].sum()), float(selected.sum()))
        if self.ratio is not None:
            anchor = batch.columns["behavior_logp" if self.ratio.anchor == "behavior" else PROXIMAL.column].to(logp)
            ratio = maths.likelihood_ratio(logp, anchor, batch.sequence, batch.n_sequences, self.ratio.level, selected)
            count = float(selected.sum())
            metrics["ratio/mean"] = (float(ratio[selected].sum()), count)
            if self.trust is not None:
                trusted = maths.clip_mask(ratio, coefficient, self.trust.low, self.trust.high)
                metrics["ratio/clip_frac"] = (float((~trusted)[selected].sum()), count)
                ratio = ratio * trusted
            coefficient = coefficient * ratio
        coefficient = torch.where(selected, coefficient, torch.zeros_like(coefficient))
        return maths.policy_gradient(logp, coefficient), metrics


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """link(beta * margin) for each (winner, loser) pair, with

        margin = [S(w) - S_ref(w)] - [S(l) - S_ref(l)],   S(y) = sum of log pi(y_t) over trainable tokens.

    The atom is the pair: both members are always in one micro-batch.
    """

    link: Callable[[Tensor], Tensor] = maths.logistic
    beta: float = 0.1
    reference: ModelRef = SELF_START
    coef: Schedule = 1.0
    name: str = PAIRS + "contrast"

    @property
    def needs(self) -> tuple[Need, ...]:
        return (Need("logp", SELF), Need("logp", self.reference))

    requires = frozenset({"comparisons"})

    def weigh(self, batch: Batch) -> Tensor:
        return pair_weights(len(batch.pairs))

    def units(self, batch: Batch, scores: Scores) -> tuple[Tensor, Metrics]:
        trainable = select(batch, "trainable")
        log_ratio_M = scores[Need("logp", SELF)] - scores[Need("logp", self.reference)]
        log_ratio_B = maths.sum_by_sequence(
            torch.where(trainable, log_ratio_M, torch.zeros_like(log_ratio_M)), batch.sequence, batch.n_sequences
        )
        winner, loser = log_ratio_B[batch.pairs[:, 0]], log_ratio_B[batch.pairs[:, 1]]
        margin = self.beta * (winner - loser)
        count = float(len(margin))
        metrics: Metrics = {
            "rewards/chosen": (float(self.beta * winner.detach().sum()), count),
            "rewards/rejected": (float(self.beta * loser.detach().sum()), count),
            "rewards/margins": (float(margin.detach().sum()), count),
            "rewards/accuracies": (float((margin > 0).sum() + 0.5 * (margin == 0).sum()), count),
        }
        return self.link(margin), metrics
