"""Credit for steps, turns and implicit rewards: what belongs to a part of a response stays with it.

Signals of steps and turns are read from spans; a span's reward is put on its last trainable token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from offon.maths import steps as maths
from offon.maths.advantage import leave_one_out
from offon.parts.credits.base import Credit, token_rewards
from offon.parts.credits.tokens import add_reward
from offon.parts.models import ModelRef, Need
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


@dataclass(frozen=True)
class ByModel:
    """A process reward model's score s at the last token of the step: probability sigma(s), signed 2 sigma(s) - 1 (good
    less bad), or the score itself."""

    model: ModelRef
    form: Literal["probability", "signed", "score"] = "probability"

    @property
    def needs(self) -> tuple[Need, ...]:
        return (Need("score", self.model, when="buffer"),)

    def __call__(self, member: Trajectory) -> np.ndarray:
        ends = [span.end - 1 for span in spans_of(member, "step")]
        score = member.token_signals[self.needs[0].column][ends].astype(float)
        match self.form:
            case "probability":
                return (1 + np.tanh(score / 2)) / 2
            case "signed":
                return np.tanh(score / 2)
            case "score":
                return score


@dataclass(frozen=True, kw_only=True)
class StepCredit(Credit):
    """Base of credits that turn the rewards of all steps of a group into token rewards."""

    reward: ByModel
    requires = frozenset({"steps"})
    min_group = 2

    @property
    def needs(self) -> tuple[Need, ...]:
        return self.reward.needs

    def rewards(self, group: Group) -> list[np.ndarray]:
        return [self.reward(member) for member in group.members]

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


@dataclass(frozen=True, kw_only=True)
class ImplicitReward(Credit):
    """coef * leave-one-out of beta (log pi_prm(y_t) - log pi_ref(y_t)) on every token's reward (PRIME).

    The sum over a response is the log-odds that the implicit reward model gives it. prm and reference are the same
    model now and when the stage began.

    scale  "buffer": divided by the largest |return-to-go| of the buffer, which then is 1; "none"
    """

    prm: ModelRef
    reference: ModelRef
    beta: float = 0.05
    coef: float = 1.0
    scale: Literal["buffer", "none"] = "none"
    requires = frozenset({"members"})
    min_group = 2

    @property
    def needs(self) -> tuple[Need, ...]:
        return (Need("logp", self.prm, when="buffer"), Need("logp", self.reference, when="buffer"))

    def __call__(self, group: Group) -> Group:
        (credited,) = self.over_buffer([group])
        return credited

    def over_buffer(self, groups: Sequence[Group]) -> list[Group]:
        largest = 1.0
        if self.scale == "buffer":
            returns = [np.abs(maths.suffix_sum(self._reward(member))) for g in groups for member in g.members]
            largest = max((float(r.max()) for r in returns if len(r)), default=0.0) + 1e-6
        return [self._given(group, largest) if group.members else group for group in groups]

    def _reward(self, member: Trajectory) -> np.ndarray:
        """One number per trainable token."""
        now, start = (member.token_signals[need.column] for need in self.needs)
        return self.beta * (now - start)[member.trainable]

    def _given(self, group: Group, largest: float) -> Group:
        reward = [self._reward(member) / largest for member in group.members]
        centred = maths.rescaled_leave_one_out([r if len(r) else np.zeros(1) for r in reward])

        def given(member: Trajectory, column: np.ndarray) -> Trajectory:
            spread = np.zeros(len(member))
            spread[member.trainable] = self.coef * column[: member.trainable.sum()]
            return add_reward(member, spread)

        return group.replace(members=tuple(map(given, group.members, centred)))


@dataclass(frozen=True, kw_only=True)
class TurnRewards(Credit):
    """Every token of attempt n gets what that attempt earned, less what the group's other members earned with theirs:

        first R_1 for the first,    R_n + bonus (R_n - R_n-1) for a later one;  and the rewards of its own tokens

    R_n is the signal of turn n, the last one's that of the whole. Nothing flows back to earlier attempts: with the
    bonus that would teach to begin wrong.
    """

    first: float = 1.0
    bonus: float = 0.0
    signal: str = "reward"
    requires = frozenset({"turns", "reward"})
    min_group = 2
    counts_token_rewards = True

    def __call__(self, group: Group) -> Group:
        reward_G_N = np.array([self._rewards(member) for member in group.members])
        advantage_G_N = np.stack([leave_one_out(reward_G) for reward_G in reward_G_N.T], axis=1)

        def given(member: Trajectory, advantage_N: np.ndarray) -> Trajectory:
            advantage = np.zeros(len(member))
            for span, value in zip(spans_of(member, "turn"), advantage_N, strict=True):
                advantage[span.start : span.end] = value
            return member.with_token_signals(advantage=advantage)

        return group.replace(members=tuple(map(given, group.members, advantage_G_N)))

    def _rewards(self, member: Trajectory) -> np.ndarray:
        turns = spans_of(member, "turn")
        earned = (span.signals[self.signal] for span in turns[:-1])
        shaped = maths.shaped_turns(np.array([*earned, member.signals[self.signal]], dtype=float), self.bonus)
        of_tokens = token_rewards(member, signal=None)
        of_turns = [of_tokens[span.start : span.end].sum() for span in turns]
        return np.concatenate([self.first * shaped[:1], shaped[1:]]) + of_turns


normalised_steps, min_form, leave_one_out_reward, progress = NormalisedSteps, MinForm, LeaveOneOutReward, Progress
implicit_reward, turn_rewards = ImplicitReward, TurnRewards
