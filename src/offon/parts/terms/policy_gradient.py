"""The policy gradient term: minus weight * coefficient * log pi, the coefficient detached. Each slot is one value.

Axes: M tokens of a (micro-)batch.
"""

from __future__ import annotations

from dataclasses import dataclass

from offon.errors import ConfigError
from offon.lazy import Tensor, torch
from offon.maths import policy_gradient as maths
from offon.parts.models import Need
from offon.parts.schedules import Schedule
from offon.parts.select import select
from offon.parts.terms.factors import LOGP, Factor
from offon.parts.terms.protocol import Formula, Metrics, Reading, Reduce, Scores, Term, per_token
from offon.parts.terms.ratio import Correction, Ratio, Trust
from offon.parts.terms.token_mask import STEP_LOGP, TokenMask
from offon.types.batch import Batch


class One:
    """The advantage of a plain demonstration: always written, so that it is never multiplied by a group's."""

    def __repr__(self) -> str:
        return "one"


class Credited:
    """The advantage column that the learner's credit wrote."""

    def __repr__(self) -> str:
        return "credit"


one, credit = One(), Credited()


@dataclass(frozen=True, kw_only=True)
class PolicyGradient(Term):
    """-weight * coefficient * log pi(y_t), with

        coefficient = advantage * factor * correction * trust(ratio) * [kept]        (detached)

    SFT is advantage one and nothing else. GRPO is advantage credit, ratio behavior, trust Clip. A slot left out is 1.
    """

    advantage: One | Credited
    factor: Factor | None = None
    ratio: Ratio | None = None
    trust: Trust | None = None
    correction: Correction | None = None
    token_mask: TokenMask | None = None
    on: str = "trainable"
    reduce: Reduce = per_token
    coef: Schedule = 1.0
    name: str = "policy_gradient"

    def __post_init__(self):
        if self.correction and self.ratio and self.ratio.anchor == "behavior":
            raise ConfigError(
                f"the ratio is already taken against the sampler, and {type(self.correction).__name__} corrects again",
                why="the gap between sampler and learner would count twice",
                fix="ratio=proximal with the correction, or ratio=behavior without it",
            )

    @property
    def _slots(self) -> tuple[Factor | Ratio | Correction | TokenMask, ...]:
        return tuple(slot for slot in (self.factor, self.ratio, self.correction, self.token_mask) if slot is not None)

    @property
    def needs(self) -> tuple[Need, ...]:
        return (LOGP, *dict.fromkeys(need for slot in self._slots for need in slot.needs))

    @property
    def requires(self) -> frozenset[str]:
        credited = frozenset({"advantage"} if self.advantage is credit else ())
        return credited.union(*(slot.requires for slot in self._slots))

    @property
    def formula(self) -> Formula:
        """What is computed, with sg for what is detached, and what its symbols mean."""
        slots = [slot.formula for slot in (self.token_mask, self.correction) if slot is not None]
        if self.ratio is not None:
            symbol = self.ratio.symbol
            slots += [self.ratio.formula, self.trust.formula(symbol) if self.trust else Formula(symbol)]
        slots += [self.factor.formula] if self.factor else []
        given = self.advantage is credit
        slots.append(Formula("A_t" if given else "", ("A_t = 1",) if self.trust and not given else ()))
        coefficient = " ".join(slot.factor for slot in slots if slot.factor)
        times = "" if self.coef == 1 else f"{self.coef:g} * " if isinstance(self.coef, float | int) else "coef * "
        detached = f"sg({coefficient}) " if coefficient else ""
        meaning = tuple(dict.fromkeys(line for slot in slots for line in slot.meaning))
        return Formula(f"-{times}{self.reduce.formula} {detached}log pi(y_t)", meaning)

    def weigh(self, batch: Batch) -> Tensor:
        selected = select(batch, self.on)
        if self.correction is not None:
            selected = self.correction.population(batch, selected)
        return self.reduce.weigh(batch, selected)

    def prepare(self, batch: Batch, scores: Scores) -> Batch:
        if self.token_mask is None:
            return batch
        reading = Reading(batch, scores, batch.weights[self.name] != 0)
        stopped = torch.zeros_like(reading.selected)
        if self.ratio is not None and STEP_LOGP in scores:
            logp = scores[STEP_LOGP]
            _, stopped = self._trusted(reading, logp, self._advantage(reading, logp))
        return batch.with_columns({f"{self.name}/kept": self.token_mask(reading, stopped)})

    def units(self, batch: Batch, scores: Scores) -> tuple[Tensor, Metrics]:
        logp = scores[LOGP]
        reading = Reading(batch, scores, batch.weights[self.name] != 0)
        coefficient = self._advantage(reading, logp)
        metrics: Metrics = {}
        if self.advantage is credit:
            metrics["advantage/mean"] = reading.total(coefficient)
        if self.factor is not None:
            coefficient = coefficient * self.factor(reading).detach()
            metrics |= self.factor.measure(reading)
        if self.ratio is not None:
            ratio, _ = self.ratio(reading, logp, coefficient)
            trusted, stopped = self._trusted(reading, logp, coefficient)
            coefficient = coefficient * trusted
            metrics |= {"ratio/mean": reading.total(ratio), "ratio/clip_frac": reading.total(stopped.to(ratio))}
        if self.correction is not None:
            rho = self.correction(batch, reading.selected).to(logp)
            coefficient = coefficient * rho
            metrics |= {
                "correction/mean": reading.total(rho),
                "correction/masked_frac": reading.total((rho == 0) * 1.0),
            }
        if self.token_mask is not None:
            kept = batch.columns[f"{self.name}/kept"]
            coefficient = coefficient * kept
            metrics[f"{self.name}/kept_frac"] = reading.total(kept.to(logp))
        coefficient = torch.where(reading.selected, coefficient, torch.zeros_like(coefficient))
        return maths.policy_gradient(logp, coefficient), metrics

    def _advantage(self, reading: Reading, logp: Tensor) -> Tensor:
        if self.advantage is not credit:
            return torch.ones_like(logp)
        if not reading.selected.any():  # a step of demonstrations alone: nobody was given credit
            return torch.zeros_like(logp)
        return reading.batch.columns["advantage"].to(logp)

    def _trusted(self, reading: Reading, logp: Tensor, advantage: Tensor) -> tuple[Tensor, Tensor]:
        """(trust(ratio), the tokens it stopped)."""
        ratio, stopped = self.ratio(reading, logp, advantage)
        if self.trust is None:
            return ratio * ~stopped, stopped
        factor, held = self.trust(ratio, advantage)
        return factor * ~stopped, held | stopped
