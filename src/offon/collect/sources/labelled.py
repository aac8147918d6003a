"""Labelled and ranked responses from a data set, and answers put after other prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from offon.parts.collector import Collector
from offon.parts.context import Context
from offon.parts.terms import MISMATCHED
from offon.types import Group, Trajectory


@dataclass(frozen=True)
class Labelled(Collector):
    """Single responses, tagged desirable or undesirable."""

    data: Sequence[Group]
    reads = "labelled"
    provides = frozenset({"members", "labels"})

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        return groups


@dataclass(frozen=True)
class Rankings(Collector):
    """Responses in order: groups of several with all comparisons between them."""

    data: Sequence[Group]
    reads = "rankings"
    provides = frozenset({"members", "comparisons", "rankings"})

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        return groups


@dataclass(frozen=True)
class Mismatched(Collector):
    """Put each group's first response after the next group's prompt, to be scored and never trained: what the learner
    thinks of an answer to another question. A group that is left alone (a replay took the others' places) gets none."""

    least = 2
    requires = frozenset({"members"})
    provides = frozenset({MISMATCHED})

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        if len(groups) < self.least:
            return groups
        responses = [group.members[0] for group in (groups[-1], *groups)]
        return [group.add(_elsewhere(response, group)) for response, group in zip(responses, groups, strict=False)]


def _elsewhere(response: Trajectory, group: Group) -> Trajectory:
    return response.replace(
        views={"sample": group.prompt},
        scaffold=np.ones(len(response), bool),
        tags=frozenset({MISMATCHED}),
        id=f"{group.members[0].id}/{MISMATCHED}",
    )


labelled, mismatched, rankings = Labelled, Mismatched, Rankings
