"""What can be changed about any stage that learns from rewards: corrections for another sampler, KL penalties, what
credit aims at, which tokens learn. Each is a modifier: `with: [tis, {kl_loss: {coef: 0.01}}]`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, Literal

from annotated_types import Ge

from offon.catalogue.arguments import ModelArg
from offon.catalogue.methods.grpo import Share
from offon.catalogue.registry import method
from offon.collect import Rollouts
from offon.errors import ConfigError
from offon.parts import (
    Artefact,
    HighEntropy,
    Kl,
    Mask,
    PolicyGradient,
    Reduce,
    Stage,
    Truncate,
    behavior,
    credit,
    one,
    policy_gradient,
)
from offon.parts.credits import Credit, PerResponse, kl_penalty
from offon.parts.credits import pass_at_k as pass_at_k_credit
from offon.parts.models import SELF_START, ModelRef
from offon.parts.stage import Learner
from offon.parts.terms import Correction
from offon.parts.terms.divergence import NegativeEntropy

Level = Literal["token", "geometric", "sequence"]
Count = Literal["original", "kept"]


@method(kind="modifier", family="rl", interface="reward", usual_provenance="on-policy", usual_role="reshaping",
        paper="Yao et al. 2025")  # fmt: skip
def tis(stage: Stage, *, cap: float = 2.0, level: Level = "token") -> Stage:
    """Truncated importance sampling: what another engine put between sampler and learner, corrected up to a cap.

        L = sum of min(rho, cap) * (the stage's own term),   rho_t = pi_proximal(y_t) / pi_sampled(y_t)

    pi_proximal is the learner when the buffer was filled; the term's ratio is taken over it. rho is detached, and
    multiplies only terms that read credit, never a KL term. pi_proximal = pi_sampled: the stage as it was; cap to
    infinity: pure importance sampling.
    Watch: correction/mean (1 where the engine is exact), sync/gap_nats.
    Fails: with sampler log-probs as the ratio's anchor too, the gap would count twice: refused.
    Deviations: cap 2 at token level is the blog's recipe; TRL 1.16's default is a sequence mask at 3 (see mis).
    """
    return corrected(stage, Truncate(cap=cap, level=level))


@method(kind="modifier", family="rl", interface="reward", usual_provenance="on-policy", usual_role="reshaping",
        paper="Liu et al. 2025")  # fmt: skip
def mis(
    stage: Stage, *, low: float = 0.0, high: float = 3.0, level: Level = "sequence", count: Count = "original"
) -> Stage:
    """Masked importance sampling: responses the learner would hardly have written as the sampler did are left out.

        L = sum of rho [low <= rho <= high] * (the stage's own term),   rho = prod_t pi_proximal(y_t) / pi_sampled(y_t)

    level geometric takes the mean of the logs in place of the sum: biased, of bounded variance. count original keeps
    masked tokens in the denominator; kept leaves them out, which multiplies the gradient by N / N_kept. rho is
    detached. Band (0, inf): pure importance sampling.
    Watch: correction/masked_frac, correction/mean.
    Fails: at sequence level long responses are nearly always outside the band.
    Deviations: high 3 and no lower bound are TRL 1.16's sequence_mask; unverified: the original note's own constants.
    """
    return corrected(stage, Mask(low=low, high=high, level=level, count=count))


@method(kind="modifier", family="rl", interface="reward", usual_provenance="on-policy", usual_role="reshaping",
        paper="2510.18855")  # fmt: skip
def icepop(stage: Stage, *, low: float = 0.5, high: float = 5.0, count: Count = "original") -> Stage:
    """IcePop: tokens on which sampler and learner disagree are left out, the others are importance-weighted.

        L = sum of rho_t [low <= rho_t <= high] * (the stage's own term),   rho_t = pi_proximal(y_t) / pi_sampled(y_t)

    count original keeps masked tokens in the denominator, kept leaves them out (a factor N / N_kept). rho is detached.
    Watch: correction/masked_frac (a rising share means that the engine drifts), sync/gap_nats.
    Fails: tokens far outside the band are where learning might matter most; nothing is learned there.
    Deviations: frameworks differ in the count; AReaL keeps the original.
    """
    return corrected(stage, Mask(low=low, high=high, count=count))


@method(kind="modifier", family="rl", interface="reward", usual_provenance="on-policy", usual_role="reshaping",
        paper="2505.24298")  # fmt: skip
def decoupled(
    stage: Stage, *, cap: float = 5.0, beyond: Literal["mask", "truncate"] = "mask", max_age: Annotated[int, Ge(0)] = 4
) -> Stage:
    """Decoupled PPO for stale samples: the trust region is around a recent policy, the weight makes up for its age.

        L = sum of w_b min(r_p A, clip(r_p) A),   r_p = pi / pi_proximal,   w_b = pi_proximal / pi_sampled up to cap

    Three policies: the sampler, the learner when the buffer was filled (proximal), and the learner now. beyond: tokens
    over the cap are masked (AReaL) or held at it. w_b is detached. pi_sampled = pi_proximal: plain PPO; pi_proximal =
    pi: pure importance sampling with weight w_b.
    Watch: off_policy/age, correction/mean, ratio/clip_frac.
    Fails: samples much older than max_age have weights that are all noise.
    Deviations: the paper does not cap; cap 5 with masking is AReaL's. unverified: max_age 4 (AReaL's staleness 4 to 8).
    """
    bound = Truncate(cap=cap) if beyond == "truncate" else Mask(low=0.0, high=cap)
    stage = corrected(stage, bound)
    return stage.replace(recommends={**stage.recommends, "max_age": max_age})


@method(kind="modifier", family="rl", interface="reward", usual_provenance="on-policy", usual_role="consolidation",
        paper="2203.02155")  # fmt: skip
def kl_reward(
    stage: Stage, *, to: ModelArg | None = None, coef: float = 0.05, estimator: Literal["k1", "k2", "k3"] = "k1"
) -> Stage:
    """Pay for leaving an earlier model, in the reward: R becomes R - coef * KL estimate, before credit.

        r_t -= coef * k(log pi_sampled(y_t) - log pi_to(y_t)),   k1 = d,  k2 = d^2 / 2,  k3 = e^-d - 1 + d

    to: a model of the recipe ($sft); the learner when the stage began unless written. Detached, as all rewards. k1 with
    the response as one action, or with return-to-go, is the gradient of the sequence reverse KL exactly; k3 is that
    minus the forward KL's: biased.
    Watch: reward (without the penalty), entropy.
    Fails: under a group's std the penalty of an all-pass group is scaled up to 1, whatever coef.
    Deviations: PPO's classic place for KL (InstructGPT); GRPO puts it in the loss (kl_loss).
    """
    penalty = kl_penalty(coef, estimator, to=model_or_start(to))

    def charged(base: Credit) -> Credit:
        if not base.counts_token_rewards:
            raise ConfigError(
                "this stage's credit reads no rewards of tokens: the penalty would be lost", fix="kl_loss or kl_anchor"
            )
        return penalty >> base

    return on_credit(stage, charged)


@method(kind="modifier", family="rl", interface="reward", usual_provenance="on-policy", usual_role="consolidation",
        paper="2402.03300")  # fmt: skip
def kl_loss(
    stage: Stage,
    *,
    to: ModelArg | None = None,
    coef: float = 0.04,
    estimator: Literal["k1", "k2", "k3"] = "k3",
    over: Literal["none", "behavior"] = "none",
) -> Stage:
    """Stay close to an earlier model: a KL estimate on sampled tokens as a term of its own.

        L' = L + coef * mean_t [over * k(d_t)],   d = log pi - log pi_to,  k1 = d,  k2 = d^2 / 2,  k3 = e^-d - 1 + d

    to: a model of the recipe ($sft); the learner when the stage began unless written. Tokens and mean are those of the
    first term of the stage's policy. What its gradient is in expectation, per position, on the learner's own samples:

        k1            0: no regularisation at all        k2            reverse KL
        k3            forward KL(to || pi)               ratio * k1, ratio * k3   reverse KL, also on stale samples

    over behavior: the estimate is multiplied by pi / pi_sampled, both differentiated.
    Watch: kl/k3_nats.
    Fails: k1 alone does nothing but add noise.
    Deviations: coef 0.04 and k3 are GRPO's; TRL 1.16 multiplies by the ratio by default. kl_anchor is the exact KL over
    the whole vocabulary.
    """
    estimate = Kl(estimator, to=model_or_start(to), over=behavior if over == "behavior" else None)
    return stage.adding(policy_gradient(advantage=one, factor=estimate, **as_first(stage), coef=coef, name="kl_loss"))


@method(kind="modifier", family="rl", interface="reward", usual_provenance="on-policy", usual_role="expansion",
        paper="2505.15201")  # fmt: skip
def pass_at_k(
    stage: Stage, *, k: Annotated[int, Ge(1)] = 4, baseline: Literal["subset", "leave_one_out", "none"] = "subset"
) -> Stage:
    """Pass@k training: responses are credited for what they add to the best of k, so that hard prompts weigh more.

        A_i = n / C(n, k) * sum over subsets I of k members that contain i of [ max_I R - max_{I without i} R ]

    In place of the stage's comparison within groups; n is the group's size. An unbiased gradient of E[max of k
    rewards]: pass@k for rewards 0 and 1. baseline leave_one_out subtracts what the others would have got instead; none
    subtracts nothing, so that all weights are positive (k for a right response, k rho(n-1, c, k-1) for a wrong one).
    k = 1: the reward itself. k = n: only the best response gets anything, n times its lead over the second (GRPO_PASSK,
    arXiv:2503.19595).
    Watch: pass@k of the probe against pass@1; entropy.
    Fails: prompts solved more than n - k + 1 times teach nothing, by design: pass@1 can fall.
    Deviations: advantages are n times the paper's weights, since losses here are means over responses; its s^(loo - 1)
    is `subset`, its s^(loo) `leave_one_out`. verl divides by the group's std.
    """
    sampled = sum(part.n for part in stage.collect.everything if isinstance(part, Rollouts))
    if 0 < sampled < k:
        raise ConfigError(f"pass@{k} of groups of {sampled}", fix="a smaller k, or a larger group_size")
    aimed = pass_at_k_credit(k=k, baseline=baseline)

    taken: list[Credit] = []

    def instead(comparison: Credit) -> Credit:
        taken.append(comparison)
        return aimed

    changed = on_credit(stage, lambda base: base.exchange(PerResponse, instead))
    if not taken:
        raise ConfigError("pass_at_k replaces a comparison within groups, and this stage's credit makes none")
    return changed


@method(kind="modifier", family="rl", interface="reward", usual_provenance="on-policy", usual_role="reshaping",
        paper="2506.01939")  # fmt: skip
def high_entropy(stage: Stage, *, share: Share = 0.2) -> Stage:
    """Learn at the forks: only the tokens where the next one is least certain keep their gradient.

        L = sum over tokens with H_t among the top `share` of the step batch of (the stage's own term)

    H_t is the entropy of the learner's whole next-token distribution, taken before the step, detached. Other tokens
    still count in the denominator.
    Watch: policy_gradient/kept_frac, entropy.
    Fails: where answers are a few tokens, the top fifth may be a single position.
    Deviations: unverified: that the paper keeps the denominator.
    """

    def change(term: PolicyGradient) -> PolicyGradient:
        if term.token_mask is not None:
            raise ConfigError(
                f"{term.name} already chooses its tokens, by {type(term.token_mask).__name__}", fix="one of them"
            )
        return dataclasses.replace(term, token_mask=HighEntropy(share))

    return on_rewarded(stage, change)


@method(kind="modifier", family="rl", interface="reward", usual_provenance="on-policy", usual_role="expansion",
        paper="1602.01783")  # fmt: skip
def entropy_bonus(stage: Stage, *, coef: float = 0.001) -> Stage:
    """Pay for staying undecided: the entropy of the whole next-token distribution, at every position trained by reward.

        L' = L - coef * mean_t H(pi(. | y_<t))

    Tokens and mean are those of the first term of the stage's policy. Exact, with gradient through the distribution;
    the prefixes are not differentiated.
    Watch: entropy/nats against entropy.
    Fails: with a large vocabulary the bonus is cheapest on tokens that mean nothing: long before it helps, it blurs.
    Deviations: none; 0.001 is typical, verl's default is 0.
    """
    return stage.adding(NegativeEntropy(**as_first(stage), coef=coef))


def corrected(stage: Stage, correction: Correction) -> Stage:
    """The terms that read credit, their ratios over the proximal policy, times a correction for the sampler."""

    def change(term: PolicyGradient) -> PolicyGradient:
        if term.correction is not None:
            raise ConfigError(
                f"{term.name} is already corrected by {type(term.correction).__name__}",
                why="one ratio corrects for one sampler, once",
                fix="one of tis, mis, icepop and decoupled; multi_teacher_opd has its own",
            )
        ratio = term.ratio and dataclasses.replace(term.ratio, anchor="proximal")
        return dataclasses.replace(term, ratio=ratio, correction=correction)

    return on_rewarded(stage, change)


def on_rewarded(stage: Stage, change: Callable[[PolicyGradient], PolicyGradient]) -> Stage:
    def rewarded(term) -> bool:
        return isinstance(term, PolicyGradient) and term.advantage is credit

    if not any(rewarded(term) for learner in stage.learners for term in learner.terms):
        raise ConfigError("no term of this stage reads an advantage", fix="use it with grpo, ppo or another row of rl")
    return stage.replace(
        learners=tuple(
            dataclasses.replace(x, terms=tuple(change(term) if rewarded(term) else term for term in x.terms))
            for x in stage.learners
        )
    )


def as_first(stage: Stage) -> dict[str, Any]:
    """Tokens and denominator of the first term of the policy, for a term beside it: what the learner itself sampled."""
    first = stage.main.terms[0]
    reduce, on = getattr(first, "reduce", None), getattr(first, "on", "trainable")
    if not isinstance(reduce, Reduce) or on == "external":
        raise ConfigError(
            f"the first term of this stage, {first.name}, is no sum over tokens of the learner",
            fix="kl_anchor, which reads every trained position",
        )
    return {"reduce": reduce, "on": on}


def on_credit(stage: Stage, change: Callable[[Credit], Credit]) -> Stage:
    if not any(learner.credit for learner in stage.learners):
        raise ConfigError("this stage gives no credit to change", fix="use it with grpo, ppo or another row of rl")

    def changed(learner: Learner) -> Learner:
        return dataclasses.replace(learner, credit=change(learner.credit)) if learner.credit else learner

    return stage.replace(learners=tuple(map(changed, stage.learners)))


def model_or_start(name: str | None) -> ModelRef:
    return Artefact(name) if name else SELF_START
