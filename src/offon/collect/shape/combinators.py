"""Collectors around collectors: draw again until a buffer is worth training, another source for some prompts, a mixture
of two. What they decide is a pure function of signals and of (seed, draw)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from offon.collect.shape.filter import Condition, mixed
from offon.parts.collector import Collector
from offon.parts.context import Context
from offon.parts.schedules import Schedule, value_at
from offon.types import Group


@dataclass(frozen=True)
class Refill(Collector):
    """Dynamic sampling: collect, keep the groups that satisfy a condition, and draw further prompts for the others.

    Up to `max_rounds` times in all; a buffer that is still short is trained as it is. The groups that were set aside
    come last, without members: every trajectory stays on record with the reason, and they leave every count.
    """

    collect: Collector
    keep: Condition = mixed
    max_rounds: int = 4

    @property
    def requires(self) -> frozenset[str]:
        return self.collect.requires | (self.keep.requires - self.collect.provides)

    @property
    def provides(self) -> frozenset[str]:
        return self.collect.provides

    @property
    def removes(self) -> frozenset[str]:
        return self.collect.removes

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        wanted, kept, set_aside = len(groups), [], []
        for attempt in range(self.max_rounds):
            if attempt:
                groups = context.step.more(wanted - len(kept))
            for group in self.collect(context, groups):
                (kept if self.keep(group) else set_aside).append(group)
            if len(kept) == wanted:
                break
        return kept + [group.drop([False] * len(group.members), f"not {self.keep}") for group in set_aside]

    def __str__(self) -> str:
        return f"refill({self.collect}, keep={self.keep}, max_rounds={self.max_rounds})"


@dataclass(frozen=True)
class Gate(Collector):
    """Groups that satisfy a condition stay as they are; the members of the others are dropped, and `else_` collects in
    their place."""

    condition: Condition
    else_: Collector

    @property
    def requires(self) -> frozenset[str]:
        return self.condition.requires | (self.else_.requires - {"members"})

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        passed = [self.condition(group) for group in groups]
        closed = [group for group, fine in zip(groups, passed, strict=True) if not fine]
        closed = [group.drop([False] * len(group.members), f"not {self.condition}") for group in closed]
        others = iter(self.else_(context, closed) if closed else [])
        return [group if fine else next(others) for group, fine in zip(groups, passed, strict=True)]

    def __str__(self) -> str:
        return f"gate({self.condition}, else_={self.else_})"


@dataclass(frozen=True)
class Mixture(Collector):
    """`a` for a share of the groups, `b` for the others, by a coin for each group or one for all groups of a step.

    Both are given the prompt; members that a data set brought are left to the one that reads data.
    """

    a: Collector
    b: Collector
    share: Schedule = 0.5
    per: Literal["group", "step"] = "group"

    @property
    def requires(self) -> frozenset[str]:
        return self.a.requires | self.b.requires

    @property
    def provides(self) -> frozenset[str]:
        """What both provide; and log-probs of the sampler where one does, which only tokens that were sampled have."""
        return (self.a.provides & self.b.provides) | ({"behavior_logp"} & (self.a.provides | self.b.provides))

    @property
    def removes(self) -> frozenset[str]:
        return self.a.removes | self.b.removes

    @property
    def data(self) -> Sequence[Group] | None:
        """The data set that one of them reads; the prompts are then its prompts."""
        return next((first.data for side in (self.a, self.b) if hasattr(first := side.parts[0], "data")), None)

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        step = context.step
        share = value_at(self.share, step.index, step.steps)
        coins = [step.uniform("mixture", g.draw if self.per == "group" else groups[0].draw) for g in groups]
        sides: dict[bool, list[Group]] = {True: [], False: []}
        for group, coin in zip(groups, coins, strict=True):
            sides[coin < share].append(group)
        collected = {
            heads: iter(side(context, [g if _reads(side) else g.replace(members=()) for g in sides[heads]]))
            for heads, side in ((True, self.a), (False, self.b))
        }
        return [next(collected[coin < share]) for coin in coins]

    def __str__(self) -> str:
        return f"mixture({self.a}, {self.b}, share={self.share}, per={self.per})"


def _reads(side: Collector) -> bool:
    return hasattr(side.parts[0], "data")


refill, gate, mixture = Refill, Gate, Mixture
