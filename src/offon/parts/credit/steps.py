"""Credit for steps, turns and implicit rewards: what belongs to a part of a response stays with it.

Signals of steps and turns are read from spans; a span's reward is put on its last trainable token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from offon.maths import steps as maths
from offon.maths.credit import leave_one_out
from offon.parts.credit.base import Credit
from offon.parts.credit.tokens import add_reward
from offon.types import Group, Span, Trajectory


def spans_of(member: Trajectory, name: str) -> tuple[Span, ...]:
    return tuple(span for span in member.spans if span.name == name)


def at_ends(member: Trajectory, spans: Sequence[Span], reward_K: np.ndarray) -> np.ndarray:
    """[T]: each span's reward on its last trainable token; a span without one loses its reward."""
    reward = np.zeros(len(member))
    for span, value in zip(spans, reward_K, strict=True):
        last = span.start + np.flatnonzero(member.trainable[span.start : span.end])[-1:]
        reward[last] = value
    return reward


@dataclass(frozen=True, kw_only=True)
class StepCredit(Credit):
    """Base of credits that turn the rewards of all steps of a group into token rewards."""

    signal: str
    min_group = 2

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"steps", self.signal})

    def rewards(self, group: Group) -> list[np.ndarray]:
        return [np.array([s.signals[self.signal] for s in spans_of(m, "step")], dtype=float) for m in group.members]

    def given(self, group: Group, reward_G_K: Sequence[np.ndarray]) -> Group:
        members = (
            add_reward(member, at_ends(member, spans_of(member, "step"), reward))
            for member, reward in zip(group.members, reward_G_K, strict=True)
        )
        return group.replace(members=tuple(members))


@dataclass(frozen=True, kw_only=True)
class NormalisedSteps(StepCredit):
    """r~ = (r - mean) / (std + epsilon) over every step of every member, on the last token of its step (GRPO with
    process supervision; followed by `return_to_go(signal=None)`)."""

    epsilon: float = 1e-4

    def __call__(self, group: Group) -> Group:
        return self.given(group, maths.normalised_steps(self.rewards(group), epsilon=self.epsilon))


@dataclass(frozen=True, kw_only=True)
class MinForm(StepCredit):
    """r*_k = r_k softmax_k(-r / T), less what the other members earn, on the last token of its step (PURE).

    baseline   "token": the others' reward per token, times the tokens of the step; "step": their mean reward per step;
               "none"
    """

    temperature: float = 0.1
    baseline: Literal["token", "step", "none"] = "token"

    def __call__(self, group: Group) -> Group:
        reward = [maths.min_form(r, self.temperature) for r in self.rewards(group)]
        match self.baseline:
            case "token":
                sizes = [np.array([s.end - s.start for s in spans_of(m, "step")]) for m in group.members]
                reward = maths.leave_one_out_rate(reward, sizes)
            case "step":
                reward = maths.leave_one_out_mean(reward)
        return self.given(group, reward)


@dataclass(frozen=True, kw_only=True)
class LeaveOneOutReward(Credit):
    """coef * (R_i - mean of the others), as a reward of the last token: to be added to rewards of tokens and steps."""

    signal: str = "reward"
    coef: float = 1.0
    min_group = 2

    def __call__(self, group: Group) -> Group:
        centred = self.coef * leave_one_out(np.array([member.signals[self.signal] for member in group.members]))

        def given(member: Trajectory, reward: float) -> Trajectory:
            return add_reward(member, at_ends(member, [Span("response", 0, len(member))], np.array([reward])))

        return group.replace(members=tuple(map(given, group.members, centred)))


@dataclass(frozen=True, kw_only=True)
class Progress(Credit):
    """Adds coef * (V(s_k) - V(s_k-1)) to the advantage of every token of step k; values from `continuation_value`.

    The last step's value is the reward, so that with coef 1 and no other advantage the steps of a response share out
    R - V(x) between them.
    """

    signal: str = "value"
    coef: float = 1.0

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"steps", self.signal})

    def __call__(self, group: Group) -> Group:
        return group.map(self._credited)

    def _credited(self, member: Trajectory) -> Trajectory:
        steps = spans_of(member, "step")
        gained = maths.progress(
            np.array([s.signals[self.signal] for s in steps], dtype=float), member.signals[self.signal]
        )
        advantage = np.array(member.token_signals.get("advantage", np.zeros(len(member))), dtype=float)
        for step, value in zip(steps, gained, strict=True):
            advantage[step.start : step.end] += self.coef * value
        return member.with_token_signals(advantage=advantage)


normalised_steps, min_form, leave_one_out_reward, progress = NormalisedSteps, MinForm, LeaveOneOutReward, Progress
