"""Labelled and ranked responses from a data set, and answers put after other prompts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from offon.collect.base import Collector
from offon.collect.context import Context
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
    """Put a response to another prompt after each group's own, to be scored and never trained: what the learner thinks
    of an answer to another question. It is that of the nearest group before (cyclic) which has another prompt and whose
    response is none of this prompt's own; a group of which there is none gets none."""

    least = 2
    requires = frozenset({"members"})
    provides = frozenset({MISMATCHED})

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        if len(groups) < self.least:
            return groups
        own = defaultdict(set)  # prompt -> the responses it has in any group
        for group in groups:
            own[group.prompt] |= {response.tokens.tobytes() for response in group.members}

        def mismatched(index: int, group: Group) -> Group:
            others = (groups[(index - 1 - back) % len(groups)] for back in range(len(groups) - 1))
            responses = (other.members[0] for other in others if other.prompt != group.prompt)
            response = next((r for r in responses if r.tokens.tobytes() not in own[group.prompt]), None)
            return group if response is None else group.add(_elsewhere(response, group))

        return [mismatched(index, group) for index, group in enumerate(groups)]


def _elsewhere(response: Trajectory, group: Group) -> Trajectory:
    return response.replace(
        views={"sample": group.prompt},
        scaffold=np.ones(len(response), bool),
        tags=frozenset({MISMATCHED}),
        id=f"{group.members[0].id}/{MISMATCHED}",
    )


labelled, mismatched, rankings = Labelled, Mismatched, Rankings
