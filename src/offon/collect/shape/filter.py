"""Selection: which members of a group are kept, which groups are worth training, and why the others are not."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from offon.parts.collector import Collector
from offon.parts.context import Context
from offon.types import RIGHT, Group, Trajectory


class Condition(ABC):
    """A yes or no about a group of scored members. Its words complete the reason of a drop: "not ..."."""

    requires = frozenset({"members", "reward"})

    @abstractmethod
    def __call__(self, group: Group) -> bool: ...


@dataclass(frozen=True)
class Mixed(Condition):
    """Members differ in reward: the group teaches a method with a group baseline something."""

    def __call__(self, group: Group) -> bool:
        rewards = {member.signals["reward"] for member in group.members}
        return len(rewards) > 1

    def __str__(self) -> str:
        return "mixed in reward"


@dataclass(frozen=True)
class Rate(Condition):
    """The mean reward lies within [low, high]."""

    low: float = 0.0
    high: float = 1.0

    def __call__(self, group: Group) -> bool:
        rewards = [member.signals["reward"] for member in group.members]
        return bool(rewards) and self.low <= sum(rewards) / len(rewards) <= self.high

    def __str__(self) -> str:
        return f"of a mean reward from {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Right(Condition):
    """More than `over` members succeed (their reward reaches RIGHT)."""

    over: int = 0

    def __call__(self, group: Group) -> bool:
        return sum(member.signals["reward"] >= RIGHT for member in group.members) > self.over

    def __str__(self) -> str:
        return f"right more than {self.over} times"


mixed = Mixed()


@dataclass(frozen=True)
class Tagged:
    """A member that carries a tag: Tagged("truncated")."""

    tag: str

    def __call__(self, member: Trajectory) -> bool:
        return self.tag in member.tags

    def __str__(self) -> str:
        return self.tag


@dataclass(frozen=True)
class Drop(Collector):
    """Set aside the members that a question about a member says yes to."""

    when: Tagged
    reason: str = ""
    requires = frozenset({"members"})

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        reason = self.reason or str(self.when)
        return [group.drop([not self.when(member) for member in group.members], reason) for group in groups]

    def __str__(self) -> str:
        return f"drop({self.when})"


@dataclass(frozen=True)
class KeepBest(Collector):
    """Keep the n members (None: all) with the highest reward, or another signal, of those that reach `at_least` (None:
    whatever is best).

    among: only members with this tag compete; the others stay."""

    n: int | None = 1
    at_least: float | None = None
    among: str = ""
    by: str = "reward"

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"members", self.by})

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        def competes(member: Trajectory) -> bool:
            return not self.among or self.among in member.tags

        def filtered(group: Group) -> Group:
            if self.at_least is not None:
                passed = [not competes(m) or m.signals[self.by] >= self.at_least for m in group.members]
                group = group.drop(passed, "below threshold")
            competing = [i for i, member in enumerate(group.members) if competes(member)]
            best = sorted(competing, key=lambda i: -group.members[i].signals[self.by])[: self.n]
            return group.drop([i in best or not competes(m) for i, m in enumerate(group.members)], "not among the best")

        return [filtered(group) for group in groups]

    def __str__(self) -> str:
        words = [str(self.n)] if self.n else []
        words += [f"at_least={self.at_least:g}"] if self.at_least is not None else []
        words += [f"among={self.among}"] if self.among else []
        return f"keep_best({', '.join(words + ([f'by={self.by}'] if self.by != 'reward' else []))})"


@dataclass(frozen=True)
class Distinct(Collector):
    """Of members that say the same, whitespace aside, the first stays."""

    requires = frozenset({"members"})

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        def first(group: Group) -> Group:
            texts = [" ".join(member.text.split()) for member in group.members]
            return group.drop([text not in texts[:i] for i, text in enumerate(texts)], "said before")

        return [first(group) for group in groups]


distinct, drop, keep_best, rate, right, tagged = Distinct, Drop, KeepBest, Rate, Right, Tagged
