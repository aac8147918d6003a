"""Preference pairs built from responses that were scored."""

from __future__ import annotations

from dataclasses import dataclass

from offon.parts.collector import Collector
from offon.parts.context import Context
from offon.types import Comparison, Group


@dataclass(frozen=True)
class BestAgainstWorst(Collector):
    """Build a preference pair from scored rollouts: the best against the worst.

    Groups without a difference in reward are dropped.
    """

    requires = frozenset({"members", "reward"})
    provides = frozenset({"comparisons"})

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        def paired(group: Group) -> Group:
            reward = [member.signals["reward"] for member in group.members]
            if not reward or max(reward) == min(reward):
                return group.drop([False] * len(reward), "no difference in reward")
            best, worst = reward.index(max(reward)), reward.index(min(reward))
            members = list(group.members)
            members[best], members[worst] = members[best].tagged("chosen"), members[worst].tagged("rejected")
            pair = group.replace(
                members=tuple(members), comparisons=(Comparison(best, worst, max(reward) - min(reward)),)
            )
            return pair.drop([i in (best, worst) for i in range(len(members))], "neither best nor worst")

        return [paired(group) for group in groups]

    def __str__(self) -> str:
        return "best_against_worst"


@dataclass(frozen=True)
class Paired(Collector):
    """The first member is preferred to each of the others; who says the same as it is set aside."""

    requires = frozenset({"members"})
    provides = frozenset({"comparisons"})

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        def paired(group: Group) -> Group:
            texts = [" ".join(member.text.split()) for member in group.members]
            group = group.drop([i == 0 or text != texts[0] for i, text in enumerate(texts)], "equals the chosen one")
            if len(group.members) < 2:
                return group.drop([False] * len(group.members), "nothing to compare with")
            return group.replace(comparisons=tuple(Comparison(0, i) for i in range(1, len(group.members))))

        return [paired(group) for group in groups]


best_against_worst, paired = BestAgainstWorst, Paired
