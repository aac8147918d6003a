"""Statistics of a group: its members are each other's baseline."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from offon.maths import credit as maths
from offon.parts.credit.base import Credit, broadcast, total_reward
from offon.types import Group


@dataclass(frozen=True, kw_only=True)
class GroupMeanStd(Credit):
    """A_i = (R_i - mean) / (std + epsilon) within a group, the same for every token of response i (GRPO)."""

    signal: str = "reward"
    epsilon: float = 1e-4
    scale: bool = True
    min_group = 2

    def __call__(self, group: Group) -> Group:
        reward = np.array([total_reward(member, self.signal) for member in group.members])
        return broadcast(group, maths.group_mean_std(reward, epsilon=self.epsilon, scale=self.scale))


group_mean_std = GroupMeanStd
