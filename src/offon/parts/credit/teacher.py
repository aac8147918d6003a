"""A teacher's opinion of the learner's own tokens, as credit."""

from __future__ import annotations

from dataclasses import dataclass

from offon.maths import credit as maths
from offon.parts.credit.base import Credit
from offon.parts.models import ModelRef, Need
from offon.types import Group, Trajectory


@dataclass(frozen=True, kw_only=True)
class TeacherLogRatio(Credit):
    """A_t = log q(y_t) - log p(y_t), the teacher scored before credit, p the behaviour that sampled y."""

    teacher: ModelRef
    requires = frozenset({"behavior_logp"})

    @property
    def needs(self) -> tuple[Need, ...]:
        return (Need("logp", self.teacher, when="buffer"),)

    def __call__(self, group: Group) -> Group:
        (need,) = self.needs

        def advantage(member: Trajectory) -> Trajectory:
            difference = maths.logp_difference(member.token_signals[need.column], member.behavior_logp)
            return member.with_token_signals(advantage=difference)

        return group.map(advantage)


teacher_logratio = TeacherLogRatio
