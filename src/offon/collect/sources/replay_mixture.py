"""Rows of another data set beside what a stage collects: replay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from offon.collect.sources.dataset import drawn_from
from offon.parts.collector import Collector
from offon.parts.context import Context
from offon.parts.models import Need
from offon.types import Group

REHEARSED = "rehearsed"  # not "replay", the tag of a stage's own earlier rollouts


@dataclass(frozen=True)
class Beside(Collector):
    """For a share of the groups a row of another data set in place of the prompt, its members tagged "rehearsed".

    Which groups is a coin per draw; the rows come in an order of their own that passes over all of them. What the
    stage declares holds for the other members: they alone are scored, verified, compared.
    """

    inner: Collector
    groups: Sequence[Group]
    share: float

    @property
    def requires(self) -> frozenset[str]:
        return self.inner.requires

    @property
    def provides(self) -> frozenset[str]:
        return self.inner.provides

    @property
    def removes(self) -> frozenset[str]:
        return self.inner.removes

    @property
    def needs(self) -> tuple[Need, ...]:
        return tuple(need for part in self.inner.parts for need in part.needs)

    @property
    def reads(self) -> str:
        return self.inner.parts[0].reads

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        replayed = [context.step.uniform(REHEARSED, group.draw) < self.share for group in groups]
        rows = drawn_from(self.groups)(context, [g for g, r in zip(groups, replayed, strict=True) if r])
        kept = [group for group, r in zip(groups, replayed, strict=True) if not r]
        old = iter([row.map(lambda member: member.tagged(REHEARSED)) for row in rows])
        new = iter(self.inner(context, kept) if kept else [])
        return [*(next(old if r else new) for r in replayed), *new]  # a refill adds what it set aside

    def __str__(self) -> str:
        return f"beside({self.inner}, share={self.share:g})"


beside = Beside
