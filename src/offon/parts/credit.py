"""Credits: how signals become the advantage column. Declared here, computed by pure functions of `maths.credit`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from offon.maths import credit as maths
from offon.parts.models import ModelRef, Need
from offon.types import Group, Trajectory


@dataclass(frozen=True, kw_only=True)
class GroupMeanStd:
    """A_i = (R_i - mean) / (std + epsilon) within a group, the same for every token of response i (GRPO)."""

    signal: str = "reward"
    epsilon: float = 1e-4
    scale: bool = True
    needs: tuple[Need, ...] = ()
    requires = frozenset({"reward"})
    min_group = 2

    def __call__(self, group: Group) -> Group:
        reward = np.array([member.signals[self.signal] for member in group.members], dtype=float)
        advantage = maths.group_mean_std(reward, epsilon=self.epsilon, scale=self.scale)
        members = zip(group.members, advantage, strict=True)
        return group.replace(members=tuple(m.with_token_signals(advantage=np.full(len(m), a)) for m, a in members))


@dataclass(frozen=True, kw_only=True)
class TeacherLogRatio:
    """A_t = log q(y_t) - log p(y_t), the teacher scored before credit, p the behaviour that sampled y."""

    teacher: ModelRef
    requires = frozenset({"behavior_logp"})
    min_group = 1

    @property
    def needs(self) -> tuple[Need, ...]:
        return (Need("logp", self.teacher, when="buffer"),)

    def __call__(self, group: Group) -> Group:
        (need,) = self.needs

        def advantage(member: Trajectory) -> Trajectory:
            difference = maths.logp_difference(member.token_signals[need.column], member.behavior_logp)
            return member.with_token_signals(advantage=difference)

        return group.map(advantage)


group_mean_std = GroupMeanStd
teacher_logratio = TeacherLogRatio
