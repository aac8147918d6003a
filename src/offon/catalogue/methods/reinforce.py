"""REINFORCE and its kin: the policy gradient with a baseline for each response, whole responses rewarded.

The rows differ in what a reward is compared with (credit). All but three use each buffer for one step, where no ratio
is needed; rloo takes one where asked for a clip, the two of REINFORCE++ always.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from offon.catalogue.methods.grpo import LEARNING_RATE, Bounds, GroupSize, Samples
from offon.catalogue.registry import method
from offon.collect import rollouts, verify
from offon.parts import (
    Clip,
    Stage,
    behavior,
    credit,
    per_sequence_sum,
    per_token,
    policy,
    policy_gradient,
)
from offon.parts.credits import (
    against_member,
    batch_mean,
    group_mean,
    kl_penalty,
    leave_one_out,
    length_weighted_mean,
    no_baseline,
    return_to_go,
    whiten,
)

ON_POLICY = {**LEARNING_RATE, "max_age": 0}  # without a ratio nothing corrects for stale samples: one step per buffer

sequence = dataclasses.replace(behavior, level="sequence")


@method(family="rl", interface="reward", usual_provenance="on-policy", usual_role="reshaping", paper="Williams 1992")
def reinforce(task, *, baseline: Literal["batch", "none"] = "batch", group_size: Samples = 1, kl: float = 0.0) -> Stage:
    """Push up what was rewarded more than a baseline that does not look at the response.

        L = -1/N sum_i (R_i - b) sum_t log pi(y_it),   R_i = r_i - kl * sum_t (log pi_sampled - log pi_start)(y_it)

    b is the mean reward of the buffer (batch) or 0 (none); R and b are detached. A response is one action.
    Watch: reward, advantage/mean, entropy.
    Fails: with baseline none and rewards in {0, 1} nothing is ever pushed down, and variance is large.
    Deviations: the batch mean contains the response itself, which shrinks the expected gradient by 1 - 1/N. A group's
    own baseline is rloo, the greedy response's is remax, a critic's is ppo.
    """
    compared = {"batch": batch_mean(), "none": no_baseline()}[baseline]
    return Stage(
        rollouts(task, group_size) | verify(task),
        policy(policy_gradient(advantage=credit, reduce=per_sequence_sum), credit=kl_penalty(kl) >> compared),
        recommends=ON_POLICY,
    )


@method(family="rl", interface="reward", usual_provenance="on-policy", usual_role="reshaping", paper="2402.14740")
def rloo(task, *, group_size: GroupSize = 4, kl: float = 0.03, clip: Bounds | None = None) -> Stage:
    """REINFORCE leave-one-out: each response is compared with the others of its prompt.

        A_i = R_i - 1/(G-1) sum_{j != i} R_j,   R_i = r_i - kl * sum_t (log pi_sampled - log pi_start)(y_it)
        L = -1/N sum_i A_i sum_t log pi(y_it)

    A is detached; the baseline is unbiased, and the advantages of a group sum to 0. A = G/(G-1) (R - mean).
    clip: a sequence ratio pi(y) / pi_sampled(y) with PPO's clip, for several updates per buffer.
    Watch: reward, frac_reward_zero_std, entropy; with clip, ratio/clip_frac.
    Fails: groups that all fail or all pass give nothing; the sequence ratio explodes on responses of 1e3 tokens.
    Deviations: kl 0.03 is the paper's, TRL 1.16 has 0.05 and always clips the sequence ratio at 0.2. A group of one is
    set aside (verl's loop gives it A = R).
    """
    kept = {"ratio": sequence, "trust": Clip(*clip)} if clip else {}
    return Stage(
        rollouts(task, group_size) | verify(task),
        policy(
            policy_gradient(advantage=credit, reduce=per_sequence_sum, **kept), credit=kl_penalty(kl) >> leave_one_out()
        ),
        recommends=LEARNING_RATE if clip else ON_POLICY,
    )


@method(family="rl", interface="reward", usual_provenance="on-policy", usual_role="reshaping", paper="2310.10505")
def remax(task, *, kl: float = 0.0) -> Stage:
    """ReMax: each response is compared with the one the learner gives greedily.

        A = R(y) - r(y_greedy),   R(y) = r(y) - kl * sum_t (log pi_sampled - log pi_start)(y_t)
        L = -1/N sum_i A_i sum_t log pi(y_it)

    One sampled and one greedy response per prompt, both by the current weights; the greedy one is never trained and
    never counted. A is detached. y = y_greedy gives nothing.
    Watch: reward (of both), entropy.
    Fails: prompts whose greedy answer is right push down every wrong sample and never up; half of the decoding is spent
    on baselines.
    Deviations: the RLHF version of the paper takes the KL penalty token by token; here a response is one action.
    """
    return Stage(
        rollouts(task) | rollouts(task, temperature=0.0, tag="baseline") | verify(task),
        policy(
            policy_gradient(advantage=credit, on="!tag:baseline", reduce=per_sequence_sum),
            credit=kl_penalty(kl) >> against_member(tag="baseline"),
        ),
        recommends=ON_POLICY,
    )


@method(family="rl", interface="reward", usual_provenance="on-policy", usual_role="reshaping", paper="2505.23585")
def opo(task, *, group_size: GroupSize = 8) -> Stage:
    """On-policy RL with the optimal baseline: rewards are compared with their length-weighted mean.

        A_i = R_i - sum_j |y_j| R_j / sum_j |y_j|
        L = -1/M sum_i sum_t A_i log pi(y_it),   M tokens of the batch

    The baseline minimises the gradient's variance if |grad log pi(y)|^2 is proportional to length. Exactly on-policy:
    one update per buffer, no ratio, no clip, no KL, no entropy bonus. A is detached.
    Watch: entropy (it stays higher than grpo's), off_policy/sampler_gap_nats (it must stay at rounding).
    Fails: with several steps per buffer the samples are stale and nothing corrects: refused unless max_age is raised.
    Deviations: unverified: that the paper divides by tokens, as verl does; its derivation has the plain sum.
    """
    return Stage(
        rollouts(task, group_size) | verify(task),
        policy(policy_gradient(advantage=credit, reduce=per_token), credit=length_weighted_mean()),
        recommends=ON_POLICY,
    )


@method(family="rl", interface="reward", usual_provenance="on-policy", usual_role="reshaping", paper="2501.03262")
def reinforce_pp(task, *, kl: float = 0.01, gamma: float = 1.0, clip: Bounds = (0.2, 0.2)) -> Stage:
    """REINFORCE++: one response per prompt, token rewards with a KL penalty, advantages whitened over the whole batch.

        G_t = sum_{s >= t} gamma^(s-t) (R [s last] - kl * k1_s),   k1 = log pi_sampled - log pi_start
        A_t = (G_t - mean G) / (std G + 1e-4)     over every token of the buffer
        L = -1/M sum_i sum_t min(r_t A_t, clip(r_t, 1 - low, 1 + high) A_t),   r_t = pi(y_t) / pi_sampled(y_t)

    A is detached. With return-to-go the penalty's gradient is that of the sequence reverse KL, exactly.
    Watch: reward, advantage/mean (0 over the buffer), ratio/clip_frac.
    Fails: prompts of very different difficulty: an easy prompt's success is above the batch mean.
    Deviations: unverified: kl 0.01. verl adds 1e-8 to the variance, offon 1e-4 to the std.
    """
    return Stage(
        rollouts(task) | verify(task),
        policy(
            policy_gradient(advantage=credit, ratio=behavior, trust=Clip(*clip), reduce=per_token),
            credit=kl_penalty(kl) >> return_to_go(gamma=gamma) >> whiten(),
        ),
        recommends=LEARNING_RATE,
    )


@method(family="rl", interface="reward", usual_provenance="on-policy", usual_role="reshaping", paper="2501.03262")
def reinforce_pp_baseline(task, *, group_size: GroupSize = 8, clip: Bounds = (0.2, 0.2)) -> Stage:
    """REINFORCE++ with a group baseline: the group's mean is subtracted, the batch's std divides.

        A_i = (R_i - mean_G R - mean_batch) / (std_batch + 1e-4)       statistics over every token of the buffer
        L = -1/M sum_i sum_t min(r_t A_i, clip(r_t, 1 - low, 1 + high) A_i),   r_t = pi(y_t) / pi_sampled(y_t)

    No division by a group's own std, so a group with one lucky success is not blown up. A is detached.
    Watch: reward, frac_reward_zero_std, ratio/clip_frac.
    Fails: token statistics let long responses set the scale.
    Deviations: later versions of the paper add a separate k2 loss to the start (unverified):
    with: [{kl_loss: {estimator: k2}}].
    """
    return Stage(
        rollouts(task, group_size) | verify(task),
        policy(
            policy_gradient(advantage=credit, ratio=behavior, trust=Clip(*clip), reduce=per_token),
            credit=group_mean() >> whiten(),
        ),
        recommends=LEARNING_RATE,
    )
