"""Signals: numbers about responses that were collected. They may call a checker or a model; credit may not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from offon.collect.base import Collector
from offon.collect.context import Context
from offon.parts.models import SELF, ModelRef, Need
from offon.types import Group


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


def score(what, model: ModelRef = SELF, *, view: str = "train") -> Score:
    """score("logp", teacher): log-probs of every member under a model."""
    return Score(Need(what, model, view, "buffer"))


verify = Verify
