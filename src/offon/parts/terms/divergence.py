"""Divergences between the learner and a teacher, position by position. Distributions cross the boundary as hidden
states and the head that reads them: [tokens, vocabulary] never exists.

Axes: M tokens of a (micro-)batch, R tokens with non-zero weight, V vocabulary, K chosen ids. p student, q teacher.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from offon.errors import ConfigError
from offon.lazy import Tensor
from offon.maths import vocabulary
from offon.parts.models import SELF, ModelRef, Need
from offon.parts.schedules import Schedule
from offon.parts.terms import Factor, Metrics, Reading, Reduce, Scores, Term, per_token
from offon.types.batch import Batch


@dataclass(frozen=True)
class Jsd:
    """beta KL(q || m) + (1 - beta) KL(p || m), m = beta q + (1 - beta) p."""

    beta: float

    def __str__(self) -> str:
        return "jsd"


@dataclass(frozen=True)
class Skew:
    """A KL to a mixture that contains its own first argument: forward KL(q || a q + (1 - a) p), or reverse."""

    alpha: float
    of: Literal["forward", "reverse"] = "forward"

    def __str__(self) -> str:
        return f"skew_{self.of}"


Kind = Literal["forward", "reverse"] | Jsd | Skew


def jsd(beta: float) -> Kind:
    """The generalised Jensen-Shannon divergence, with GKD's convention at its ends: 0 is the forward KL, 1 the reverse.

    The divergence itself tends to 0 at both ends, so there the scale jumps: beta = 0.01 trains a hundred times more
    slowly than beta = 0.
    """
    return {0: "forward", 1: "reverse"}.get(beta) or Jsd(beta)


@dataclass(frozen=True)
class TopK:
    """Compare on the K likeliest ids of one of the two: the teacher's suit the forward KL, the student's the reverse.

    rest: what is done about all other ids: "tail" (one bucket), "renormalised" or "raw"; see maths.vocabulary.restrict.
    """

    k: int
    of: Literal["teacher", "student"] = "teacher"
    rest: Literal["tail", "renormalised", "raw"] = "tail"

    def __call__(self, log_p_RV: Tensor, log_q_RV: Tensor) -> tuple[Tensor, Tensor]:
        chosen_from = log_q_RV if self.of == "teacher" else log_p_RV.detach()
        ids_RK = chosen_from.topk(min(self.k, chosen_from.shape[-1]), sorted=False).indices
        return vocabulary.restrict(log_p_RV, ids_RK, self.rest), vocabulary.restrict(log_q_RV, ids_RK, self.rest)


@dataclass(frozen=True, kw_only=True)
class Divergence(Term):
    """factor * D(student, teacher) at each selected position, over the whole vocabulary or `support`. Teacher, factor
    and prefixes are not differentiated.

    kind: forward KL(q || p), reverse KL(p || q), Jsd(beta) or Skew(alpha). `view` is the prefix the teacher reads (a
    context the student does not have).
    temperature: both are softmax(logits / T). None: T is the temperature that sampled the tokens, which is part of the
    policy (1 for tokens that others wrote). A number: T softens both, and D is multiplied by T^2, which keeps the
    gradient's scale (Hinton et al. 2015, arXiv:1503.02531).
    """

    to: ModelRef
    kind: Kind = "forward"
    support: TopK | None = None
    temperature: float | None = None
    view: str = "train"
    factor: Factor | None = None
    on: str = "trainable"
    reduce: Reduce = per_token
    coef: Schedule = 1.0
    name: str = "divergence"

    @property
    def needs(self) -> tuple[Need, ...]:
        factor = () if self.factor is None else (Need("logp", SELF), *self.factor.needs)
        return (Need("distribution", SELF), Need("distribution", self.to, view=self.view), *dict.fromkeys(factor))

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"members"}) | (self.factor.requires if self.factor else frozenset())

    def weigh(self, batch: Batch) -> Tensor:
        return self.reduce.weigh(batch, self.on)

    def units(self, batch: Batch, scores: Scores) -> tuple[Tensor, Metrics]:
        student, teacher = (scores[need] for need in self.needs[:2])
        rows = (batch.weights[self.name] != 0).nonzero()[:, 0]
        sampled_at = batch.temperature[batch.sequence][rows]
        temperature = sampled_at if self.temperature is None else sampled_at.new_full(rows.shape, self.temperature)
        distance_R = student.compare(teacher, self.distance, rows, temperature)
        nats = {f"{self.name}/{self.kind}_nats": (float(distance_R.detach().sum()), float(len(rows)))}
        if self.temperature is not None:
            distance_R = self.temperature**2 * distance_R
        distance_M = distance_R.new_zeros(batch.n_tokens).index_copy(0, rows.to(distance_R.device), distance_R)
        if self.factor is not None:
            reading = Reading(batch, scores, batch.weights[self.name] != 0)
            distance_M = distance_M * self.factor(reading).detach().to(distance_M)
            nats |= self.factor.measure(reading)
        return distance_M, nats

    def distance(self, log_p_RV: Tensor, log_q_RV: Tensor) -> Tensor:
        if self.support is not None:
            log_p_RV, log_q_RV = self.support(log_p_RV, log_q_RV)
        match self.kind:
            case "forward":
                return vocabulary.forward_kl(log_p_RV, log_q_RV)
            case "reverse":
                return vocabulary.reverse_kl(log_p_RV, log_q_RV)
            case Jsd(beta):
                return vocabulary.generalised_jsd(log_p_RV, log_q_RV, beta)
            case Skew(alpha, "forward"):
                return vocabulary.skew_forward_kl(log_p_RV, log_q_RV, alpha)
            case Skew(alpha, "reverse"):
                return vocabulary.skew_reverse_kl(log_p_RV, log_q_RV, alpha)
        raise ConfigError(f"unknown divergence {self.kind!r}", fix='"forward", "reverse", Jsd(beta) or Skew(alpha, of)')


@dataclass(frozen=True, kw_only=True)
class NegativeEntropy(Term):
    """-H(p) of the whole next-token distribution at each selected position: minimised, it keeps the learner undecided.
    Up to log V it is the reverse KL to the uniform distribution. Prefixes are not differentiated."""

    on: str = "trainable"
    reduce: Reduce = per_token
    coef: Schedule = 1.0
    name: str = "entropy"
    needs = (Need("distribution", SELF),)
    requires = frozenset({"members"})

    def weigh(self, batch: Batch) -> Tensor:
        return self.reduce.weigh(batch, self.on)

    def units(self, batch: Batch, scores: Scores) -> tuple[Tensor, Metrics]:
        rows = (batch.weights[self.name] != 0).nonzero()[:, 0]
        entropy_R = scores[self.needs[0]].measure(vocabulary.entropy, rows, batch.temperature[batch.sequence][rows])
        entropy_M = entropy_R.new_zeros(batch.n_tokens).index_copy(0, rows.to(entropy_R.device), entropy_R)
        return -entropy_M, {f"{self.name}/nats": (float(entropy_R.detach().sum()), float(len(rows)))}
