"""Preferences between the learner's own fresh responses, judged as they are sampled."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from offon.catalogue.registry import method
from offon.collect import against_opponents, judged, rollouts, verify
from offon.parts import (
    SELF,
    SELF_START,
    Kl,
    LogRatio,
    Mix,
    Square,
    Stage,
    contrast,
    credit,
    one,
    per_sequence_sum,
    policy,
    policy_gradient,
)
from offon.parts.credits import kl_penalty, no_baseline

Beta = Annotated[float, Gt(0)]
Mixture = Annotated[float, Ge(0), Le(1)]


def towards_start(share: float) -> Mix:
    """pi^(1 - share) ref^share, token by token: between the learner and what it began as."""
    return Mix((SELF, SELF_START), (1 - share, share), "logit")


@method(
    family="online preference", interface="judge", usual_provenance="on-policy", usual_role="reshaping",
    paper="2402.04792",
)  # fmt: skip
def online_dpo(task, *, beta: Beta = 0.1, ties: Literal["drop", "random"] = "drop") -> Stage:
    """Online DPO (OAIF): two fresh responses per prompt, a judge prefers one, DPO on the pair.

        L = 1/P sum -log sigmoid(beta [(S_w - S_w^ref) - (S_l - S_l^ref)]),   S = sum_t log pi(y_t)

    ref = the learner when the stage began. Samples and judgements are detached: on fixed pairs this is dpo. The higher
    reward wins: the task's checker judges, or what `with: [judge]` or `[reward_model]` puts in its place. ties: such
    pairs are dropped, or decided by a coin.
    Watch: rewards/accuracies, rewards/chosen; the share of prompts without a difference (fates in the ledger).
    Fails: a judge that cannot tell two responses apart gives no pairs. Deviations: TRL 1.16 penalises responses without
    an end token on request; here a truncated response is what its reward says.
    """
    return Stage(
        rollouts(task, 2) | verify(task) | judged(ties=ties),
        policy(contrast(beta=beta)),
        recommends={"learning_rate": 1e-6},
    )


@method(
    family="online preference", interface="judge", usual_provenance="on-policy", usual_role="reshaping",
    paper="2403.08635",
)  # fmt: skip
def online_ipo(
    task,
    *,
    tau: Beta = 0.1,
    normalise: Literal["none", "length"] = "none",
    mixture: Mixture = 0.0,
    ties: Literal["drop", "random"] = "drop",
) -> Stage:
    """Online IPO: two fresh responses per prompt, a judge prefers one, the margin is regressed on 1 / (2 tau).

        L = 1/P sum (d - 1 / (2 tau))^2,   d = [S_w - S_w^ref] - [S_l - S_l^ref],   S = sum_t log pi(y_t)

    ref = the learner when the stage began; samples and judgements are detached. Sampling from the live policy makes its
    fixed point the Nash equilibrium of the regularised preference game, where offline IPO's depends on the data.
    normalise: "none" sums over tokens, as the paper and TRL's online trainer do; "length" takes means, as TRL's offline
    ipo does: a different target for the same tau. mixture above 0 is IPO-MD: both are sampled from pi^(1 - mixture)
    ref^mixture, token by token.
    Watch: rewards/margins against 1 / (2 tau). Fails: tau so small that no policy near ref reaches the target.
    Deviations: TRL's online trainer sums too, and has no mixture.
    """
    sampler = towards_start(mixture) if mixture else SELF
    return Stage(
        rollouts(task, 2, model=sampler) | verify(task) | judged(ties=ties),
        policy(contrast(score=LogRatio(normalise=normalise), link=Square(1 / (2 * tau)), beta=1.0)),
        recommends={"learning_rate": 1e-6},
    )


@method(
    family="online preference", interface="judge", usual_provenance="mixed", usual_role="expansion",
    paper="2405.21046",
)  # fmt: skip
def xpo(task, *, beta: Beta = 0.1, alpha: float = 1e-5, ties: Literal["drop", "random"] = "drop") -> Stage:
    """Exploratory preference optimisation: online DPO against the reference's response, with a bonus for leaving it.

        y ~ pi,  y~ ~ ref (the learner when the stage began);  the judge prefers one of the two
        L = 1/P sum -log sigmoid(beta [(S_w - S_w^ref) - (S_l - S_l^ref)]) + alpha * 1/P sum S(y~)

    The second term lowers the likelihood of what the reference would say: optimism, which makes exploration provable.
    S = sum_t log pi(y_t). Samples and judgements are detached. alpha = 0 is online DPO on (pi, ref) pairs; 1e-5 is
    TRL's default.
    Watch: the log-prob of members tagged reference. Fails: alpha so large that y~ is pushed down without limit.
    Half of what is trained is the reference's: the ledger calls it mixed.
    Deviations: a pair judged equal leaves both terms (ties: "random" keeps it), where TRL's judge always decides.
    """
    return Stage(
        rollouts(task) | rollouts(task, model=SELF_START, tag="reference") | verify(task) | judged(ties=ties),
        policy(
            contrast(beta=beta),
            policy_gradient(advantage=one, on="tag:reference", coef=-alpha, reduce=per_sequence_sum, name="optimism"),
        ),
        recommends={"learning_rate": 1e-6},
    )


@method(
    family="online preference", interface="judge", usual_provenance="on-policy", usual_role="reshaping",
    paper="2312.00886",
)  # fmt: skip
def nash_md(
    task,
    *,
    beta: float = 0.1,
    mixture: Mixture = 0.5,
    kl: Literal["sequence", "token"] = "sequence",
    by: Literal["sign", "logistic"] = "sign",
) -> Stage:
    """Nash learning from human feedback (Nash-MD): win against a mixture of oneself and the reference.

        y ~ pi,   y' ~ pi_mix proportional to pi^(1 - mixture) ref^mixture, token by token;  ref = the learner's start
        sequence   A = P(y > y') - 1/2 - beta sum_t d_t,   d = log pi_sampled - log pi_start;  L = -1/N sum A S(y)
        token      A = P(y > y') - 1/2;  L = -1/N sum [A S(y) - beta sum_t d_t log pi(y_t)],  d = log pi - log pi_start

    S = sum_t log pi(y_t); A and d are detached. "sequence" is the paper's gradient, the KL of responses; "token" is
    TRL's, which keeps each position's share to itself (discount 0). mixture 0 is self-play, 1 plays against ref; y' is
    judged and not trained. by: how the judge's numbers give P, the sign of a verdict or the sigmoid of a reward.
    Watch: advantage/mean, the share of opponents that win. Fails: a verifier that ties y and y' says nothing.
    Deviations: mixture 0.5 is TRL's; unverified: the paper's 0.125.
    """
    wins = no_baseline(signal="preference")
    held = policy_gradient(advantage=one, factor=Kl("k2"), coef=beta, reduce=per_sequence_sum, name="kl")
    terms = (policy_gradient(advantage=credit, reduce=per_sequence_sum), *((held,) if kl == "token" else ()))
    return Stage(
        rollouts(task)
        | rollouts(task, model=towards_start(mixture), tag="opponent")
        | verify(task)
        | against_opponents(by=by),
        policy(*terms, credit=kl_penalty(beta) >> wins if kl == "sequence" else wins),
        recommends={"learning_rate": 5e-7},
    )
