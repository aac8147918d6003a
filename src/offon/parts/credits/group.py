"""One number per response, the same on all of its tokens: what its reward is compared with."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from offon.maths import advantage as maths
from offon.parts.credits.base import Credit, signal_of, total_reward
from offon.types import Group


def broadcast(group: Group, advantage_G: np.ndarray) -> Group:
    """Each member's number on all of its tokens."""
    members = zip(group.members, advantage_G, strict=True)
    return group.replace(members=tuple(m.with_token_signals(advantage=np.full(len(m), a)) for m, a in members))


@dataclass(frozen=True, kw_only=True)
class PerResponse(Credit):
    """Base of credits that compare the rewards R_1..R_G of a group, each response one action."""

    signal: str = "reward"
    min_group = 2
    counts_token_rewards = True

    @abstractmethod
    def advantages(self, reward_G: np.ndarray, group: Group) -> np.ndarray: ...

    def rewards(self, group: Group) -> np.ndarray:
        return np.array([total_reward(member, self.signal) for member in group.members])

    def __call__(self, group: Group) -> Group:
        return broadcast(group, self.advantages(self.rewards(group), group))


@dataclass(frozen=True, kw_only=True)
class GroupMeanStd(PerResponse):
    """A_i = (R_i - mean) / (std + epsilon) within a group (GRPO)."""

    epsilon: float = 1e-4
    scale: bool = True

    def advantages(self, reward_G: np.ndarray, group: Group) -> np.ndarray:
        return maths.group_mean_std(reward_G, epsilon=self.epsilon, scale=self.scale)


def group_mean(*, signal: str = "reward") -> GroupMeanStd:
    """A_i = R_i - mean of the group (Dr.GRPO)."""
    return GroupMeanStd(signal=signal, scale=False)


@dataclass(frozen=True, kw_only=True)
class LeaveOneOut(PerResponse):
    """A_i = R_i - mean of the other members' rewards (RLOO)."""

    def advantages(self, reward_G: np.ndarray, group: Group) -> np.ndarray:
        return maths.leave_one_out(reward_G)


@dataclass(frozen=True, kw_only=True)
class LengthWeightedMean(PerResponse):
    """A_i = R_i - sum_j l_j R_j / sum_j l_j, l the number of trainable tokens (OPO)."""

    def advantages(self, reward_G: np.ndarray, group: Group) -> np.ndarray:
        return maths.length_weighted_mean(reward_G, np.array([m.trainable.sum() for m in group.members]))


@dataclass(frozen=True, kw_only=True)
class AgainstMember(PerResponse):
    """A_i = R_i - r_b, r_b the own reward of the member with a tag (ReMax: the greedy response), without what was taken
    off its tokens. That member itself gets 0. Where it was set aside, the group has no baseline and goes with it."""

    tag: str = "baseline"

    def __call__(self, group: Group) -> Group:
        if any(self.tag in member.tags for member in group.members):
            return super().__call__(group)
        return group.drop([False] * len(group.members), f"no {self.tag}")

    def advantages(self, reward_G: np.ndarray, group: Group) -> np.ndarray:
        (baseline,) = (member for member in group.members if self.tag in member.tags)
        is_baseline = [member is baseline for member in group.members]
        return np.where(is_baseline, 0.0, reward_G - signal_of(baseline, self.signal))


@dataclass(frozen=True, kw_only=True)
class NoBaseline(PerResponse):
    """A_i = R_i."""

    min_group = 1

    def advantages(self, reward_G: np.ndarray, group: Group) -> np.ndarray:
        return reward_G


@dataclass(frozen=True, kw_only=True)
class BatchMean(NoBaseline):
    """A_i = R_i - mean over every response of the buffer, its own included."""

    def over_buffer(self, groups: Sequence[Group]) -> list[Group]:
        rewards = [self.rewards(group) for group in groups]
        mean = np.concatenate([np.zeros(0), *rewards]).mean() if any(map(len, rewards)) else 0.0
        return [broadcast(group, reward - mean) for group, reward in zip(groups, rewards, strict=True)]


@dataclass(frozen=True, kw_only=True)
class PerRewardMeanStd(Credit):
    """A_i = sum_k w_k (R_i^k - mean^k) / (std^k + epsilon): each reward normalised within the group before they are
    added, so that none is drowned by another's scale (GDPO). `weights` names the signals."""

    weights: Mapping[str, float]
    epsilon: float = 1e-4
    min_group = 2

    def __call__(self, group: Group) -> Group:
        def normalised(signal: str) -> np.ndarray:
            return maths.group_mean_std(np.array([signal_of(m, signal) for m in group.members]), epsilon=self.epsilon)

        return broadcast(group, sum(weight * normalised(signal) for signal, weight in self.weights.items()))


@dataclass(frozen=True, kw_only=True)
class KeptMeanStd(GroupMeanStd):
    """Learn from the k members that are shortest, or earn most reward per token; mean and std are theirs (GFPO).

    rest   "zero": the others stay in the population with advantage 0; "drop": they are set aside, and not counted
    """

    k: int
    by: Literal["length", "reward_per_token"] = "length"
    rest: Literal["zero", "drop"] = "zero"

    def __call__(self, group: Group) -> Group:
        reward, length = self.rewards(group), np.array([max(m.trainable.sum(), 1) for m in group.members])
        badness = length if self.by == "length" else -reward / length
        kept = np.isin(np.arange(len(reward)), np.argsort(badness, kind="stable")[: self.k])
        if self.rest == "drop":
            return super().__call__(group.drop(kept, f"not among the {self.k} kept by {self.by}"))
        advantage = np.zeros(len(reward))
        advantage[kept] = self.advantages(reward[kept], group)
        return broadcast(group, advantage)


@dataclass(frozen=True, kw_only=True)
class PassAtK(PerResponse):
    """The gradient weights of pass@k: what a response adds to the best of k (see maths.credit.pass_at_k_weights)."""

    k: int
    baseline: Literal["none", "leave_one_out", "subset"] = "subset"

    @property
    def min_group(self) -> int:
        return self.k + (self.baseline == "leave_one_out")

    def advantages(self, reward_G: np.ndarray, group: Group) -> np.ndarray:
        return maths.pass_at_k_weights(reward_G, self.k, self.baseline)


group_mean_std, leave_one_out, length_weighted_mean = GroupMeanStd, LeaveOneOut, LengthWeightedMean
against_member, no_baseline, batch_mean = AgainstMember, NoBaseline, BatchMean
per_reward_mean_std, kept_mean_std, pass_at_k = PerRewardMeanStd, KeptMeanStd, PassAtK
