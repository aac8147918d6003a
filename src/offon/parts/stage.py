"""A stage: what to collect, who learns from it, and how buffers become optimizer steps. Nothing runs here."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from offon.errors import ConfigError
from offon.parts.credit.base import Credit
from offon.parts.models import ModelRef, Need
from offon.parts.terms import Term


@dataclass(frozen=True)
class Learner:
    """Parameters that move: the terms they minimise, and the credit that writes their advantage column."""

    name: str
    terms: tuple[Term, ...]
    credit: Credit | None = None

    def __post_init__(self):
        """Give terms of the same name their position, so that each has a weight column of its own."""
        seen: Counter = Counter()
        total = Counter(term.name for term in self.terms)
        renamed = []
        for term in self.terms:
            seen[term.name] += 1
            fresh = total[term.name] > 1 and seen[term.name] > 1
            renamed.append(dataclasses.replace(term, name=f"{term.name}_{seen[term.name]}") if fresh else term)
        object.__setattr__(self, "terms", tuple(renamed))

    @property
    def needs(self) -> tuple[Need, ...]:
        own = () if self.credit is None else self.credit.needs
        return tuple(dict.fromkeys([*own, *(need for term in self.terms for need in term.needs)]))


def policy(*terms: Term, credit: Credit | None = None) -> Learner:
    """The usual single learner."""
    return Learner("policy", terms, credit)


@dataclass(frozen=True, kw_only=True)
class Updates:
    """The only place where batch words live.

    prompts_per_buffer  groups collected at once      prompts_per_step  groups per optimizer step
    epochs              passes over a buffer
    max_age             most learner updates between sampling and training

    A buffer gives epochs * prompts_per_buffer / prompts_per_step optimizer steps, one per learner each.
    """

    prompts_per_step: int = 32
    prompts_per_buffer: int | None = None
    epochs: int = 1
    max_age: int | None = None

    def __post_init__(self):
        for name in ("prompts_per_step", "epochs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}", fix="1 or more")
        if self.buffer % self.prompts_per_step:
            low = self.buffer // self.prompts_per_step * self.prompts_per_step
            choices = [str(n) for n in (low, low + self.prompts_per_step) if n]
            raise ConfigError(
                f"prompts_per_buffer {self.buffer} is not a multiple of prompts_per_step {self.prompts_per_step}",
                fix="use " + " or ".join(choices),
            )
        if self.max_age is not None and self.steps_per_buffer - 1 > self.max_age:
            raise ConfigError(
                f"a buffer's last step trains samples of age {self.steps_per_buffer - 1}, over max_age {self.max_age}",
                why=f"{self.buffer} prompts per buffer x {self.epochs} epochs / {self.prompts_per_step} per step",
                fix="a smaller buffer, fewer epochs, or a larger max_age",
            )

    @property
    def buffer(self) -> int:
        return self.prompts_per_buffer or self.prompts_per_step

    @property
    def steps_per_buffer(self) -> int:
        return self.epochs * self.buffer // self.prompts_per_step


@dataclass(frozen=True)
class Stage:
    """collect >> learners. `recommends` are the row's values for the fields common to all stages (its paper's)."""

    collect: Any
    learners: Learner | tuple[Learner, ...]
    updates: Updates | None = None
    recommends: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if isinstance(self.learners, Learner):
            object.__setattr__(self, "learners", (self.learners,))

    @property
    def needs(self) -> tuple[Need, ...]:
        return tuple(dict.fromkeys(need for learner in self.learners for need in learner.needs))

    @property
    def samplers(self) -> tuple[ModelRef, ...]:
        """The models that generate while collecting."""
        return self.collect.samplers

    @property
    def reads(self) -> str:
        """The form of the data it is given: what its first collector reads."""
        return self.collect.parts[0].reads

    def replace(self, **changes) -> Stage:
        return dataclasses.replace(self, **changes)

    def validate(self) -> Stage:
        """Refuse, before anything loads, parts that require what nothing before them provides."""
        have: frozenset[str] = frozenset()
        for part in self.collect.parts:
            _require(part.requires, have, str(part))
            have = (have - part.removes) | part.provides
        for learner in self.learners:
            if learner.credit is not None:
                _require(learner.credit.requires, have, f"credit {learner.credit}")
                have |= {"advantage"}
            for term in learner.terms:
                _require(term.requires, have, f"term {term.name}")
        return self


SOURCES_OF = {
    "behavior_logp": "rollouts by the learner with full softmax (no top_p, no top_k); external data has none",
    "reward": "verify(task) after rollouts(task)",
    "comparisons": "preferences(data), or rollouts | verify | best_against_worst()",
    "advantage": "a credit on the learner",
    "steps": "steps(by=...) after rollouts(task)",
    "value": "continuation_value(task) after verify(task) | steps(by=...)",
    "members": "rollouts(task) or demonstrations(data)",
}


def _require(required: frozenset[str], have: frozenset[str], part: str) -> None:
    missing = sorted(required - have)
    if missing:
        raise ConfigError(
            f"{part} needs {', '.join(missing)}, which nothing before it provides",
            why=f"provided here: {', '.join(sorted(have)) or 'nothing'}",
            fix="; ".join(f"{name} comes from {SOURCES_OF.get(name, 'another part')}" for name in missing),
        )
