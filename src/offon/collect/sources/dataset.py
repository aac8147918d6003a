"""What a data set gives.

Its rows as they are: demonstrations, preference pairs, labelled and ranked responses. Rows of another data set in place
of prompts that were drawn, for all of them (`drawn_from`) or a share (`beside`). Demonstrations of a prompt joined to
what was sampled for it (`add_demo`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from offon.data.render import Renderer
from offon.errors import DataError
from offon.parts.collector import Collector
from offon.parts.context import Context, Step, permuted
from offon.parts.models import Need
from offon.parts.terms import MISMATCHED
from offon.types import Group, Trajectory
from offon.types.trajectory import Tokens

REHEARSED = "rehearsed"  # not "replay", the tag of a stage's own earlier rollouts


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
        answers = defaultdict(set)  # prompt -> the responses it has in any group
        for group in groups:
            answers[group.prompt] |= {response.tokens.tobytes() for response in group.members}

        def mismatched(index: int, group: Group) -> Group:
            others = (groups[(index - 1 - back) % len(groups)] for back in range(len(groups) - 1))
            responses = (other.members[0] for other in others if other.prompt != group.prompt)
            response = next((r for r in responses if r.tokens.tobytes() not in answers[group.prompt]), None)
            return group if response is None else group.add(_elsewhere(response, group))

        return [mismatched(index, group) for index, group in enumerate(groups)]


def _elsewhere(response: Trajectory, group: Group) -> Trajectory:
    return response.replace(
        views={"sample": group.prompt},
        scaffold=np.ones(len(response), bool),
        tags=frozenset({MISMATCHED}),
        id=f"{group.members[0].id}/{MISMATCHED}",
    )


@dataclass(frozen=True)
class DrawnFrom(Collector):
    """Demonstrations of another data set in place of the prompts that were drawn: each draw has its row, in an order of
    its own that passes over all of them. As a side of a mixture, a second stream of data."""

    groups: Sequence[Group]
    provides = frozenset({"members"})

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        step = context.step

        def drawn(group: Group) -> Group:
            other = self.groups[permuted(len(self.groups), step.key(len(self.groups)), group.draw)]
            members = (member.replace(id=step.id(group.draw, i)) for i, member in enumerate(other.members))
            return other.replace(draw=group.draw, members=tuple(members))

        return [drawn(group) for group in groups]

    def __str__(self) -> str:
        return "drawn_from(data)"


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
        rows = DrawnFrom(self.groups)(context, [g for g, r in zip(groups, replayed, strict=True) if r])
        kept = [group for group, r in zip(groups, replayed, strict=True) if not r]
        old = iter([row.map(lambda member: member.tagged(REHEARSED)) for row in rows])
        new = iter(self.inner(context, kept) if kept else [])
        return [*(next(old if r else new) for r in replayed), *new]  # a refill adds what it set aside

    def __str__(self) -> str:
        return f"beside({self.inner}, share={self.share:g})"


@dataclass(frozen=True)
class TaggedBy(Collector):
    """Each member gets the tag that a column of its item names, so that terms can tell several tasks of one data set
    apart."""

    column: str
    requires = frozenset({"members"})

    def check(self, prompts: Sequence[Group], render: Renderer) -> None:
        without = sum(not group.item.columns.get(self.column) for group in prompts)
        if without:
            raise DataError(
                f"{without} of {len(prompts)} rows have no {self.column!r}", fix=f"a column {self.column} in every row"
            )

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        return [group.map(lambda member, group=group: self._tagged(member, group)) for group in groups]

    def _tagged(self, member: Trajectory, group: Group) -> Trajectory:
        return member.tagged(str(group.item.columns[self.column]))

    def __str__(self) -> str:
        return f"tagged_by({self.column})"


@dataclass(frozen=True)
class Recorded(Collector):
    """Give every row the signals that were written beside it when a node made it: nobody is asked again."""

    signal: str = "reward"
    requires = frozenset({"members"})

    @property
    def provides(self) -> frozenset[str]:
        return frozenset({self.signal})

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        def recalled(member: Trajectory) -> Trajectory:
            value = member.signals.get(f"data:{self.signal}")
            if value is None:
                raise DataError(
                    f"a row has no recorded {self.signal}",
                    where=member.id,
                    fix="data that a node with verify made, such as best_of_n",
                )
            return member.with_signals(**{self.signal: value})

        return [group.map(recalled) for group in groups]

    def __str__(self) -> str:
        return f"recorded({self.signal})"


@dataclass(frozen=True)
class Library:
    """Demonstrations by the prompt they answer, found by its content: the same prompt tokens."""

    data: Sequence[Group]

    @cached_property
    def by_prompt(self) -> Mapping[Tokens, list[Trajectory]]:
        by_prompt = defaultdict(list)
        for group in self.data:
            by_prompt[group.prompt] += group.members
        return by_prompt

    def of(self, step: Step, group: Group, n: int) -> list[Trajectory]:
        """Up to n demonstrations of a group's prompt; where there are more, which ones is a function of the draw."""
        known = self.by_prompt.get(group.prompt, [])
        if len(known) <= n:
            return list(known)
        return [known[i] for i in step.random("demonstration", group.draw).permutation(len(known))[:n]]

    def check(self, prompts: Sequence[Group]) -> None:
        """Data that another node still has to make is empty while a recipe is checked."""
        if prompts and self.data and not any(group.prompt in self.by_prompt for group in prompts):
            raise DataError(
                "no prompt of the task has a demonstration in the data",
                why=f"{len(prompts)} prompts and {len(self.by_prompt)} demonstrated ones have no prompt in common",
                fix="demonstrations of the task's own prompts, written the same way (text, or the same messages)",
            )


@dataclass(frozen=True)
class AddDemo(Collector):
    """Join up to n demonstrations of the prompt to its group: EXTERNAL members beside what was sampled (LUFFY).

    They are scored like the others by a `verify` after this, never taken to be right. A prompt that nobody
    demonstrated keeps the group it has.
    """

    library: Library
    n: int = 1
    provides = frozenset({"members"})
    removes = frozenset({"reward", "comparisons"})

    def check(self, prompts: Sequence[Group], render: Renderer) -> None:
        self.library.check(prompts)

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        step = context.step

        def joined(group: Group) -> Group:
            return group.add(
                *(
                    demo.replace(
                        id=step.id(group.draw, group.size + i),
                        views={**demo.views, **group.views, "sample": group.prompt},
                    )
                    for i, demo in enumerate(self.library.of(step, group, self.n))
                )
            )

        return [joined(group) for group in groups]

    def __str__(self) -> str:
        return f"add_demo({self.n})"


def add_demo(data: Sequence[Group], n: int = 1) -> AddDemo:
    return AddDemo(Library(data), n)


demonstrations, preferences, labelled, rankings = Demonstrations, Preferences, Labelled, Rankings
mismatched, drawn_from, beside, tagged_by, recorded = Mismatched, DrawnFrom, Beside, TaggedBy, Recorded
