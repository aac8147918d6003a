"""Refinement: learning from second looks at the learner's own first answers."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge

from offon.catalogue.registry import method
from offon.collect import again, drop, keep_best, refine, rollouts, tagged, verify
from offon.collect.shape.targets import as_targets
from offon.collect.sources.refinement import CRITIQUE, RETRY, REVISE, VERDICT
from offon.parts import Kl, Shaped, Stage, behavior, constant, credit, one, per_sequence_sum, policy, policy_gradient
from offon.parts.credits import group_mean
from offon.parts.credits.steps import turn_rewards

GroupSize = Annotated[int, Ge(2)]
Count = Annotated[int, Ge(1)]
Asks = tuple[str, ...]


@method(
    family="refinement", interface="critique", usual_provenance="off-policy", usual_role="reshaping", paper="2212.08073"
)
def critique_revise(
    task, *, asks: Asks = (CRITIQUE, REVISE), trained: Literal["revision", "chain"] = "revision"
) -> Stage:
    """Critique and revise: the learner answers, criticises its answer, writes a better one, and learns to begin there.

        y0 ~ pi(. | x),  c ~ pi(. | x, y0, ask 1),  y1 ~ pi(. | x, y0, ask 1, c, ask 2)
        L = -1/N sum_t log pi(y1_t | x, y1_<t)                       revision
        L = -1/N sum_t log pi over the tokens of y0, c and y1        chain, each after what it followed; asks are masked

    N counts trained tokens; pi is taken at temperature 1. Everything is sampled by the learner, without gradient.
    "revision" (the supervised stage of Constitutional AI) drops y0, c and the asks: y1 is off-policy by conditioning.
    "chain" keeps the conversation.
    asks: one turn each; the last answer is the revision. A constitution is text in the first.
    Watch: success after the stage; the share of truncated revisions. Fails: nobody checks that y1 is better than y0.
    Deviations: the paper draws its critique and revision requests at random from 16 principles, and repeats them.
    """
    revised = rollouts(task, tag="draft") | refine(*asks) | drop(tagged("draft"), "revised")
    return Stage(
        (revised if trained == "revision" else rollouts(task) | again(*asks)) | as_targets(),
        policy(policy_gradient(advantage=one)),
        recommends={"learning_rate": 1e-5},
    )


@method(
    family="refinement", interface="reward", usual_provenance="on-policy", usual_role="expansion", paper="2409.12917"
)
def score(
    task,
    *,
    phase: Literal["first", "second"] = "second",
    group_size: GroupSize = 4,
    bonus: float = 10.0,
    kl: float = 0.01,
    kl_first: float = 0.1,
    ask: str = RETRY,
) -> Stage:
    """SCoRe: two attempts in one conversation, REINFORCE on both; first hold the first attempt, then reward progress.

        first phase    R~_1 = 0      R~_2 = R_2                        + kl_first * KL on the first attempt
        second phase   R~_1 = R_1    R~_2 = R_2 + bonus (R_2 - R_1)
        L = -1/N sum_i sum_n (R~_in - mean_{j != i} R~_jn) sum_t log pi(y_int) + kl * sum_t k2_t

    N conversations; k2 is the KL estimate to the learner when the stage began, on both attempts; the ask is masked.
    Two nodes of a recipe (the paper's stages): phase: first, then phase: second from it. Detached: rewards, baselines,
    KL coefficients. The bonus belongs to the second attempt alone: carried back, it would teach to begin wrong. With
    bonus 0 the second phase is plain multi-turn RL, and equal attempts earn none.
    Watch: reward (of the second attempt); kl/k2_nats. Fails: without the first phase both attempts become the same.
    Deviations: the paper's baseline is not stated (leave-one-out here); its KL is of whole attempts, k2's gradient is
    that of each position; its second stage also continues first attempts of the base model. Unverified: bonus 10,
    kl 0.01, kl_first 0.1.
    """
    second = phase == "second"
    held = () if second else (policy_gradient(advantage=one, factor=Kl("k2"), on="turn:0", coef=kl_first,
                                              reduce=per_sequence_sum, name="kl_first"),)  # fmt: skip
    return Stage(
        rollouts(task, group_size) | verify(task) | again(ask) | verify(task),
        policy(
            policy_gradient(advantage=credit, reduce=per_sequence_sum),
            policy_gradient(advantage=one, factor=Kl("k2"), coef=kl, reduce=per_sequence_sum, name="kl"),
            *held,
            credit=turn_rewards(first=float(second), bonus=bonus if second else 0.0),
        ),
        recommends={"learning_rate": 1e-6},
    )


@method(family="refinement", interface="critique", usual_provenance="mixed", usual_role="expansion", paper="2506.03106")
def critique_grpo(
    task,
    *,
    group_size: GroupSize = 7,
    refinements: Count = 1,
    gamma: float = 0.1,
    length: Count = 8192,
    asks: Asks = (VERDICT,),
) -> Stage:
    """Critique-GRPO: rollouts and their best refinement in one group; refinements are trained without the critique.

        y_i ~ pi(. | x),  y'_i ~ pi(. | x, y_i, critique_i);  the best `refinements` of the y'_i join the group
        A = R - mean over the whole group
        L = -1/N sum 1/length [ sum_own r_t A + sum_refined w_t A log pi(y'_t | x, y'_<t) ]

    r_t = pi(y_t) / pi_sampled(y_t), not clipped; w_t = p gamma / (p + gamma)^2 with p = pi(y'_t | x, y'_<t), detached:
    the gradient of p / (p + gamma), which favours refined tokens that the learner finds unlikely. A is detached; N
    counts responses of both kinds. Without refinements this is Dr. GRPO without its clip.
    asks: the critique, as turns ({verdict}, {reference}); several let the learner criticise itself first.
    Watch: the reward of members tagged refined against the others'. Fails: a reference in the critique is copied.
    Deviations: the paper's critiques are also a stronger model's; its variants that weigh failed refinements otherwise
    are left out. gamma and the missing clip are the released code's (built on LUFFY's); length only scales.
    """
    reduce = constant(length, over="trainable")
    return Stage(
        rollouts(task, group_size)
        | verify(task)
        | refine(*asks)
        | verify(task)
        | keep_best(refinements, among="refined"),
        policy(
            policy_gradient(advantage=credit, ratio=behavior, on="!tag:refined", reduce=reduce),
            policy_gradient(advantage=credit, factor=Shaped(gamma), on="tag:refined", reduce=reduce, name="refined"),
            credit=group_mean(),
        ),
        recommends={"learning_rate": 1e-6},
    )
