"""What a data set gives: demonstrations and preference pairs, as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from offon.collect.base import Collector
from offon.collect.context import Context
from offon.types import Group


@dataclass(frozen=True)
class Demonstrations(Collector):
    """Trajectories from a data set, as they are."""

    data: Sequence[Group]
    reads = "demonstrations"
    provides = frozenset({"members"})

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        return groups


@dataclass(frozen=True)
class Preferences(Collector):
    """Pairs from a data set: groups of two with one comparison."""

    data: Sequence[Group]
    reads = "pairs"
    provides = frozenset({"members", "comparisons"})

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        return groups


demonstrations, preferences = Demonstrations, Preferences
