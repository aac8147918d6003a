"""Demonstrations or past rollouts beside fresh ones: token targets and rewards in one stage."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from offon.catalogue.registry import method
from offon.collect import ExpertPrefix, add_demo, add_replay, experience, gate, queue_hardest, right, rollouts, verify
from offon.collect.sources.dataset import Library
from offon.parts import (
    Clip,
    EntropyWeight,
    Fade,
    Shaped,
    ShapedRatio,
    Stage,
    Uncertainty,
    behavior,
    constant,
    credit,
    one,
    per_prompt,
    per_sequence,
    policy,
    policy_gradient,
)
from offon.parts.credits import among, group_mean, group_mean_std

GroupSize = Annotated[int, Ge(2)]
Count = Annotated[int, Ge(1)]
Share = Annotated[float, Ge(0), Le(1)]
Bounds = tuple[float, float]
WORDS = {"family": "mixed", "interface": "token targets + reward", "usual_provenance": "mixed"}
RL = {"learning_rate": 1e-6}


@method(**WORDS, usual_role="expansion", paper="2504.14945")
def luffy(
    task,
    data,
    *,
    group_size: GroupSize = 8,
    demos: Annotated[int, Ge(0)] = 1,
    gamma: Annotated[float, Gt(0)] = 0.1,
    clip: Bounds | None = None,
    length: Count = 8192,
) -> Stage:
    """Demonstrations compete with the learner's own responses in one group, and learn where they are unlikely.

        A_i = R_i - mean over the group, demonstrations included
        L = -1/(N length) [ sum_rollouts r_t A_i  +  sum_demos f(p_t) A_j ],  p = pi(y_t),  f(p) = p / (p + gamma)

    N counts all responses of the step, r = pi / pi_sampled. f's gradient weight p gamma / (p + gamma)^2 is detached:
    1/4 at p = gamma, 0.083 at p = 1. The demonstration's sampler is unknown, its denominator is 1. Of the group_size
    members `demos` are demonstrations; they are verified like the others. Prompts nobody demonstrated have rollouts
    only.
    Watch: reward of the demonstrations against that of rollouts; entropy. demos 0 is dr_grpo.
    Fails: a group all right or all wrong teaches nothing, demonstration included.
    Deviations: as released: no std, sums over a constant length, and no clip on rollouts (the paper clips:
    clip=(.2,.2)); the released entropy bonus of 0.001 is left out. Recomputing mean and std from rollouts alone is
    another method.
    """
    every = constant(length, over="trainable")
    trust = Clip(*clip) if clip else None
    return Stage(
        rollouts(task, group_size - demos) | add_demo(data, demos) | verify(task),
        policy(
            policy_gradient(advantage=credit, on="learner", ratio=behavior, trust=trust, reduce=every, name="rollouts"),
            policy_gradient(advantage=credit, on="external", factor=Shaped(gamma), reduce=every, name="demos"),
            credit=group_mean(),
        ),
        recommends=RL,
    )


@method(**WORDS, usual_role="expansion", paper="2506.19767")
def srft(
    task,
    data,
    *,
    group_size: GroupSize = 8,
    demos: Count = 1,
    sft: float = 0.5,
    right: float = 0.1,
    gamma: Annotated[float, Gt(0)] = 0.1,
    length: Count = 8192,
) -> Stage:
    """SFT and RL at once, weighed by how sure the learner is.

        L =   1/M sum_demos     - sft exp(-H) log pi(y_t)                      M demonstrated tokens
            + 1/(N length) [ sum_demos -f(p_t) A_j  + sum_right - right exp(H) log pi(y_t) + sum_wrong log pi(y_t) ]

    H is the mean entropy of the learner over a response, detached; f as in luffy; A_j = (R_j - mean) / (std + 1e-4)
    over rollouts and demonstrations; N counts all responses. Own right responses count more where the learner is
    unsure, demonstrations where it is sure; wrong ones are pushed down at 1.
    Watch: entropy, which the exp(H) term is meant to hold up; gain of each term. Fails: as luffy; the push against
    wrong responses has no ratio and no bound.
    Deviations: unverified: constants and form are those of HPT's re-implementation (0.5, 0.1), not read in the paper.
    """
    every = constant(length, over="trainable")
    return Stage(
        rollouts(task, group_size - demos) | add_demo(data, demos) | verify(task),
        policy(
            policy_gradient(advantage=one, on="external", factor=EntropyWeight(sft, -1.0), name="sft"),
            policy_gradient(advantage=credit, on="external", factor=Shaped(gamma), reduce=every, name="demos"),
            policy_gradient(
                advantage=one, on="learner & right", factor=EntropyWeight(right, 1.0), reduce=every, name="right"
            ),
            policy_gradient(advantage=one, on="learner & wrong", reduce=every, coef=-1.0, name="wrong"),
            credit=group_mean_std(),
        ),
        recommends=RL,
    )


@method(**WORDS, usual_role="expansion", paper="2505.16984")
def uft(
    task,
    data,
    *,
    group_size: GroupSize = 8,
    cuts: Count = 5,
    start: Share = 0.95,
    end: Share = 0.05,
    over: Share = 0.6,
    sft: float = 0.001,
    clip: Bounds = (0.2, 0.2),
) -> Stage:
    """Unified fine-tuning: rollouts begin with part of a demonstration, ever less of it, which is also learned.

        h = first k/cuts of a demonstration,  k ~ Binomial(cuts, p(step)),  p: start -> end by a cosine over `over`
        L = -1/N sum_i 1/|y_i| sum_t min(r_t A_i, clip(r_t) A_i)  -  sft/M sum_{t in h} log pi(h_t)

    y_i continues h, A is grpo's, M counts the tokens of all h. One k for a group. p 0: grpo; p 1: sft, and a last
    token. over 0.6: the authors hint for 300 of 500 steps. sft 0.001: the loss on h only keeps it from being forgotten.
    Watch: reward as the hints go. Fails: p falling faster than the skill grows.
    Deviations: parts are equal in tokens (the authors cut at sentences) and p stays at `end` where they go to 0; their
    hint mask is shifted by one token; their KL of 0.001 to the start is `with: [kl_anchor]`. A sampling temperature
    other than 1 is that of the hint's likelihood too.
    """
    guide = ExpertPrefix(library=Library(data), amount=Fade(start, end, over, "cosine"), cuts=cuts, scaffold=False)
    return Stage(
        rollouts(task, group_size, guide=guide) | verify(task),
        policy(
            policy_gradient(
                advantage=credit, on="learner", ratio=behavior, trust=Clip(*clip), reduce=per_sequence, name="rollouts"
            ),
            policy_gradient(advantage=one, on="external", coef=sft, name="sft"),
            credit=group_mean_std(),
        ),
        recommends=RL,
    )


@method(**WORDS, usual_role="expansion", paper="2508.11408")
def chord(
    task,
    data,
    *,
    weight: Literal["phi", "mu"] = "phi",
    peak: Share = 0.1,
    valley: Share = 0.1,
    rise: Share = 0.0,
    over: Share = 1.0,
    group_size: GroupSize = 8,
    demos: Count = 1,
    clip: Bounds = (0.2, 0.2),
) -> Stage:
    """SFT as an auxiliary objective of RL, faded or weighed token by token.

        L = (1 - mu) L_grpo + mu L_sft,   L_sft = 1/M sum_t - w_t log pi(d_t) over demonstrations
        w_t = p_t (1 - p_t), detached (phi);  w_t = 1 (mu)

    mu(step) rises to `peak` over `rise` of the stage, then falls to `valley` by a cosine over `over`. L_grpo is a token
    mean over rollouts, M counts demonstrated tokens. phi is at most 1/4, at p = 1/2: neither what is known nor what is
    out of reach is pushed. The paper's mu form: weight: mu with peak 0.9 falling to 0.05.
    mu 0 is grpo with a token mean, mu 1 is sft, its tokens weighed by phi or not.
    Watch: loss/sft against reward. Fails: mu high for long with demonstrations far from the learner: its own way is
    lost.
    Deviations: demonstrations are those of the step's prompts; Trinity draws them from a data set of their own.
    """
    mu = Fade(peak, valley, over, "cosine", rise=rise)
    return Stage(
        rollouts(task, group_size) | add_demo(data, demos) | verify(task),
        policy(
            policy_gradient(
                advantage=credit, on="learner", ratio=behavior, trust=Clip(*clip), coef=mu.complement, name="rollouts"
            ),
            policy_gradient(
                advantage=one, on="external", factor=Uncertainty() if weight == "phi" else None, coef=mu, name="sft"
            ),
            credit=among(group_mean_std(), "learner"),
        ),
        recommends=RL,
    )


@method(**WORDS, usual_role="expansion", paper="2509.04419")
def hpt(
    task, data, *, group_size: GroupSize = 8, over: Annotated[int, Ge(0)] = 0, sft: float = 1.0, length: Count = 8192
) -> Stage:
    """Hybrid post-training: prompts the learner can solve are trained by RL, the others by their demonstration.

        L = 1/P sum_prompts  { -1/(G length) sum_i sum_t r_t A_i         if more than `over` of its G rollouts are right
                             { -sft/length sum_t log pi(d_t)             otherwise; the rollouts are dropped

    A_i = R_i - mean of the group. over 0: SFT only where all fail (the authors' Qwen scripts; 2 for LLaMA). sft 1.0
    (0.3 for their 1.5B model). Undemonstrated prompts that fail leave the step.
    Watch: the share of groups dropped as "not right more than 0 times" falling. Fails: as sft and as dr_grpo, apart.
    Deviations: their entropy bonus of 0.001 is left out; learning rate 5e-6 is theirs.
    """
    every = per_prompt(length, over="trainable")
    return Stage(
        rollouts(task, group_size) | verify(task) | gate(right(over), add_demo(data)),
        policy(
            policy_gradient(advantage=credit, on="learner", ratio=behavior, reduce=every, name="rollouts"),
            policy_gradient(advantage=one, on="external", reduce=every, coef=sft, name="sft"),
            credit=among(group_mean(), "learner"),
        ),
        recommends={"learning_rate": 5e-6},
    )


@method(**WORDS, usual_role="expansion", paper="2506.07527")
def relift(
    task, data, *, group_size: GroupSize = 8, clip: Bounds = (0.2, 0.28), sft: float = 1.0, batch: Count | None = None
) -> Stage:
    """RL interleaved with fine-tuning on what it cannot learn: prompts that always fail queue for a step of SFT.

        RL steps    L = -1/M sum_i sum_t min(r_t A_i, clip(r_t, 1 - low, 1 + high) A_i),   A_i = R_i - mean of the group
        SFT steps   L = -sft/M sum_t log pi(d_t)

    A prompt joins the queue when all its rollouts fail; once `batch` demonstrated prompts wait (as many as a buffer
    has, unless written) the next buffer is their demonstrations, oldest first. Without hard prompts it is RL.
    M counts trained tokens. clip and the missing std are the authors' script's; both kinds of step train at 1e-6.
    Watch: how often SFT steps come (about 13% of demonstrations were used in the paper). Fails: demonstrations too far
    from the learner: the same prompts queue again.
    Deviations: an SFT step takes the place of an RL step: the prompts drawn for it wait for the next pass over the
    data; one optimizer serves both, the authors keep a second one.
    """
    return Stage(
        queue_hardest(collect=rollouts(task, group_size) | verify(task), demos=add_demo(data), size=batch),
        policy(
            policy_gradient(advantage=credit, on="learner", ratio=behavior, trust=Clip(*clip), name="rollouts"),
            policy_gradient(advantage=one, on="external", coef=sft, name="sft"),
            credit=among(group_mean(), "learner"),
        ),
        recommends=RL,
    )


@method(**{**WORDS, "interface": "reward"}, usual_role="reshaping", paper="2506.09340")
def repo(
    task,
    *,
    group_size: GroupSize = 8,
    replays: Annotated[int, Ge(0)] = 8,
    from_n: Count = 16,
    choose: Literal["highest", "recent", "random", "varied"] = "highest",
    baseline: Literal["split", "joint"] = "split",
    coef: float = 1.0,
    clip: Bounds = (0.2, 0.2),
) -> Stage:
    """GRPO with earlier rollouts of the same prompts beside the fresh ones.

        L = L_grpo(fresh) + coef * L_grpo(replays),   r_t = pi(y_t) / pi_k(y_t), pi_k the weights that sampled y

    The stored log-probs of pi_k are the denominator, never recomputed: a ratio of 1 would hide how old they are.
    baseline: fresh and replayed members have mean and std of their own (split), or share them (joint).
    choose: highest reward, most recent, at random, or half from either end of the rewards. A prompt is replayed once it
    has from_n earlier responses. replays 0 is grpo.
    Watch: mean_age, ratio/clip_frac of replays. Fails: old replays are mostly clipped, and cost without teaching.
    Deviations: the authors keep the latest 16 responses of a prompt; the ledger has all. name: five other papers are
    called RePO.
    """

    def term(on: str, **changes):
        return policy_gradient(
            advantage=credit, on=on, ratio=behavior, trust=Clip(*clip), reduce=per_sequence, **changes
        )

    apart = among(group_mean_std(), "!tag:replay") >> among(group_mean_std(), "tag:replay")
    return Stage(
        rollouts(task, group_size) | verify(task) | add_replay(n=replays, choose=choose, from_n=from_n),
        policy(
            term("!tag:replay", name="fresh"),
            term("tag:replay", name="replays", coef=coef),
            credit=apart if baseline == "split" else group_mean_std(),
        ),
        recommends=RL,
    )


@method(**{**WORDS, "interface": "reward"}, usual_role="reshaping", paper="2510.02245")
def exgrpo(
    task,
    *,
    group_size: GroupSize = 8,
    share: Share = 0.5,
    start: Share = 0.35,
    gamma: Annotated[float, Gt(0)] = 0.1,
    length: Count = 8192,
) -> Stage:
    """Experience: half of the prompts are ones solved now and then, with one past success in their group.

        A_i = R_i - mean of the group, the replay included
        L = -1/(N length) [ sum_fresh r_t A_i + sum_replays f(r_t) A_j ],   f(r) = r / (r + gamma),  r = pi / pi_k

    N counts all responses; pi_k sampled the replay, its log-probs are stored. f's gradient weight r gamma / (r +
    gamma)^2 is detached: 0.083 at r = 1. Replayed is the right response the learner is surest of now (least entropy),
    of prompts drawn with weight exp(-(success rate - 1/2)^2 / 2); prompts once solved every time are retired. Replay
    starts after a buffer with a success rate over `start`.
    Watch: mean_age; reward of fresh members of replayed prompts. Fails: few prompts are solved now and then: the same
    ones come again and again.
    Deviations: replayed prompts take the place of drawn ones, which wait for the next pass over the data; the width of
    the weight is unverified, as is the missing std.
    """
    every = constant(length, over="trainable")
    return Stage(
        experience(share=share, start=start) | rollouts(task, group_size, total=True) | verify(task),
        policy(
            policy_gradient(advantage=credit, on="!tag:replay", ratio=behavior, reduce=every, name="fresh"),
            policy_gradient(
                advantage=credit,
                on="tag:replay",
                ratio=behavior,
                trust=ShapedRatio(gamma),
                reduce=every,
                name="replays",
            ),
            credit=group_mean(),
        ),
        recommends=RL,
    )
