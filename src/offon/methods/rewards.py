"""Reinforcement learning on rewards of whole responses."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge

from offon.collect import rollouts, verify
from offon.methods.registry import method
from offon.parts import Clip, Stage, behavior, credit, group_mean_std, per_sequence, policy, policy_gradient

GroupSize = Annotated[int, Ge(2)]  # a group's own rewards are its baseline: one member has none


@method(family="rl", interface="reward", usual_provenance="on-policy", usual_role="reshaping", paper="2402.03300")
def grpo(
    task, *, group_size: GroupSize = 8, clip: tuple[float, float] = (0.2, 0.2), scale_rewards: bool = True
) -> Stage:
    """Group relative policy optimisation: a group's own rewards are its baseline.

        A_i = (R_i - mean_G R) / (std_G R + 1e-4)          std unbiased
        L = -1/N sum_i 1/|y_i| sum_t min(r_t A_i, clip(r_t, 1 - low, 1 + high) A_i),   r_t = pi(y_t) / pi_sampled(y_t)

    No KL term unless added (`with: [{kl_anchor: ...}]`). Members the checker could not score leave the mean and count.
    Watch: reward, frac_reward_zero_std (groups that teach nothing), completions/clipped_ratio, entropy.
    Fails: all-fail groups give no gradient: the skill must already be reached in group_size tries.
    Deviations: the paper adds beta * KL to the loss (0.04); TRL 1.16 divides by tokens (dapo) by default, the paper by
    each response's length first, as here.
    """
    return Stage(
        rollouts(task, group_size) | verify(task),
        policy(
            policy_gradient(advantage=credit, ratio=behavior, trust=Clip(*clip), reduce=per_sequence),
            credit=group_mean_std(scale=scale_rewards),
        ),
        recommends={"learning_rate": 1e-6},
    )
