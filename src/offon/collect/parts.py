"""The collectors. Each declares what it requires and provides, so that impossible chains are refused before loading."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from offon.collect.context import Context, Prompted
from offon.parts.models import SELF, ModelRef
from offon.parts.schedules import Schedule, value_at
from offon.types import Comparison, Group, Sampling, Trajectory


class Collector(ABC):
    """Base of every collector: `a | b` runs a, then b on what a returned."""

    requires: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset()
    samplers: tuple[ModelRef, ...] = ()

    @property
    def parts(self) -> tuple[Collector, ...]:
        return (self,)

    def __or__(self, other: Collector) -> Pipe:
        return Pipe(self.parts + other.parts)

    @abstractmethod
    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        """Groups with more in them, or fewer."""

    def __str__(self) -> str:
        return type(self).__name__.lower()


@dataclass(frozen=True)
class Pipe(Collector):
    """Collectors in order."""

    chain: tuple[Collector, ...]

    @property
    def parts(self) -> tuple[Collector, ...]:
        return self.chain

    @property
    def samplers(self) -> tuple[ModelRef, ...]:
        return tuple(dict.fromkeys(model for part in self.parts for model in part.samplers))

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        for part in self.chain:
            groups = part(context, groups)
        return groups

    def replace(self, kind: type, **changes) -> Pipe:
        """The same chain with fields of every part of one kind replaced."""
        return Pipe(tuple(dataclasses.replace(p, **changes) if isinstance(p, kind) else p for p in self.parts))

    def __str__(self) -> str:
        return " | ".join(map(str, self.parts))


@dataclass(frozen=True)
class Demonstrations(Collector):
    """Trajectories from a data set, as they are."""

    data: Sequence[Group]
    provides = frozenset({"members"})

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        return groups


@dataclass(frozen=True)
class Preferences(Collector):
    """Pairs from a data set: groups of two with one comparison."""

    data: Sequence[Group]
    provides = frozenset({"members", "comparisons"})

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        return groups


@dataclass(frozen=True, kw_only=True)
class Hint:
    """Sample under another view of the prompt for a share of the groups, which fades.

    view    the item's view with the hint; items without it are sampled plainly
    amount  share of groups that see it, as a schedule over the stage
    drop    False: trained under the view it was sampled under, exactly on-policy. True: trained under the plain prompt;
            behaviour log-probs stay those of the hinted sampler, so that the ratio across views is the true one, and
            the ledger reports the trajectories as off-policy by conditioning.

    All members of a group see the same view, so that they share a baseline.
    """

    view: str = "hint"
    amount: Schedule = 1.0
    drop: bool = False


@dataclass(frozen=True, kw_only=True)
class Rollouts(Collector):
    """n fresh responses per prompt from a model (the learner unless written)."""

    task: Any
    n: int = 1
    model: ModelRef = SELF
    hint: Hint | None = None
    sampling: Sampling = Sampling()

    @property
    def samplers(self) -> tuple[ModelRef, ...]:
        return (self.model,)

    @property
    def provides(self) -> frozenset[str]:
        exact = {"behavior_logp"} if self.sampling.full_softmax and self.model == SELF else set()
        return frozenset({"members"} | exact)

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        step = context.step
        views = [self._view(step, group) for group in groups]
        requests = [
            Prompted(group.views[view], self.sampling, step.key(group.draw, group.size + member))
            for group, view in zip(groups, views, strict=True)
            for member in range(self.n)
        ]
        sampled = iter(context.generate(requests, self.model))
        return [
            group.add(*(self._trained_under(next(sampled), group, view) for _ in range(self.n)))
            for group, view in zip(groups, views, strict=True)
        ]

    def _view(self, step, group: Group) -> str:
        if self.hint is None or self.hint.view not in group.views:
            return "prompt"
        hinted = step.uniform(group.draw) < value_at(self.hint.amount, step.index, step.steps)
        return self.hint.view if hinted else "prompt"

    def _trained_under(self, trajectory: Trajectory, group: Group, view: str) -> Trajectory:
        if view == "prompt":
            return trajectory
        trajectory = trajectory.tagged("hinted")
        return trajectory.replace(views={**trajectory.views, "train": group.prompt}) if self.hint.drop else trajectory

    def __str__(self) -> str:
        hint = f", hint={self.hint.view}{' dropped' if self.hint.drop else ''}" if self.hint else ""
        return f"rollouts({self.n} by {self.model}{hint})"


@dataclass(frozen=True)
class Verify(Collector):
    """Ask the task's checker. What it could not score is set aside with the reason, never counted as 0."""

    task: Any
    requires = frozenset({"members"})
    provides = frozenset({"reward"})

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        verdicts = iter(self.task.verify([(group.item, member.text) for group in groups for member in group.members]))

        def judge(group: Group) -> Group:
            judged = [next(verdicts) for _ in group.members]
            members = [
                member.with_signals(reward=verdict.score, content=verdict.content)
                for member, verdict in zip(group.members, judged, strict=True)
            ]
            scored = [verdict.score is not None for verdict in judged]
            return group.replace(members=tuple(members)).drop(scored, "unscored")

        return [judge(group) for group in groups]


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


def rollouts(task, n: int = 1, *, model: ModelRef = SELF) -> Rollouts:
    return Rollouts(task=task, n=n, model=model)


demonstrations, preferences, verify, keep_best = Demonstrations, Preferences, Verify, KeepBest
best_against_worst = BestAgainstWorst
