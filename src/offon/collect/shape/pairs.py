"""Members of a group compared with each other: as preference pairs, or as a preference for one of them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from offon.parts.collector import Collector
from offon.parts.context import Context
from offon.types import Comparison, Group, Trajectory


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


@dataclass(frozen=True, kw_only=True)
class Judged(Collector):
    """Every two members become a pair: the one with the higher signal was preferred. What no pair names is dropped.

    signal  whose opinion: "reward" is the verifier's, "reward:NAME" a reward model's or a judge's
    ties    "drop": no pair; "random": a coin, keyed by (draw, members)
    """

    signal: str = "reward"
    ties: Literal["drop", "random"] = "drop"
    provides = frozenset({"comparisons"})

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"members", self.signal})

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        return [self._compared(context, group) for group in groups]

    def _compared(self, context: Context, group: Group) -> Group:
        score = [member.signals[self.signal] for member in group.members]
        pairs = []
        for a, b in combinations(range(len(score)), 2):
            if score[a] == score[b] and self.ties == "drop":
                continue
            first = score[a] > score[b] or (score[a] == score[b] and context.step.uniform(group.draw, a, b) < 0.5)
            winner, loser = (a, b) if first else (b, a)
            pairs.append(Comparison(winner, loser, score[winner] - score[loser]))
        named = {index for pair in pairs for index in (pair.winner, pair.loser)}
        compared = group.replace(comparisons=tuple(pairs))
        return compared.drop([index in named for index in range(len(score))], "no difference to any other")

    def __str__(self) -> str:
        return f"judged(by {self.signal}" + (", ties by coin)" if self.ties == "random" else ")")


@dataclass(frozen=True, kw_only=True)
class AgainstOpponents(Collector):
    """The signal "preference" of each member: P(it is preferred to an opponent) - 1/2, the mean over the opponents,
    which are the members with a tag. These have then served, and are set aside.

    signal  whose opinion     by  "sign": the higher signal is preferred, equal ones half the time (a verdict);
                                  "logistic": with probability sigmoid of the difference (a reward model)
    """

    tag: str = "opponent"
    signal: str = "reward"
    by: Literal["sign", "logistic"] = "sign"
    provides = frozenset({"preference"})

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"members", self.signal})

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        return [self._preferred(group) for group in groups]

    def _preferred(self, group: Group) -> Group:
        opponents = np.array([m.signals[self.signal] for m in group.members if self.tag in m.tags], dtype=float)
        stays = [self.tag not in m.tags and len(opponents) > 0 for m in group.members]

        def preferred(member: Trajectory) -> Trajectory:
            difference = member.signals[self.signal] - opponents
            p = (np.sign(difference) + 1) / 2 if self.by == "sign" else 1 / (1 + np.exp(-difference))
            return member.with_signals(preference=float(p.mean()) - 0.5)

        judged = tuple(preferred(m) if stay else m for m, stay in zip(group.members, stays, strict=True))
        return group.replace(members=judged).drop(stays, "opponent" if len(opponents) else "no opponent was scored")

    def __str__(self) -> str:
        return f"against_{self.tag}s(by {self.signal}, {self.by})"


best_against_worst, paired, judged, against_opponents = BestAgainstWorst, Paired, Judged, AgainstOpponents
