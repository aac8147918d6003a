"""A stage: what to collect, who learns from it, and how buffers become optimizer steps. Nothing runs here."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from offon.errors import ConfigError
from offon.parts.credits.base import Credit
from offon.parts.models import SELF, SELF_START, Artefact, Ema, Live, ModelRef, Need, Route, Start
from offon.parts.terms import Term


@dataclass(frozen=True)
class Learner:
    """Parameters that move: the terms they minimise, and the credit that writes their advantage column.

    SELF in its parts is this learner; another one is Live(name), as it was when the stage began Start(name).

    init            what it starts from: the node's model unless written, or an artefact (a reward model)
    head            None: a language model; "value", "score": the body with one number per token in its place (what
                    that is read as: see Need)
    learning_rate   the node's unless written
    """

    name: str
    terms: tuple[Term, ...]
    credit: Credit | None = None
    init: Start | Artefact = SELF_START
    head: Literal["value", "score"] | None = None
    learning_rate: float | None = None

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
        of_credit = () if self.credit is None else self.credit.needs
        return tuple(dict.fromkeys([*of_credit, *(need for term in self.terms for need in term.needs)]))


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
    """collect >> learners. `recommends` are the row's values for the fields common to all stages (its paper's).

    The order of the learners is their order in time: at every step each of them is annotated, credited (once per
    buffer, when it is first its turn) and updated before the next. What the stage makes is the `main` learner; the
    others are kept beside it.
    """

    collect: Any
    learners: Learner | tuple[Learner, ...]
    updates: Updates | None = None
    recommends: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if isinstance(self.learners, Learner):
            object.__setattr__(self, "learners", (self.learners,))
        if any(part.drops_view for part in self.collect.everything):
            credited = (
                dataclasses.replace(learner, credit=learner.credit.across_views()) if learner.credit else learner
                for learner in self.learners
            )
            object.__setattr__(self, "learners", tuple(credited))
        names = [learner.name for learner in self.learners]
        if len(set(names)) < len(names):
            raise ConfigError(f"two learners have one name: {', '.join(names)}", fix="a name for each")

    @property
    def main(self) -> Learner:
        """The learner named "policy", else the last: what the stage makes, and SELF to its collectors."""
        return next((learner for learner in self.learners if learner.name == "policy"), self.learners[-1])

    @property
    def needs(self) -> tuple[Need, ...]:
        """What collectors and learners have scored, named as the stage names models: see `seen_by`."""
        needs = [self.named(need, self.main) for part in self.collect.everything for need in part.needs]
        needs += [self.named(need, learner) for learner in self.learners for need in learner.needs]
        return tuple(dict.fromkeys(needs))

    @property
    def samplers(self) -> tuple[ModelRef, ...]:
        """The models that generate while collecting."""
        return tuple(self.seen_by(self.main, ref) for ref in self.collect.samplers)

    @property
    def models(self) -> tuple[ModelRef, ...]:
        """Every model that takes part, and what it is made of: named as the stage names models."""
        roots = [*self.samplers, *(need.model for need in self.needs), *(learner.init for learner in self.learners)]
        return tuple(dict.fromkeys([SELF, *(ref for root in roots for ref in root.walk())]))

    def seen_by(self, learner: Learner, ref: ModelRef) -> ModelRef:
        """The model that `ref` means in a part of `learner`: SELF and SELF_START are the main learner's, any other
        learner has its name."""
        if isinstance(ref, Live | Start):
            name = ref.name or learner.name
            self.learner(name)
            return type(ref)("" if name == self.main.name else name)
        return ref.within(lambda inner: self.seen_by(learner, inner))

    def named(self, need: Need, learner: Learner) -> Need:
        return dataclasses.replace(need, model=self.seen_by(learner, need.model))

    def columns_of(self, learner: Learner) -> dict[str, str]:
        """Columns that mean the learner's own to its parts -> the names they have in the buffer, where they differ."""
        columns = {need.column: self.named(need, learner).column for need in learner.needs}
        if learner.credit is not None and learner is not self.main:
            columns["advantage"] = f"advantage@{learner.name}"
        return {name: kept for name, kept in columns.items() if name != kept}

    def learner(self, name: str) -> Learner:
        by_name = {learner.name: learner for learner in self.learners}
        if name not in by_name:
            raise ConfigError(f"no learner is named {name!r}", why=f"the stage's: {', '.join(by_name)}")
        return by_name[name]

    uses_init = True  # what a stage trains

    @property
    def reads(self) -> str:
        """The form of the data it is given: what its first collector reads."""
        return self.collect.parts[0].reads

    @property
    def least(self) -> int:
        """Groups that a buffer has to hold: some collectors look from one prompt to another."""
        return max(part.least for part in self.collect.everything)

    def replace(self, **changes) -> Stage:
        return dataclasses.replace(self, **changes)

    def adding(self, *terms: Term) -> Stage:
        """The stage with further terms for the model it makes."""
        main = self.main
        return self.replace(
            learners=tuple(
                dataclasses.replace(learner, terms=(*learner.terms, *terms)) if learner is main else learner
                for learner in self.learners
            )
        )

    def validate(self) -> Stage:
        """Refuse, before anything loads, parts that require what nothing before them provides."""
        have: frozenset[str] = frozenset()
        for part in self.collect.parts:
            require(part.requires, have, str(part))
            have = (have - part.removes) | part.provides
        for learner in self.learners:
            readable = have
            if learner.credit is not None:
                require(learner.credit.requires, have, f"credit {learner.credit}")
                readable = have | learner.credit.provides
                have = readable - {"advantage"}
            for term in learner.terms:
                require(term.requires, readable, f"term {term.name}")
        for need in self.needs:
            self._require_head(need)
        if routes := [ref for ref in self.samplers if isinstance(ref, Route)]:
            raise ConfigError(f"{routes[0]} is to sample", why="a route scores", fix="rollouts by each of its models")
        return self

    def _require_head(self, need: Need) -> None:
        """Numbers are read off heads, log-probs off language models; a learner is one of the two."""
        if need.of_weights:
            return
        wants_head = need.what in ("value", "score")
        for ref in need.model.walk():
            ref = ref.of if isinstance(ref, Ema) else ref
            if not isinstance(ref, Live | Start):
                continue
            learner = self.learner(ref.name) if ref.name else self.main
            if learner.head is None and wants_head:
                raise ConfigError(
                    f"a {need.what} of learner {learner.name!r} is asked for, which is a language model",
                    fix=f'Learner("{learner.name}", ..., head="{need.what}"), or the name of a learner with a head',
                )
            if learner.head is not None and not wants_head:
                raise ConfigError(
                    f"{need.what} of learner {learner.name!r} is asked for, which has a {learner.head} head",
                    why="a head takes the place of the language model's",
                    fix="a learner without a head",
                )


SOURCES_OF = {
    "behavior_logp": "rollouts by the learner with full softmax (no top_p, top_k or temperature 0), never data",
    "reward": "verify(task) after rollouts(task)",
    "comparisons": "preferences(data), or rollouts | verify | best_against_worst()",
    "advantage": "a credit on the learner",
    "steps": "steps(by=...) after rollouts(task)",
    "value": "continuation_value(verify(task)) after verify(task) | steps(by=...)",
    "members": "rollouts(task) or demonstrations(data)",
}


def require(required: frozenset[str], have: frozenset[str], part: str) -> None:
    missing = sorted(required - have)
    if missing:
        raise ConfigError(
            f"{part} needs {', '.join(missing)}, which nothing before it provides",
            why=f"provided here: {', '.join(sorted(have)) or 'nothing'}",
            fix="; ".join(f"{name} comes from {SOURCES_OF.get(name, 'another part')}" for name in missing),
        )
