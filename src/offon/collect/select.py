"""Selection: which members of a group are kept, and why the others are not."""

from __future__ import annotations

from dataclasses import dataclass

from offon.collect.base import Collector
from offon.collect.context import Context
from offon.types import Group


@dataclass(frozen=True)
class KeepBest(Collector):
    """Keep the n members with the highest reward, of those that reach `at_least` (None: whatever is best)."""

    n: int = 1
    at_least: float | None = None
    requires = frozenset({"members", "reward"})

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        def filtered(group: Group) -> Group:
            reward = [member.signals["reward"] for member in group.members]
            if self.at_least is not None:
                passed = [r >= self.at_least for r in reward]
                group, reward = group.drop(passed, "below threshold"), [r for r in reward if r >= self.at_least]
            best = sorted(range(len(reward)), key=lambda i: -reward[i])[: self.n]
            return group.drop([i in best for i in range(len(reward))], "not among the best")

        return [filtered(group) for group in groups]

    def __str__(self) -> str:
        return f"keep_best({self.n}" + (")" if self.at_least is None else f", at_least={self.at_least})")


keep_best = KeepBest
