"""The reward of a response as a weighted sum of what several sources say about it, each under a name of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from offon.errors import ConfigError
from offon.parts.collector import Collector
from offon.parts.context import Context
from offon.parts.models import ModelRef, Need
from offon.tasks.api import scored
from offon.types import Group, Trajectory, Verdict

Number = float | Verdict | None
Numbers = list[list[Number]]  # one per member of each group; None, or a verdict without a score: could not be scored


class Source(ABC):
    """Where a reward comes from. It may call models (`samplers`, `needs`) and checkers; never the network unasked."""

    samplers: tuple[ModelRef, ...] = ()
    needs: tuple[Need, ...] = ()

    @abstractmethod
    def __call__(self, context: Context, groups: Sequence[Group]) -> Numbers: ...


@dataclass(frozen=True)
class Checker(Source):
    """A task's verdict, or that of anything else with `verify`."""

    task: Any

    def __call__(self, context: Context, groups: Sequence[Group]) -> Numbers:
        judged = self.task.verify([(group.item, member.text) for group in groups for member in group.members])
        numbers = iter([verdict if verdict.score is None else verdict.score for verdict in judged])
        return [[next(numbers) for _ in group.members] for group in groups]


@dataclass(frozen=True)
class RewardModel(Source):
    """A reward model's number at the last token that the learner wrote."""

    model: ModelRef

    @property
    def needs(self) -> tuple[Need, ...]:
        return (Need("score", self.model, when="buffer"),)

    def __call__(self, context: Context, groups: Sequence[Group]) -> Numbers:
        (need,) = self.needs
        scored = context.score(groups, need)
        return [[_last(member, member.token_signals[need.column]) for member in group.members] for group in scored]


def _last(member: Trajectory, column: np.ndarray) -> float | None:
    trainable = np.flatnonzero(member.trainable)
    return float(column[trainable[-1]]) if len(trainable) else None


@dataclass(frozen=True)
class Reward(Collector):
    """reward = sum_k weight_k * r_k over sources by name, for every member that has no reward yet; each r_k stays on
    record as the signal "reward:NAME". A member that some source could not score is set aside, never counted as 0."""

    sources: Mapping[str, Source]
    weights: Mapping[str, float]
    requires = frozenset({"members"})

    def __post_init__(self):
        if unknown := sorted(self.weights.keys() ^ self.sources.keys()):
            raise ConfigError(
                f"rewards are weighted by {', '.join(self.weights)}, their sources are {', '.join(self.sources)}",
                fix=f"one weight for each source; look at {', '.join(unknown)}",
            )

    @property
    def provides(self) -> frozenset[str]:
        return frozenset({"reward", *map(signal_name, self.sources)})

    @property
    def samplers(self) -> tuple[ModelRef, ...]:
        return tuple(dict.fromkeys(model for source in self.sources.values() for model in source.samplers))

    @property
    def needs(self) -> tuple[Need, ...]:
        return tuple(dict.fromkeys(need for source in self.sources.values() for need in source.needs))

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        fresh = [group.replace(members=tuple(m for m in group.members if _new(m)), comparisons=()) for group in groups]
        numbers = {
            name: [[_verdict(name, number) for number in row] for row in source(context, fresh)]
            for name, source in self.sources.items()
        }
        context.judged([reason for rows in zip(*numbers.values(), strict=True) for reason in _reasons(rows)])
        return [
            self._rewarded(group, {name: [verdict.score for verdict in values[g]] for name, values in numbers.items()})
            for g, group in enumerate(groups)
        ]

    def _rewarded(self, group: Group, numbers: Mapping[str, Sequence[float | None]]) -> Group:
        rows = zip(*numbers.values(), strict=True)

        def rewarded(member: Trajectory) -> Trajectory:
            if not _new(member):
                return member
            row = dict(zip(numbers, next(rows), strict=True))
            known = None not in row.values()
            reward = scored(sum(self.weights[name] * value for name, value in row.items())).score if known else None
            return member.with_signals(reward=reward, **{signal_name(name): value for name, value in row.items()})

        group = group.map(rewarded)
        return group.drop([member.signals["reward"] is not None for member in group.members], "unscored")

    def __str__(self) -> str:
        return "reward(" + " + ".join(f"{weight:g} {name}" for name, weight in self.weights.items()) + ")"


def _verdict(name: str, number: Number) -> Verdict:
    """What a source said, as a verdict whose reason names the source."""
    verdict = number if isinstance(number, Verdict) else scored(number, "no number" if number is None else "")
    return verdict if verdict.score is not None else Verdict(None, reason=f"{name}: {verdict.reason}")


def _reasons(rows: Sequence[Sequence[Verdict]]) -> list[str | None]:
    """For each member of a group the reason of the first source that could not score it."""
    return [next((v.reason for v in of_member if v.score is None), None) for of_member in zip(*rows, strict=True)]


def _new(member: Trajectory) -> bool:
    return "reward" not in member.signals


def signal_name(source: str) -> str:
    return f"reward:{source}"
