"""Credits: how signals become the advantage column. Declared here, computed by pure functions of `maths.credit`."""

from offon.parts.credits.base import TOKEN_REWARD, Chain, Credit, signal_of, token_rewards, total_reward
from offon.parts.credits.group import (
    GroupMeanStd,
    PerResponse,
    against_member,
    batch_mean,
    broadcast,
    group_mean,
    group_mean_std,
    kept_mean_std,
    leave_one_out,
    length_weighted_mean,
    no_baseline,
    pass_at_k,
    per_reward_mean_std,
)
from offon.parts.credits.subset import Among, PerView, among, per_view
from offon.parts.credits.teacher import PerRemaining, TeacherLogRatio, per_remaining, teacher_logratio
from offon.parts.credits.tokens import (
    add_reward,
    gae,
    kl_penalty,
    overlong_penalty,
    return_to_go,
    whiten,
)

__all__ = [
    "Among", "Chain", "Credit", "GroupMeanStd", "PerRemaining", "PerResponse", "PerView", "TOKEN_REWARD",
    "TeacherLogRatio", "add_reward", "against_member", "among", "batch_mean", "broadcast", "gae", "group_mean",
    "group_mean_std", "kept_mean_std", "kl_penalty", "leave_one_out", "length_weighted_mean", "no_baseline",
    "overlong_penalty", "pass_at_k", "per_remaining", "per_reward_mean_std", "per_view", "return_to_go", "signal_of",
    "teacher_logratio", "token_rewards", "total_reward", "whiten",
]  # fmt: skip
