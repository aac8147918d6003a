"""GRPO and its kin: reinforcement learning on rewards of whole responses, compared within a group.

The rows differ in four values: what a reward is compared with (credit), what the likelihood ratio is taken over and how
far it is trusted (ratio, trust), and what the sum is divided by (reduce). With one step per buffer every ratio is 1 and
trust is idle; `prompts_per_buffer` above `prompts_per_step`, or `epochs`, gives the papers' several updates per buffer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from offon.catalogue.registry import method
from offon.collect import mixed, refill, rollouts, verify
from offon.errors import ConfigError
from offon.parts import (
    AbsoluteLogRatio,
    CapWeight,
    Clip,
    ClipCovariance,
    SoftGate,
    Stage,
    TopCovariance,
    behavior,
    constant,
    credit,
    group_mean_std,
    one,
    per_sequence,
    per_token,
    policy,
    policy_gradient,
)
from offon.parts.credits import group_mean, kept_mean_std, overlong_penalty, per_reward_mean_std, whiten

GroupSize = Annotated[int, Ge(2)]  # a group's own rewards are its baseline: one member has none
Samples = Annotated[int, Ge(1)]
Share = Annotated[float, Gt(0), Le(1)]
Bounds = tuple[float, float]  # (low, high): the ratio is trusted in [1 - low, 1 + high]
LEARNING_RATE = {"learning_rate": 1e-6}  # what nearly every paper of this family trains full models with

geometric = dataclasses.replace(behavior, level="geometric")


@method(family="rl", interface="reward", usual_provenance="on-policy", usual_role="reshaping", paper="2402.03300")
def grpo(task, *, group_size: GroupSize = 8, clip: Bounds = (0.2, 0.2), scale_rewards: bool = True) -> Stage:
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
        recommends=LEARNING_RATE,
    )


@method(family="rl", interface="reward", usual_provenance="on-policy", usual_role="reshaping", paper="2503.20783")
def dr_grpo(task, *, group_size: GroupSize = 8, clip: Bounds = (0.2, 0.2), length: Samples = 3000) -> Stage:
    """GRPO done right: neither the group's std nor the response's length reweighs anything.

        A_i = R_i - mean_G R
        L = -1/N sum_i 1/length sum_t min(r_t A_i, clip(r_t, 1 - low, 1 + high) A_i),   r_t = pi(y_t) / pi_sampled(y_t)

    length is a constant: the budget of tokens (3000 in the paper), not a length of the batch; it scales the learning
    rate and nothing else. A is detached. A = (G-1)/G of rloo's.
    Watch: reward, completions/mean_length (of wrong responses: it no longer drifts up), frac_reward_zero_std.
    Fails: as grpo, groups without a difference teach nothing.
    Deviations: verl's seq-mean-token-sum-norm divides by the padded width unless told a constant.
    """
    return Stage(
        rollouts(task, group_size) | verify(task),
        policy(
            policy_gradient(advantage=credit, ratio=behavior, trust=Clip(*clip), reduce=constant(length)),
            credit=group_mean(),
        ),
        recommends=LEARNING_RATE,
    )


@method(family="rl", interface="reward", usual_provenance="on-policy", usual_role="reshaping", paper="2503.14476")
def dapo(
    task,
    *,
    group_size: GroupSize = 16,
    clip: Bounds = (0.2, 0.28),
    max_rounds: Samples = 4,
    overlong: Literal["punish", "filter", "none"] = "punish",
    buffer: Share = 0.2,
    punishment: float = 0.5,
) -> Stage:
    """Decoupled clip and dynamic sampling: GRPO with four changes.

        L = -1/M sum_i sum_t min(r_t A_i, clip(r_t, 1 - low, 1 + high) A_i),   r_t = pi(y_t) / pi_sampled(y_t)
        A_i = (R_i - mean_G R) / (std_G R + 1e-4),   R_i = reward + punishment * overlong(|y_i|)

    1 clip-higher: rare tokens may grow by more than they may shrink. 2 a mean over the batch's M tokens. 3 dynamic
    sampling: prompts whose group all passes or all fails are drawn again, up to max_rounds times, by the reward alone.
    4 overlong responses: punish takes off up to `punishment` over the last `buffer` of the token limit, before groups
    are compared; filter leaves truncated responses out of loss and count, but in their group's statistics.
    Watch: reward, frac_reward_zero_std (groups drawn in vain included), completions/clipped_ratio, entropy.
    Fails: drawing until groups are mixed shifts the prompts trained on towards middling difficulty, and costs rounds.
    Deviations: rewards here are 0 and 1, the paper's -1 and 1: punishment 0.5 is its 1. verl adds a dual clip at 10.
    """
    return Stage(
        refill(rollouts(task, group_size) | verify(task), keep=mixed, max_rounds=max_rounds),
        policy(
            policy_gradient(
                advantage=credit, ratio=behavior, trust=Clip(*clip), reduce=per_token,
                on="!tag:truncated" if overlong == "filter" else "trainable",
            ),
            credit=overlong_penalty(buffer=buffer, scale=punishment * (overlong == "punish")) >> group_mean_std(),
        ),
        recommends=LEARNING_RATE,
    )  # fmt: skip


@method(family="rl", interface="reward", usual_provenance="on-policy", usual_role="reshaping", paper="2507.18071")
def gspo(task, *, group_size: GroupSize = 8, clip: Bounds = (3e-4, 4e-4)) -> Stage:
    """Group sequence policy optimisation: ratio and clipping at the level the reward is given, the response.

        s_i = exp(1/|y_i| sum_t (log pi - log pi_sampled)(y_it)),   A_i = (R_i - mean_G R) / (std_G R + 1e-4)
        L = -1/N sum_i min(s_i A_i, clip(s_i, 1 - low, 1 + high) A_i)

    Its gradient is s_i A_i 1/|y_i| sum_t grad log pi(y_it): a mean within each response, never over the batch's tokens
    (that would multiply by length: LUSPO, arXiv:2602.05261). s is a geometric mean, so clip is about 1e-3 of a token's.
    Watch: ratio/clip_frac (15% is usual here), ratio/mean, reward.
    Fails: with clip 0.2 nothing is ever clipped.
    Deviations: none known; the paper takes 4 steps per buffer (prompts_per_buffer = 4 prompts_per_step).
    """
    return Stage(
        rollouts(task, group_size) | verify(task),
        policy(
            policy_gradient(advantage=credit, ratio=geometric, trust=Clip(*clip), reduce=per_sequence),
            credit=group_mean_std(),
        ),
        recommends=LEARNING_RATE,
    )


@method(family="rl", interface="reward", usual_provenance="on-policy", usual_role="reshaping", paper="2507.18071")
def gspo_token(task, *, group_size: GroupSize = 8, clip: Bounds = (3e-4, 4e-4)) -> Stage:
    """GSPO for advantages that differ by token: the ratio is the response's, the advantage each token's own.

        s_it = sg(s_i) pi(y_it) / sg(pi(y_it)),   s_i = exp(1/|y_i| sum_t (log pi - log pi_sampled)(y_it))
        L = -1/N sum_i 1/|y_i| sum_t min(s_it A_it, clip(s_it, 1 - low, 1 + high) A_it)

    With one advantage per response, as here by default, its gradient is gspo's, exactly. It differs where a modifier
    or your own row writes token advantages (step rewards, a KL penalty with return-to-go).
    Watch: ratio/clip_frac, ratio/mean, reward.
    Fails: as gspo.
    Deviations: none; the straight-through ratio is what detaching every coefficient already means.
    """
    return gspo(task, group_size=group_size, clip=clip)


@method(family="rl", interface="reward", usual_provenance="on-policy", usual_role="reshaping", paper="2507.20673")
def gmpo(task, *, group_size: GroupSize = 8, log_clip: float = 0.4) -> Stage:
    """Geometric-mean policy optimisation: a response's ratio is the geometric mean of its tokens', each clipped first.

        d_t = (log pi - log pi_sampled)(y_it),   c_t = min(d_t, clip(d_t, -e, e)) if A_i > 0 else max(d_t, clip(...))
        L = -1/N sum_i A_i exp(1/|y_i| sum_t c_t),   A_i = (R_i - mean_G R) / (std_G R + 1e-4),   e = log_clip

    Clipped in log space, before the mean: one outlying token neither dominates nor silences its response; a token
    that was clipped has no gradient. e = 0.4 is ratios in (0.67, 1.49). A is detached.
    Watch: ratio/clip_frac, ratio/mean, entropy.
    Fails: as grpo, groups without a difference teach nothing.
    Deviations: none known; clipping after the mean would be gspo.
    """
    ratio = dataclasses.replace(geometric, log_clip=log_clip)
    return Stage(
        rollouts(task, group_size) | verify(task),
        policy(policy_gradient(advantage=credit, ratio=ratio, reduce=per_sequence), credit=group_mean_std()),
        recommends=LEARNING_RATE,
    )


@method(family="rl", interface="reward", usual_provenance="on-policy", usual_role="reshaping", paper="2506.13585")
def cispo(
    task,
    *,
    group_size: GroupSize = 8,
    high: float = 4.0,
    low: float | None = None,
    cap: Literal["relative", "absolute"] = "relative",
) -> Stage:
    """Clipped importance-sampling weights: the weight is capped, the gradient of no token is dropped.

        w_t = clip(r_t, 1 - low, 1 + high)      relative (the paper, verl); clip(r_t, low, high) if absolute (TRL)
        L = -1/M sum_i sum_t sg(w_t) A_i log pi(y_it),   r_t = pi(y_t) / pi_sampled(y_t),   A_i as in grpo

    low: none by default: the paper tunes the upper bound only. Rare tokens that PPO's clip would silence ("wait",
    "however") keep learning. w and A are detached.
    Watch: ratio/clip_frac (weights held), ratio/mean, entropy.
    Fails: the same number means two caps: high 4 relative is high 5 absolute.
    Deviations: TRL 1.16 caps at 5.0 absolute (ScaleRL, arXiv:2510.13786): the default here; unverified: the paper's own
    value.
    """
    weight = CapWeight(high, low=low, absolute=cap == "absolute")
    return Stage(
        rollouts(task, group_size) | verify(task),
        policy(
            policy_gradient(advantage=credit, ratio=behavior, trust=weight, reduce=per_token), credit=group_mean_std()
        ),
        recommends=LEARNING_RATE,
    )


@method(family="rl", interface="reward", usual_provenance="on-policy", usual_role="reshaping", paper="2511.20347")
def sapo(task, *, group_size: GroupSize = 8, tau_pos: float = 1.0, tau_neg: float = 1.05) -> Stage:
    """Soft adaptive policy optimisation: a gate that closes smoothly where PPO's clip has an edge.

        f(r) = 4/tau sigmoid(tau (r - 1)),   tau = tau_pos if A_i > 0 else tau_neg
        L = -1/N sum_i 1/|y_i| sum_t f(r_t) A_i,   r_t = pi(y_t) / pi_sampled(y_t),   A_i as in grpo

    Its gradient is A_i r_t sech^2(tau (r_t - 1) / 2): REINFORCE's at r = 1, fading on both sides. Negative advantages
    fade faster, since they spread probability over everything else. A is detached.
    Watch: ratio/clip_frac (tokens with more than half of their push gone), ratio/mean.
    Fails: as grpo, groups without a difference teach nothing.
    Deviations: ms-swift prints the gate without 4/tau, a factor tau/4 of the learning rate; AReaL divides by tokens.
    """
    return Stage(
        rollouts(task, group_size) | verify(task),
        policy(
            policy_gradient(advantage=credit, ratio=behavior, trust=SoftGate(tau_pos, tau_neg), reduce=per_sequence),
            credit=group_mean_std(),
        ),
        recommends=LEARNING_RATE,
    )


@method(family="rl", interface="reward", usual_provenance="on-policy", usual_role="reshaping", paper="2505.22617")
def clip_cov(
    task, *, group_size: GroupSize = 8, share: Share = 2e-4, cov: Bounds = (1.0, 5.0), clip: Bounds = (0.2, 0.2)
) -> Stage:
    """Clip-Cov: entropy collapses through a few tokens; leave some of those out of the gradient.

        cov_t = (A_t - mean A)(log pi(y_t) - mean log pi)        means over the tokens of the step
        L = -1/M sum_t keep_t min(r_t A_t, clip(r_t, 1 - low, 1 + high) A_t),   r_t = pi(y_t) / pi_sampled(y_t)

    keep_t = 0 for a random `share` of all tokens, drawn among those with cov inside its bounds that the clip has not
    stopped. They still count in M. The change of entropy is minus the covariance of log-probability and advantage.
    cov and A are detached; A_i as in grpo.
    Watch: entropy, policy_gradient/kept_frac.
    Fails: on short tasks the share rounds to a token or two a step; with bounds nobody reaches it is grpo.
    Deviations: the draw is a hash of the token's place, so that a resumed or split run makes the same one.
    """
    low, high = cov
    return Stage(
        rollouts(task, group_size) | verify(task),
        policy(
            policy_gradient(
                advantage=credit, ratio=behavior, trust=Clip(*clip), token_mask=ClipCovariance(share, low, high),
                reduce=per_token,
            ),
            credit=group_mean_std(),
        ),
        recommends=LEARNING_RATE,
    )  # fmt: skip


@method(family="rl", interface="reward", usual_provenance="on-policy", usual_role="reshaping", paper="2505.22617")
def kl_cov(task, *, group_size: GroupSize = 8, share: Share = 2e-4, coef: float = 1.0) -> Stage:
    """KL-Cov: hold the few tokens through which entropy collapses close to the policy that sampled them.

        cov_t = (A_t - mean A)(log pi(y_t) - mean log pi)        means over the tokens of the step
        L = -1/M sum_t [ r_t A_t - coef [t in top share by cov] |log r_t| ],   r_t = pi(y_t) / pi_sampled(y_t)

    No clip: the penalty is the trust region, on the tokens that need one. |log r| has no gradient at r = 1, so the
    first step of a buffer is plain policy gradient. cov and A are detached; A_i as in grpo.
    Watch: entropy, ratio/mean.
    Fails: with one step per buffer the penalty never acts.
    Deviations: coef 1 is the paper's, verl's configuration has 0.1; the paper's share runs from 2e-4 to 2e-3.
    """
    penalty = policy_gradient(
        advantage=one, factor=AbsoluteLogRatio(behavior), token_mask=TopCovariance(share), coef=coef, name="kl_cov"
    )
    return Stage(
        rollouts(task, group_size) | verify(task),
        policy(policy_gradient(advantage=credit, ratio=behavior, reduce=per_token), penalty, credit=group_mean_std()),
        recommends=LEARNING_RATE,
    )


@method(family="rl", interface="reward", usual_provenance="on-policy", usual_role="reshaping", paper="2508.09726")
def gfpo(
    task,
    *,
    group_size: GroupSize = 16,
    keep: GroupSize = 8,
    by: Literal["length", "reward_per_token"] = "length",
    rest: Literal["zero", "drop"] = "zero",
    clip: Bounds = (0.2, 0.28),
) -> Stage:
    """Group filtered policy optimisation: sample many, learn from the shortest, so that answers stay short.

        S = the `keep` members that are shortest (or earn most reward per token)
        A_i = (R_i - mean_S R) / (std_S R + 1e-4) for i in S, else 0
        L = -1/M sum_i sum_t min(r_t A_i, clip(r_t, 1 - low, 1 + high) A_i),   r_t = pi(y_t) / pi_sampled(y_t)

    rest: zero keeps the tokens of the others in M, as the paper's formula does; drop leaves them out, which multiplies
    the gradient by M / M_S. keep = group_size is grpo per token. A is detached.
    Watch: completions/mean_length and reward together; frac_reward_zero_std counts all members, not those kept.
    Fails: if only long attempts succeed, what is kept all fails and teaches nothing.
    Deviations: unverified: the paper's group sizes (8 to 24) and its exact normaliser.
    """
    if keep > group_size:
        raise ConfigError(f"gfpo keeps {keep} of {group_size} members", fix="a smaller keep, or a larger group_size")
    return Stage(
        rollouts(task, group_size) | verify(task),
        policy(
            policy_gradient(advantage=credit, ratio=behavior, trust=Clip(*clip), reduce=per_token),
            credit=kept_mean_std(k=keep, by=by, rest=rest),
        ),
        recommends=LEARNING_RATE,
    )


@method(family="rl", interface="reward", usual_provenance="on-policy", usual_role="reshaping", paper="2601.05242")
def gdpo(
    task,
    *,
    rewards: Mapping[str, float] = MappingProxyType({"reward": 1.0}),
    group_size: GroupSize = 8,
    over: Literal["samples", "tokens"] = "samples",
    clip: Bounds = (0.2, 0.2),
) -> Stage:
    """Group reward-decoupled policy optimisation: several rewards, each normalised on its own before they are added.

        A_i = (B_i - mean B) / (std B + 1e-4) over the batch,  B_i = sum_k w_k (R_i^k - mean_G R^k) / (std_G R^k + 1e-4)
        L = -1/N sum_i 1/|y_i| sum_t min(r_t A_i, clip(r_t, 1 - low, 1 + high) A_i),   r_t = pi(y_t) / pi_sampled(y_t)

    rewards: signal -> weight. Added first, rewards of different combinations collapse onto the same advantage. over:
    the batch's mean and std count each response once (samples, the paper and TRL) or each token (verl). A is detached.
    Watch: reward, and each signal by name; frac_reward_zero_std is of the signal "reward" alone.
    Fails: a reward that is almost constant within groups is scaled up until it speaks as loudly as the others; rewards
    that cancel leave rounding, which the batch's std blows up.
    Deviations: unverified: the paper's own clip and reduction.
    """
    return Stage(
        rollouts(task, group_size) | verify(task),
        policy(
            policy_gradient(advantage=credit, ratio=behavior, trust=Clip(*clip), reduce=per_sequence),
            credit=per_reward_mean_std(weights=rewards) >> whiten(over=over),
        ),
        recommends=LEARNING_RATE,
    )
