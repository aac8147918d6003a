"""Signals: numbers about responses that were collected. They may call a checker or a model; credit may not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from offon.collect.base import Collector
from offon.collect.context import Context
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


verify = Verify
