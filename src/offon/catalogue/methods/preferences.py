"""Preference optimisation on comparisons, labels and rankings that are given."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt

from offon.catalogue.registry import method
from offon.collect import Collector, best_against_worst, labelled, mismatched, preferences, rankings, rollouts, verify
from offon.parts import (
    Exponential,
    Hinge,
    Logistic,
    LogProb,
    LogRatio,
    Odds,
    PolicyGradient,
    Robust,
    Savage,
    Square,
    Stage,
    TruncatedSquare,
    contrast,
    listwise,
    one,
    per_sequence,
    per_sequence_sum,
    per_token,
    policy,
    policy_gradient,
    unpaired,
)

Positive, Coef, GroupSize = Annotated[float, Gt(0)], Annotated[float, Ge(0)], Annotated[int, Ge(2)]
Share = Annotated[float, Ge(0), Lt(0.5)]
NllPer = Literal["pair", "token", "sum"]
Normalise = Literal["none", "length"]
NLL = {"pair": per_sequence, "token": per_token, "sum": per_sequence_sum}
row = partial(
    method, family="offline preference", interface="preferences", usual_provenance="off-policy", usual_role="reshaping"
)


def pairs(data, task, group_size: int) -> Collector:
    """The pairs in `data`; without data `group_size` scored rollouts of the task, the best against the worst."""
    return preferences(data) if data is not None else rollouts(task, group_size) | verify(task) | best_against_worst()


def likelihood(coef: float, per: NllPer) -> tuple[PolicyGradient, ...]:
    """The chosen response as a token target, where it has a coefficient."""
    return (policy_gradient(advantage=one, on="tag:chosen", coef=coef, reduce=NLL[per], name="nll"),) if coef else ()


@row(paper="2305.18290")
def dpo(
    data=None,
    task=None,
    *,
    beta: Positive = 0.1,
    nll: Coef = 0.0,
    nll_per: NllPer = "pair",
    normalise: Normalise = "none",
    group_size: GroupSize = 8,
) -> Stage:
    """Direct preference optimisation, optionally with a likelihood term on the chosen response.

        L = 1/P sum -log sigmoid(h) + nll * NLL(chosen),   h = beta * [(S_w - S_w^ref) - (S_l - S_l^ref)]
        S = sum_t log pi(y_t),  ref = the learner when the stage began

    nll: "pair" 1/P sum_pairs NLL(y_w) / |y_w|, coefficient 1 (iterative RPO, arXiv:2404.19733); "token" a mean over all
    chosen tokens of the step, a second denominator; "sum" 1/P sum_pairs NLL(y_w), 0.005 at beta 0.01 (2405.16436).
    normalise="length" divides S by its length (arXiv:2411.15124): beta must then be 10 to 25 times as large.
    Pairs come from `data` (prompt, chosen, rejected); without data they are built from `group_size` scored rollouts of
    the task, best against worst. The reference has no gradient.
    Watch: rewards/chosen falling together with rewards/rejected; at the start accuracies are 0.5, the loss log 2.
    Fails: likelihood of both can fall while the margin grows; pairs the model would never write teach it little.
    Deviation: TRL's sft term is a token mean over the local micro-batch; here counts are taken on the whole step.
    """
    term = contrast(beta=beta, score=LogRatio(normalise=normalise))
    return Stage(
        pairs(data, task, group_size), policy(term, *likelihood(nll, nll_per)), recommends={"learning_rate": 1e-6}
    )


@row(paper="2403.00409")
def cdpo(data=None, task=None, *, smoothing: Share = 0.1, beta: Positive = 0.1, group_size: GroupSize = 8) -> Stage:
    """Conservative DPO: label smoothing for comparisons of which a share may be wrong (Mitchell 2023, a note; compared
    in arXiv:2403.00409).

        L = 1/P sum [-(1 - e) log sigmoid(h) - e log sigmoid(-h)],   h as in dpo,   e = smoothing

    Its minimum is at sigmoid(h) = 1 - e: the margin stops growing there, where dpo's never does. e = 0 is dpo.
    The reference has no gradient.
    Watch: rewards/margins settling near log((1 - e) / e). Fails: on clean labels it stops early; it is biased for the
    clean objective, which robust_dpo is not. Deviations: TRL 1.16 has no loss of this form any more.
    """
    return Stage(
        pairs(data, task, group_size),
        policy(contrast(beta=beta, link=Logistic(smoothing))),
        recommends={"learning_rate": 1e-6},
    )


@row(paper="2403.00409")
def robust_dpo(data=None, task=None, *, flipped: Share = 0.1, beta: Positive = 0.1, group_size: GroupSize = 8) -> Stage:
    """Provably robust DPO: unbiased for the clean loss when a known share of the labels is flipped at random.

        L = 1/P sum [-(1 - e) log sigmoid(h) + e log sigmoid(-h)] / (1 - 2e),   h as in dpo,   e = flipped

    If labels are flipped with probability e, its expectation is dpo's loss on the clean ones. e = 0 is dpo.
    The reference has no gradient.
    Watch: rewards/margins. Fails: the loss has no lower bound in h: with clean data it pushes forever, so stop early;
    the variance grows as e nears 1/2. Deviations: none (TRL's "robust").
    """
    return Stage(
        pairs(data, task, group_size),
        policy(contrast(beta=beta, link=Robust(flipped))),
        recommends={"learning_rate": 1e-6},
    )


@row(paper="2310.12036")
def ipo(
    data=None, task=None, *, tau: Positive = 0.1, normalise: Normalise = "none", group_size: GroupSize = 8
) -> Stage:
    """Identity preference optimisation: pull the log-ratio difference to a finite margin instead of to infinity.

        L = 1/P sum (d - 1 / (2 tau))^2,   d = (S_w - S_w^ref) - (S_l - S_l^ref)

    normalise="none": S sums over tokens, as the paper derives it, a target of 5 nats per response at tau 0.1;
    "length": S is divided by its length, as TRL's DPOTrainer does (the authors confirmed it for their experiments):
    then the target is 5 nats per token, and tau should be larger. The reference has no gradient.
    Watch: rewards/margins, which is d, against 1 / (2 tau). Fails: one normalisation with the other's tau.
    Deviations: TRL's DPO averages, TRL's online DPO sums; both are here. learning_rate 1e-6 is dpo's, not the paper's.
    """
    term = contrast(score=LogRatio(normalise=normalise), link=Square(1 / (2 * tau)), beta=1.0)
    return Stage(pairs(data, task, group_size), policy(term), recommends={"learning_rate": 1e-6})


@row(paper="2403.07691")
def orpo(data=None, task=None, *, coef: Coef = 0.1, nll_per: NllPer = "token", group_size: GroupSize = 8) -> Stage:
    """Odds-ratio preference optimisation: supervised fine-tuning and preference in one stage, without a reference.

        L = NLL(chosen) + coef * 1/P sum -log sigmoid(log odds(y_w) - log odds(y_l))
        odds(y) = p / (1 - p),   log p = mean_t log pi(y_t)

    NLL is a mean over the chosen tokens of the step (nll_per="pair": over pairs, of their means). coef = 0 is sft on
    the chosen. log(1 - p) is computed from log p below -1e-7. coef 0.1 as the paper.
    Watch: loss/nll and loss/contrast; rewards/accuracies. Fails: the odds term is weak next to the likelihood, so
    rejected answers may grow too. Deviations: TRL takes the NLL over prompt and response; here prompts never train.
    """
    return Stage(
        pairs(data, task, group_size),
        policy(*likelihood(1.0, nll_per), contrast(score=Odds(), beta=1.0, coef=coef)),
        recommends={"learning_rate": 8e-6},
    )


@row(paper="2405.14734")
def simpo(data=None, task=None, *, beta: Positive = 2.0, gamma: Coef = 0.5, group_size: GroupSize = 8) -> Stage:
    """Simple preference optimisation: mean log-probs, a margin, no reference.

        L = 1/P sum -log sigmoid(beta * (a_w - a_l) - gamma),   a = mean_t log pi(y_t)

    a is what decoding maximises per token, and its length is data, not a denominator. beta 2 and gamma 0.5 (gamma /
    beta 0.25) are the code's defaults; released runs use beta 2 to 10 and gamma / beta 0.1 to 0.8.
    Watch: rewards/chosen (beta times the mean log-prob) collapsing; the learning rate is the most sensitive number.
    Fails: without a reference the likelihood of everything can drift; use an anchor or a small learning rate.
    Deviations: TRL's SimPO adds CPO's NLL unless cpo_alpha is 0; here there is none.
    """
    term = contrast(score=LogProb("length"), beta=beta, margin=gamma)
    return Stage(pairs(data, task, group_size), policy(term), recommends={"learning_rate": 1e-6})


@row(paper="2401.08417")
def cpo(
    data=None, task=None, *, beta: Positive = 0.1, nll: Coef = 1.0, nll_per: NllPer = "token", group_size: GroupSize = 8
) -> Stage:
    """Contrastive preference optimisation: dpo against a uniform reference, kept near the chosen answers by likelihood.

        L = 1/P sum -log sigmoid(beta * (S_w - S_l)) + nll * NLL(chosen),   S = sum_t log pi(y_t)

    NLL is a mean over the chosen tokens of the step. No reference is held.
    Watch: loss/nll: the only thing that keeps likelihood up; rewards/margins. Fails: S sums, so longer rejected answers
    make large margins by their length. Deviations: learning_rate 1e-6; the authors' 1e-4 is for LoRA.
    """
    term = contrast(score=LogProb(), beta=beta)
    return Stage(
        pairs(data, task, group_size), policy(term, *likelihood(nll, nll_per)), recommends={"learning_rate": 1e-6}
    )


@row(paper="2305.10425")
def slic(data=None, task=None, *, delta: Positive = 1.0, coef: Coef = 0.5, group_size: GroupSize = 8) -> Stage:
    """Sequence likelihood calibration (SLiC-HF): a margin of likelihoods, regularised by likelihood of the target.

        L = 1/P sum [ max(0, delta - S_w + S_l) - coef * S_w ],   S = sum_t log pi(y_t)

    The target of the second part is the chosen response. No reference is held. delta 1 and coef 0.5 are unverified:
    the paper tunes both.
    Watch: rewards/margins against delta: pairs beyond it push no more. Fails: S grows with length, so delta means less
    for long answers. Deviations: TRL's "hinge" is max(0, 1 - h) with dpo's h, which is RSO's (arXiv:2309.06657):
    gpo with link hinge.
    """
    return Stage(
        pairs(data, task, group_size),
        policy(contrast(score=LogProb(), link=Hinge(delta), beta=1.0), *likelihood(coef, "sum")),
        recommends={"learning_rate": 1e-6},
    )


LINKS = {
    "logistic": Logistic(), "square": Square(), "hinge": Hinge(), "exponential": Exponential(),
    "truncated_square": TruncatedSquare(), "savage": Savage(),
}  # fmt: skip


@row(paper="2402.05749")
def gpo(
    data=None,
    task=None,
    *,
    beta: Positive = 0.1,
    group_size: GroupSize = 8,
    link: Literal["logistic", "square", "hinge", "exponential", "truncated_square", "savage"] = "square",
) -> Stage:
    """Generalised preference optimisation: any convex loss of dpo's margin.

        L = 1/P sum f(h),   h = beta * [(S_w - S_w^ref) - (S_l - S_l^ref)]
        logistic log(1 + e^-h)      square (1 - h)^2            hinge max(0, 1 - h)
        exponential e^-h            truncated_square max(0, 1 - h)^2    savage 1 / (1 + e^h)^2

    logistic is dpo; square is ipo at tau = beta / 2, times 4 tau^2; hinge is RSO's. At h = 0 all push the same way and
    differ by f'(0) = -1/2, -2, -1, -1, -2, -1/4, that is by a learning rate; they differ in when they let go. Savage is
    bounded (and not convex): wrong labels cost at most 1. The reference has no gradient.
    Watch: rewards/margins against 1 (square, hinge and truncated_square are satisfied there).
    Fails: exponential gives single wrong pairs exponentially large gradients. Deviations: none known.
    """
    return Stage(
        pairs(data, task, group_size),
        policy(contrast(beta=beta, link=LINKS[link])),
        recommends={"learning_rate": 1e-6},
    )


@row(paper="2402.01306")
def kto(data, *, beta: Positive = 0.1, desirable: Positive = 1.0, undesirable: Positive = 1.0) -> Stage:
    """Kahneman-Tversky optimisation: single answers with a thumb up or down, no pairs.

        L = 1/N sum  desirable * (1 - sigmoid(beta (u - z0)))      for desirable answers
                     undesirable * (1 - sigmoid(beta (z0 - u)))    for undesirable ones
        u = S - S^ref,   z0 = max(0, mean of u over answers put after other prompts)

    z0 estimates KL(pi || ref), without gradient, once on the whole step before it is split. Its answers are scored and
    never trained: each prompt of the buffer gets the answer of the one before it. The reference has no gradient.
    `data` has prompt, completion and label (true or false). With unequal counts choose the weights so that
    desirable * n_desirable / (undesirable * n_undesirable) is between 1 and 4/3 (TRL warns outside).
    Watch: unpaired/z (the KL), rewards/chosen and rewards/rejected; at the start every loss is 0.5 times its weight.
    Fails: it saturates: answers far from z0, hopeless or settled, push nothing. Needs 2 prompts per step or more.
    Deviations: TRL's z0 is a mean of per-rank means over micro-batches; here one mean over the step.
    """
    term = unpaired(beta=beta, gain_weight=desirable, loss_weight=undesirable)
    return Stage(labelled(data) | mismatched(), policy(term), recommends={"learning_rate": 5e-7})


@row(paper="2404.04656")
def bco(data, *, beta: Positive = 0.1) -> Stage:
    """Binary classifier optimisation: a logistic classifier of good and bad answers, with its threshold in the middle.

        L = 1/N sum  -log sigmoid(r - delta) for desirable answers,  -log sigmoid(delta - r) for undesirable ones
        r = beta (S - S^ref),   delta = mean of r over the step's answers of both kinds

    delta has no gradient and is taken by the learner as it stands, once on the whole step before it is split; the
    reference has no gradient. `data` as kto's. beta 0.1 is TRL's, the paper's 0.01.
    Watch: rewards/chosen against rewards/rejected; at the start the loss is log 2. Fails: with one kind only, delta
    follows it and nothing is learned. Deviations: the paper, and TRL while it had a BCO trainer (1.16 has none), keep a
    running mean over past steps, which mixes in earlier learners and needs state; at the first step the two agree. The
    weights for prompts on which only one kind was seen (a prompt classifier) are left out.
    """
    term = unpaired(link=Logistic(), z="mean", beta=beta)
    return Stage(labelled(data), policy(term), recommends={"learning_rate": 5e-7})


@row(paper="2305.18290")
def plackett_luce(data, *, beta: Positive = 0.1, reduce: Literal["per_group", "per_choice"] = "per_group") -> Stage:
    """Listwise preference: the likelihood of a whole ranking, best first chosen, then the best of the rest.

        L = 1/N sum_rankings - sum_{k<K} [ s_k - logsumexp_{j>=k} s_j ],   s = beta (S - S^ref),  y_1 > ... > y_K

    A ranking of two is dpo. reduce="per_choice" divides each ranking by its K - 1 choices, so that long lists weigh the
    same. The reference has no gradient. `data` has prompt and completions, from best to worst, without ties.
    Watch: rewards/accuracies (rankings whose best is first). Fails: the order of bad answers costs as much as that of
    good ones. Deviations: DPO's appendix, which leaves the normalisation open.
    """
    return Stage(rankings(data), policy(listwise(beta=beta, reduce=reduce)), recommends={"learning_rate": 1e-6})
