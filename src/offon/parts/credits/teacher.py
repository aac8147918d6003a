"""A teacher's opinion of the learner's own tokens, as credit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from offon.maths import advantage as maths
from offon.parts.credits.base import PROXIMAL, TOKEN_REWARD, Credit, own_logp, token_rewards
from offon.parts.credits.tokens import add_reward
from offon.parts.models import ModelRef, Need
from offon.types import Group, Trajectory


@dataclass(frozen=True)
class TeacherLogRatio(Credit):
    """A_t = sum_k w_k log q_k(y_t) - log p(y_t), detached: how much more the teachers like each token than its sampler.

    teachers  (model, weight) pairs. Weights that sum to 1 aim at the geometric mean of the teachers; one above 1 and a
              reference below 0 extrapolate from the reference past the teacher
    view      the prefix the teachers read
    student   whose log p: that of the distribution really sampled, or the learner's own when the buffer was filled
              (proximal), where somebody else sampled
    across    whether members may be trained under another prompt than they were sampled under: see KlPenalty

    Added to the token rewards there are, and written as advantages with discount 0: the gradient of the reverse KL at
    each position, with prefixes given. `>> return_to_go(...)` makes it that of whole sequences.
    """

    teachers: tuple[tuple[ModelRef, float], ...]
    view: str = "train"
    student: Literal["behavior", "proximal"] = "behavior"
    across: bool = False
    counts_token_rewards = True

    def across_views(self) -> TeacherLogRatio:
        return replace(self, across=True)

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"behavior_logp"} if self.student == "behavior" else {"members"})

    @property
    def needs(self) -> tuple[Need, ...]:
        teachers = (Need("logp", model, view=self.view, when="buffer") for model, _ in self.teachers)
        return (*teachers, *([PROXIMAL] if self.student == "proximal" or self.across else []))

    def __call__(self, group: Group) -> Group:
        return group.map(self._graded)

    def _graded(self, member: Trajectory) -> Trajectory:
        scored = [member.token_signals[need.column] for need in self.needs[: len(self.teachers)]]
        proximal = self.student == "proximal"
        student = member.token_signals[PROXIMAL.column] if proximal else own_logp(member, self.across)
        teachers = sum(weight * logp for (_, weight), logp in zip(self.teachers, scored, strict=True))
        graded = add_reward(member, maths.logp_difference(teachers, student))
        return graded.with_token_signals(advantage=graded.token_signals[TOKEN_REWARD])


def teacher_logratio(*teachers: ModelRef | tuple[ModelRef, float], **how) -> TeacherLogRatio:
    """teacher_logratio(q) or teacher_logratio((q, 1.25), (reference, -0.25))."""
    return TeacherLogRatio(tuple(t if isinstance(t, tuple) else (t, 1.0) for t in teachers), **how)


@dataclass(frozen=True, kw_only=True)
class PerRemaining(Credit):
    """A_t = 1/n_t sum_{s >= t} r_s, the mean of the token rewards still to come; n_t their number, so that early tokens
    are not blamed for the length of what follows.

    start "next": the sum and n begin after t, where t's own reward is the business of an exact term; 0 at the end.
    """

    start: Literal["own", "next"] = "own"
    requires = frozenset({"members"})
    counts_token_rewards = True

    def __call__(self, group: Group) -> Group:
        def returns(member: Trajectory) -> Trajectory:
            rewards, mask = token_rewards(member, signal=None), member.trainable
            total, count = (np.cumsum(x[::-1])[::-1] for x in (rewards, mask.astype(float)))
            if self.start == "next":
                total, count = total - rewards, count - mask
            return member.with_token_signals(advantage=np.where(mask & (count > 0), total / np.maximum(count, 1), 0.0))

        return group.map(returns)


per_remaining = PerRemaining
