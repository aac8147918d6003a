"""Judgements: members of a group compared with each other, as comparisons or as a preference for one of them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from offon.parts.collector import Collector
from offon.parts.context import Context
from offon.types import Comparison, Group, Trajectory


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


judged, against_opponents = Judged, AgainstOpponents
