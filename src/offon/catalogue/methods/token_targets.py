"""Supervised fine-tuning and its model-aware forms: token targets from data."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from offon.catalogue.registry import method
from offon.collect import demonstrations
from offon.parts import (
    SELF_START,
    Clip,
    ImportanceWeight,
    P,
    PowerOfP,
    Reduce,
    Stage,
    Unlikelihood,
    divergence,
    one,
    per_sequence,
    per_token,
    policy,
    policy_gradient,
    proximal,
)

PER: dict[str, Reduce] = {"token": per_token, "sequence": per_sequence}
Per = Literal["token", "sequence"]
Probability = Annotated[float, Ge(0), Le(1)]
row = partial(method, family="sft", interface="token targets", usual_provenance="off-policy")


@row(paper="2203.02155", usual_role="expansion or reshaping")
def sft(data, *, per: Per = "token") -> Stage:
    """Supervised fine-tuning: maximum likelihood on demonstrated responses.

        L = 1/D sum_i sum_t -log pi(y_it | x_i, y_i,<t)

    per="token": D is the number of supervised tokens in the step (each token counts the same, long answers weigh more);
    per="sequence": the mean over sequences of their token means (each sample counts the same).
    Supervised are the assistant's tokens with their end-of-turn; never the prompt, user or tool turns.
    Watch: loss/total; success after the stage, not the loss, says whether it helped.
    Fails: learns the surface of data the model could already produce; a large learning rate erases other skills.
    Deviations: none from TRL's token mean, taken over the whole step; the likelihood of whole sequences would be a sum.
    """
    return Stage(
        demonstrations(data),
        policy(policy_gradient(advantage=one, reduce=PER[per])),
        recommends={"learning_rate": 2e-5},
    )


@row(paper="2508.05629", usual_role="reshaping")
def dft(data, *, per: Per = "token") -> Stage:
    """Dynamic fine-tuning: likelihood weighted by the probability the model already gives the token.

        L = 1/D sum_i sum_t -sg(p_it) log p_it,   p_it = pi(y_it | x_i, y_i,<t);   its gradient is that of 1 - p

    The weight p is detached: with it differentiated, tokens below p = 1/e would be pushed down. D counts tokens, as in
    sft; not the sum of the weights. learning_rate 5e-5 is the paper's: the weights make steps smaller than sft's.
    Watch: loss/policy_gradient is at most 1/e per token and is no likelihood; success after the stage.
    Fails: tokens the model finds unlikely get almost no gradient, so new facts and formats are not learned; the
    authors report losses outside reasoning. Deviations: none from the authors' code or TRL's loss_type "dft".
    """
    return Stage(
        demonstrations(data),
        policy(policy_gradient(advantage=one, factor=P(), reduce=PER[per])),
        recommends={"learning_rate": 5e-5},
    )


@row(paper="2510.00526", usual_role="reshaping")
def probability_family(
    data,
    *,
    a: Annotated[float, Ge(0)] = 1.0,
    at_least: Probability = 0.0,
    at_most: Probability = 1.0,
    per: Per = "token",
) -> Stage:
    """Probability-based objectives f_a ("Beyond log likelihood"): how much a token the model doubts should count.

        L = 1/D sum f_a(p_t) [at_least <= p_t <= at_most],   f_a(p) = (1 - p^a) / a

    Its gradient weighs -log p by p^a (detached): a = 0 is sft, a = 1 is dft, larger a leans on what is already likely.
    The brackets use the current p, detached; `at_least` trains only on likely tokens, `at_most` only on doubted ones.
    The paper: a >= 1 or a threshold where the model's prior is strong (mathematics), sft where it is weak.
    Watch: loss/policy_gradient is the weighted likelihood, no objective value; success after the stage.
    Fails: as dft where the prior is weak. Deviations: D counts all supervised tokens; the authors' verl code counts
    those within the thresholds, which scales a step by the inverse of their share.
    """
    return Stage(
        demonstrations(data),
        policy(policy_gradient(advantage=one, factor=PowerOfP(a, at_least, at_most), reduce=PER[per])),
        recommends={"learning_rate": 5e-5},
    )


@row(paper="2508.17784", usual_role="reshaping")
def psft(data, *, clip: tuple[float, float] = (0.2, 0.28)) -> Stage:
    """Proximal SFT: a demonstration's token stops pushing once it has become 1 + high times as likely.

        L = -1/D sum_t min(r_t, clip(r_t, 1 - low, 1 + high)),   r_t = pi(y_t) / pi_buffer(y_t)

    pi_buffer: the learner when the buffer was filled, so a buffer must feed several steps: 64 demonstrations in steps
    of 8, as released. With one step per buffer this is sft. The advantage is 1, so that only `high` acts; r_t is the
    weight, detached, the gradient -r_t [r_t <= 1 + high].
    Watch: ratio/clip_frac (0 means plain sft), ratio/mean. Fails: too small a buffer is sft at a learning rate of 1e-6.
    Deviations: the release also sets a dual clip of 10, which a positive advantage never reaches.
    """
    return Stage(
        demonstrations(data),
        policy(policy_gradient(advantage=one, ratio=proximal, trust=Clip(*clip))),
        recommends={"learning_rate": 1e-6, "prompts_per_step": 8, "prompts_per_buffer": 64, "warmup_steps": 10},
    )


@row(paper="2509.23753", usual_role="reshaping")
def asft(data, *, coef: Annotated[float, Ge(0)] = 0.1, direction: Literal["forward", "reverse"] = "forward") -> Stage:
    """Anchored SFT: dft, held to the model it started from.

        L = 1/D sum_t [ -sg(p_t) log p_t + coef * KL_t ],   KL_t over the whole vocabulary

    direction="forward": KL(start || pi), the released code; "reverse": KL(pi || start), as parts of the paper write it
    (unverified which of them the published numbers used). p is detached; the start has no gradient. coef 0.1 is the
    training script's default, 0.05 its example. At the first step the KL has no gradient and this is dft.
    Watch: anchor/forward_nats; success after the stage. Fails: a large coef forbids what the data should teach.
    Deviations: both sums are over all tokens of the step; LLaMA-Factory's are means of a micro-batch.
    """
    return Stage(
        demonstrations(data),
        policy(
            policy_gradient(advantage=one, factor=P()),
            divergence(to=SELF_START, kind=direction, coef=coef, name="anchor"),
        ),
        recommends={"learning_rate": 5e-5},
    )


@row(paper="2507.12856", usual_role="reshaping")
def iw_sft(
    data, *, level: Literal["sequence", "token"] = "sequence", power: Annotated[float, Gt(0)] | None = None
) -> Stage:
    """Importance-weighted SFT on curated data: weigh what the learner has come to favour over its start.

        L = 1/D sum_i w_i sum_t -log pi(y_it),   w_i = clip(exp(power * mean_t log pi(y_it) / pi_start(y_it)), 0, 16)

    power 2 unless written. level="token": w_it = clip((pi / pi_start)^power, 0.2, 1.8) for each token, power 1 unless
    written. w is detached and 1 at the first step (sft).
    The data are good ones only (filtered to reward 1): sft on them bounds the RL objective, the weights tighten it.
    The mean over t keeps w bounded; with a sum it would explode with length.
    Watch: gain/importance_weight (mean weight). Fails: on uncurated data it amplifies whatever is learned first.
    Deviations: none from the authors' code in the weights; D counts the tokens of the whole step.
    """
    weight = (
        ImportanceWeight(power=power or 2.0)
        if level == "sequence"
        else ImportanceWeight(power=power or 1.0, low=0.2, high=1.8, level="token")
    )
    return Stage(
        demonstrations(data),
        policy(policy_gradient(advantage=one, factor=weight)),
        recommends={"learning_rate": 1e-5, "warmup_steps": 10, "lr_scheduler_type": "cosine"},
    )


@row(paper="1908.04319", usual_role="reshaping")
def unlikelihood(data, *, coef: Annotated[float, Ge(0)] = 1.0) -> Stage:
    """Unlikelihood training: likelihood of the next token, and unlikelihood of those already used.

        L = 1/D sum_t [ -log p(y_t) - coef * sum_{c in C_t} log(1 - p(c)) ],   C_t = {y_1 ... y_t-1} without y_t

    Each candidate counts once. Both parts are differentiated; by log p(c) the second is p / (1 - p), held at 0 above
    p = 1 - 1e-5. coef = 0 is sft.
    Watch: unlikelihood/mass (probability on earlier tokens), repetition in the samples.
    Fails: what must repeat (digits, brackets, names) is pushed down unless it is the target. Memory grows with the
    square of a response's length: its candidates are kept for every position.
    Deviations: candidates come from the response alone, the prompt's words may be repeated (the paper trains language
    models without prompts). The paper's sequence-level form, on repeated n-grams of own samples, is not here.
    Unverified: coef 1.
    """
    return Stage(
        demonstrations(data),
        policy(policy_gradient(advantage=one), Unlikelihood(coef=coef)),
        recommends={"learning_rate": 2e-5},
    )
