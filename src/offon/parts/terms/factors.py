"""Factors: detached numbers that a policy gradient computes from the current scores. What a method weighs a token by.

Axes: M tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from offon.lazy import Tensor, torch
from offon.maths import policy_gradient as maths
from offon.parts.models import SELF, SELF_START, ModelRef, Need
from offon.parts.terms.protocol import Formula, Metrics, Reading
from offon.parts.terms.ratio import Ratio, behavior

LOGP = Need("logp", SELF)


class Factor(ABC):
    @property
    def needs(self) -> tuple[Need, ...]:
        return ()

    @property
    def requires(self) -> frozenset[str]:
        return frozenset()

    @property
    def formula(self) -> Formula:
        return Formula("f_t", (f"f_t as {type(self).__name__} says",))

    @abstractmethod
    def __call__(self, reading: Reading) -> Tensor:
        """The factor on each token, [M], detached by the term."""

    def measure(self, reading: Reading) -> Metrics:
        return {}


@dataclass(frozen=True)
class PowerOfP(Factor):
    """p^a: the gradient of -(1 - p^a) / a. a = 0 is likelihood, a = 1 is DFT. arXiv:2510.00526.

    at_least, at_most: only tokens whose probability is at least / at most this push (the count stays).
    """

    a: float = 1.0
    at_least: float = 0.0
    at_most: float = 1.0

    @property
    def formula(self) -> Formula:
        bounds = self.at_least > 0 or self.at_most < 1
        pushing = (f"keep_t = [{self.at_least:g} <= p_t <= {self.at_most:g}]",) if bounds else ()
        power = "p_t" if self.a == 1 else f"p_t^{self.a:g}"
        return Formula(f"keep_t {power}" if bounds else power, (*pushing, "p_t = pi(y_t)"))

    def __call__(self, reading: Reading) -> Tensor:
        logp = reading[LOGP].detach()
        p = logp.exp()
        return (self.a * logp).exp() * ((p >= self.at_least) & (p <= self.at_most))


def P() -> PowerOfP:
    """p, the token's probability: DFT, or an expert's token whose sampler is unknown (denominator 1)."""
    return PowerOfP(1.0)


@dataclass(frozen=True)
class Uncertainty(Factor):
    """p (1 - p): largest at p = 1/2, nothing for what is known or out of reach (CHORD-phi, arXiv:2508.11408)."""

    formula = Formula("p_t (1 - p_t)", ("p_t = pi(y_t)",))

    def __call__(self, reading: Reading) -> Tensor:
        p = reading[LOGP].detach().exp()
        return p * (1 - p)


@dataclass(frozen=True)
class Shaped(Factor):
    """p gamma / (p + gamma)^2, the weight of f(p) = p / (p + gamma): peaks at p = gamma with 1/4 (LUFFY,
    arXiv:2504.14945)."""

    gamma: float = 0.1

    @property
    def formula(self) -> Formula:
        return Formula("w_t", (f"w_t = {self.gamma:g} p_t / (p_t + {self.gamma:g})^2, p_t = pi(y_t)",))

    def __call__(self, reading: Reading) -> Tensor:
        return maths.shaped(reading[LOGP].detach().exp(), self.gamma)


@dataclass(frozen=True)
class EntropyWeight(Factor):
    """scale * exp(power * H), H the mean entropy of the sequence's selected tokens in nats (SRFT, arXiv:2506.19767)."""

    scale: float = 1.0
    power: float = -1.0
    needs = (Need("entropy", SELF),)

    @property
    def formula(self) -> Formula:
        return Formula("h_i", (f"h_i = {self.scale:g} exp({self.power:g} H_i), H_i the mean entropy of y_i",))

    def __call__(self, reading: Reading) -> Tensor:
        mean = reading.mean(reading[self.needs[0]])
        return self.scale * (self.power * mean).exp()[reading.batch.sequence]


@dataclass(frozen=True)
class ImportanceWeight(Factor):
    """clip(exp(power * mean_t(lp_t - lp_t^to)), low, high): how much likelier the learner has made a sequence, against
    a frozen model. level token: of each token by itself; geometric: the mean keeps it bounded, the sum explodes."""

    to: ModelRef = SELF_START
    power: float = 1.0
    low: float = 0.0
    high: float = 16.0
    level: Literal["token", "geometric"] = "geometric"

    @property
    def needs(self) -> tuple[Need, ...]:
        return (Need("logp", self.to),)

    @property
    def formula(self) -> Formula:
        mean, to = ("mean_t " if self.level == "geometric" else ""), self.to
        log_ratio = f"{mean}(log pi(y_t) - log pi_{to}(y_t))"
        return Formula("v_t", (f"v_t = clip(exp({self.power:g} {log_ratio}), {self.low:g}, {self.high:g})",))

    def __call__(self, reading: Reading) -> Tensor:
        d = (reading[LOGP] - reading[self.needs[0]]).detach()
        d = d if self.level == "token" else reading.mean(d)[reading.batch.sequence]
        bound = maths.LOG_RATIO_BOUND
        return (self.power * d).clamp(-bound, bound).exp().clamp(self.low, self.high)

    def measure(self, reading: Reading) -> Metrics:
        return {"gain/importance_weight": reading.total(self(reading))}


@dataclass(frozen=True)
class Likelier(Factor):
    """min(exp(lp_t - lp_t^anchor), cap): how much likelier the learner has made a token since it was sampled. For terms
    without a ratio of their own (a divergence on samples that age; SDPO, arXiv:2601.20802)."""

    cap: float = 2.0
    ratio: Ratio = behavior

    @property
    def needs(self) -> tuple[Need, ...]:
        return self.ratio.needs

    @property
    def requires(self) -> frozenset[str]:
        return self.ratio.requires

    @property
    def formula(self) -> Formula:
        return Formula("v_t", (f"v_t = min({self.ratio.symbol}, {self.cap:g})", *self.ratio.formula.meaning))

    def __call__(self, reading: Reading) -> Tensor:
        ratio, _ = self.ratio(reading, reading[LOGP], torch.ones_like(reading[LOGP]))
        return ratio.clamp(max=self.cap)


@dataclass(frozen=True)
class Kl(Factor):
    """The gradient of a KL estimator as a loss: minus its derivative by lp. With d = lp - lp^to,

        k1 = d          k2 = d^2 / 2        k3 = e^-d - 1 + d

    Expected gradient on the learner's own samples: k1 none at all, k2 reverse KL(pi || to), k3 *forward* KL(to || pi),
    each per position. over: the estimator times the ratio exp(lp - anchor), both differentiated:

        d(ratio * k)/dlp = ratio * (k + dk/dd),     for k3 ratio * d, for k1 ratio * (d + 1)

    which is the reverse KL for k1 and k3, also when the samples are old. Used as its own term:
    `policy_gradient(advantage=one, factor=Kl("k3"), coef=beta)`.
    Reference: Schulman 2020 (joschu.net/blog/kl-approx); verl's "k3+" is k3's value with k2's gradient: write k2.
    """

    kind: Literal["k1", "k2", "k3"]
    to: ModelRef = SELF_START
    over: Ratio | None = None

    @property
    def needs(self) -> tuple[Need, ...]:
        return (Need("logp", self.to), *(self.over.needs if self.over else ()))

    @property
    def requires(self) -> frozenset[str]:
        return self.over.requires if self.over else frozenset()

    @property
    def formula(self) -> Formula:
        """Minus the slope of k at d; over a ratio, minus the slope of ratio * k by lp, over the ratio's."""
        plain = {"k1": "(-1)", "k2": "(-d_t)", "k3": "(exp(-d_t) - 1)"}
        times_ratio = {"k1": "(d_t + 1)", "k2": "(d_t^2 / 2 + d_t)", "k3": "d_t"}
        meaning = (f"d_t = log pi(y_t) - log pi_{self.to}(y_t)",)
        if self.over is None:
            return Formula(plain[self.kind], meaning)
        return Formula(f"(-{self.over.symbol} {times_ratio[self.kind]})", (*meaning, *self.over.formula.meaning))

    def __call__(self, reading: Reading) -> Tensor:
        value, slope = maths.kl_estimate(self._d(reading), self.kind)
        if self.over is None:
            return -slope
        ratio, _ = self.over(reading, reading[LOGP], torch.ones_like(value))
        return -ratio * (value + slope)

    def _d(self, reading: Reading) -> Tensor:
        return (reading[LOGP] - reading[self.needs[0]]).detach()

    def measure(self, reading: Reading) -> Metrics:
        value, _ = maths.kl_estimate(self._d(reading), self.kind)
        return {f"kl/{self.kind}_nats": reading.total(value)}


@dataclass(frozen=True)
class AbsoluteLogRatio(Factor):
    """The gradient of |lp - anchor| as a loss: minus the sign (KL-Cov's penalty, arXiv:2505.22617)."""

    to: Ratio

    @property
    def needs(self) -> tuple[Need, ...]:
        return self.to.needs

    @property
    def requires(self) -> frozenset[str]:
        return self.to.requires

    @property
    def formula(self) -> Formula:
        return Formula(f"(-sign(log {self.to.symbol}))", self.to.formula.meaning)

    def __call__(self, reading: Reading) -> Tensor:
        return -self.to.log_ratio(reading, reading[LOGP]).sign()
