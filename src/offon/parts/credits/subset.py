"""Credit for some members of a group, as if they were all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from offon.parts.credits.base import Credit
from offon.parts.models import Need
from offon.types import Group, Source, Trajectory


@dataclass(frozen=True)
class _Inner(Credit):
    """What a credit applied to a part of each group declares: its own needs."""

    credit: Credit

    def exchange(self, kind: type[Credit], change: Callable[[Credit], Credit]) -> Credit:
        return replace(self, credit=self.credit.exchange(kind, change))

    def across_views(self) -> Credit:
        return replace(self, credit=self.credit.across_views())

    @property
    def needs(self) -> tuple[Need, ...]:
        return self.credit.needs

    @property
    def requires(self) -> frozenset[str]:
        return self.credit.requires

    @property
    def provides(self) -> frozenset[str]:
        return self.credit.provides

    @property
    def counts_token_rewards(self) -> bool:
        return self.credit.counts_token_rewards

    def __call__(self, group: Group) -> Group:
        (credited,) = self.over_buffer([group])
        return credited

    def _apply(self, groups: Sequence[Group], parts: Sequence[Iterable[Sequence[int]]]) -> list[Group]:
        """The credit of each part of each group (lists of member positions). A part too small for it is set aside."""
        members = [dict(enumerate(group.members)) for group in groups]
        dropped = [list(group.dropped) for group in groups]
        places = [(g, part) for g, of_group in enumerate(parts) for part in of_group if part]
        apart = [groups[g].replace(members=tuple(members[g][i] for i in part), dropped=()) for g, part in places]
        enough = [len(group.members) >= self.credit.min_group for group in apart]
        apart = [
            group if fits else group.drop([False] * len(group.members), "alone in its group")
            for group, fits in zip(apart, enough, strict=True)
        ]
        for (g, part), credited in zip(places, self.credit.over_buffer(apart), strict=True):
            gone = {member.id for member, _ in credited.dropped}
            stays = [i for i in part if members[g][i].id not in gone]
            members[g] = {i: m for i, m in members[g].items() if i in stays or i not in part}
            members[g].update(zip(stays, credited.members, strict=True))
            dropped[g] += credited.dropped
        return [
            group.replace(members=tuple(kept.values()), dropped=tuple(gone))
            for group, kept, gone in zip(groups, members, dropped, strict=True)
        ]


@dataclass(frozen=True)
class Among(_Inner):
    """`credit` among the members that `on` names: "learner" (what was sampled, wholly or after a beginning), "tag:NAME"
    or "!tag:NAME". The others get none: terms with advantage one read them. Two of them after each other give two kinds
    of members a baseline each."""

    on: str

    def over_buffer(self, groups: Sequence[Group]) -> list[Group]:
        return self._apply(groups, [[[i for i, m in enumerate(g.members) if _is(m, self.on)]] for g in groups])


@dataclass(frozen=True)
class PerView(_Inner):
    """`credit` among the members of a group that were sampled under the same prefix: guided and unguided members do not
    share a baseline."""

    def over_buffer(self, groups: Sequence[Group]) -> list[Group]:
        def parts(group: Group) -> list[list[int]]:
            seen = [member.prefix("sample") for member in group.members]
            return [[i for i, other in enumerate(seen) if other == prefix] for prefix in dict.fromkeys(seen)]

        return self._apply(groups, [parts(group) for group in groups])


Baseline = Literal["prompt", "view"]  # who is compared with whom: all members of a prompt, or those of one view of it


def _is(member: Trajectory, on: str) -> bool:
    if on == "learner":
        return bool((member.source == Source.LEARNER).any())
    return (on.removeprefix("!").removeprefix("tag:") in member.tags) != on.startswith("!")


among, per_view = Among, PerView
