"""Signals: numbers about responses that were collected. They may call a checker or a model; credit may not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from offon.parts.collector import Collector
from offon.parts.context import Context
from offon.parts.models import SELF, ModelRef, Need
from offon.types import Group, Trajectory


@dataclass(frozen=True)
class Verify(Collector):
    """Ask the task's checker about every member that has no verdict yet. What it could not score is set aside with the
    reason, never counted as 0."""

    task: Any
    requires = frozenset({"members"})
    provides = frozenset({"reward"})

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        asked = [(group.item, m.text) for group in groups for m in group.members if "reward" not in m.signals]
        judged = self.task.verify(asked)
        context.judged([None if verdict.score is not None else verdict.reason for verdict in judged])
        verdicts = iter(judged)

        def judged(member: Trajectory) -> Trajectory:
            if "reward" in member.signals:
                return member
            verdict = next(verdicts)
            return member.with_signals(reward=verdict.score, content=verdict.content)

        groups = [group.map(judged) for group in groups]
        return [group.drop([m.signals["reward"] is not None for m in group.members], "unscored") for group in groups]


@dataclass(frozen=True)
class Score(Collector):
    """Score every member by a model, for collectors after this that choose by it; the token signal `need.column`.

    What credits and terms read they declare themselves: `score` is for choices made while collecting."""

    need: Need
    requires = frozenset({"members"})

    @property
    def provides(self) -> frozenset[str]:
        return frozenset({self.need.column})

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        return context.score(groups, self.need)

    def __str__(self) -> str:
        return f"score({self.need.column})"


def verdicts(member: Trajectory) -> int:
    """How many times a checker was asked because of a member: for itself, and for continuations of it."""
    return ("reward" in member.signals) + int(member.signals.get("continuations") or 0)


def score(what, model: ModelRef = SELF, *, view: str = "train") -> Score:
    """score("logp", teacher): log-probs of every member under a model."""
    return Score(Need(what, model, view, "buffer"))


verify = Verify
