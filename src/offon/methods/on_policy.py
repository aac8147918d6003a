"""Rows that learn from rollouts freshly sampled from the learner."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge

from offon.collect import keep_best, rollouts, verify
from offon.methods.registry import method
from offon.parts import (
    Artefact,
    Clip,
    Stage,
    behavior,
    credit,
    divergence,
    group_mean_std,
    one,
    per_sequence,
    policy,
    policy_gradient,
    teacher_logratio,
)

Count = Annotated[int, Ge(1)]
GroupSize = Annotated[int, Ge(2)]  # a group's own rewards are its baseline: one member has none


@method(
    family="rlhf-rlvr", interface="reward", usual_provenance="on-policy", usual_role="reshaping", paper="2402.03300"
)
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


@method(
    family="filtering", interface="reward", usual_provenance="on-policy", usual_role="reshaping", paper="2304.06767"
)
def raft(task, *, group_size: Count = 8, keep: Count = 1, at_least: float | None = 1.0) -> Stage:
    """Reward-ranked fine-tuning: sample, keep the best, maximise their likelihood; fresh samples each round.

        L = 1/D sum over kept tokens of -log pi(y_t)

    With rewards in {0, 1} the first step is REINFORCE without a baseline. Later steps of a buffer train older samples:
    the ledger says how much older (mean age), which is how off-policy the stage was.
    at_least: a kept response must reach this reward; None keeps the best of each group, good or bad (the paper's form).
    Watch: the share of prompts with a kept response. Fails: easy prompts dominate; nothing wrong is ever pushed down.
    """
    return Stage(
        rollouts(task, group_size) | verify(task) | keep_best(keep, at_least),
        policy(policy_gradient(advantage=one)),
        recommends={"learning_rate": 1e-5},
    )


@method(
    family="on-policy-distillation", interface="teacher targets", usual_provenance="on-policy",
    usual_role="consolidation", paper="2306.13649",
)  # fmt: skip
def on_policy_distill(task, teacher, *, form: Literal["sampled", "full"] = "full", group_size: Count = 1,
                      kind: Literal["reverse", "forward", "jsd"] = "reverse", beta: float = 0.5) -> Stage:  # fmt: skip
    """On-policy distillation: the student writes, the teacher grades every token.

        full      L = 1/N sum_t D(p(. | x, y_<t), q(. | x, y_<t)), whole vocabulary, y ~ student (GKD, lambda = 1)
        sampled   L = -1/N sum_t r_t A_t,   A_t = log q(y_t) - log p(y_t) detached,   r_t = pi(y_t) / pi_sampled(y_t)

    N counts tokens.

    The sampled form is scored by the teacher before credit and estimates the gradient of the reverse KL from one token
    per position, at the price of variance; prefixes are not differentiated in either form (discount 0).
    Watch: divergence/reverse_nats, or advantage/mean, which is minus the KL. Fails: on prefixes the teacher would never
    write, its targets say little; a student that starts at random has only such prefixes.
    """
    to = Artefact("teacher")
    if form == "sampled":
        learner = policy(policy_gradient(advantage=credit, ratio=behavior), credit=teacher_logratio(teacher=to))
    else:
        learner = policy(divergence(to=to, kind=kind, beta=beta, on="learner"))
    return Stage(rollouts(task, group_size), learner, recommends={"learning_rate": 1e-5})
