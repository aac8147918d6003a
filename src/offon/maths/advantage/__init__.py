"""Credit: from signals to advantages. Pure functions of numbers; no models, no tensors of the learner."""

from offon.maths.advantage.group import group_mean_std, leave_one_out, length_weighted_mean, logp_difference, whiten
from offon.maths.advantage.pass_at_k import pass_at_k_weights
from offon.maths.advantage.returns import gae, overlong_penalty, return_to_go

__all__ = [
    "gae", "group_mean_std", "leave_one_out", "length_weighted_mean", "logp_difference", "overlong_penalty",
    "pass_at_k_weights", "return_to_go", "whiten",
]  # fmt: skip
