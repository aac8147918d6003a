"""Process supervision: rewards and values for the steps of a response."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from annotated_types import Ge, Gt

from offon.catalogue.arguments import ModelArg, RewardArg
from offon.catalogue.registry import method
from offon.collect import Pipe, continuation_value, drop, labelled_steps, rate, refill, rollouts, steps, tagged, verify
from offon.collect.shape.steps import step_rows
from offon.maths.steps import monotone_labels
from offon.parts import (
    SELF,
    SELF_START,
    Artefact,
    Clip,
    Kl,
    LabelCrossEntropy,
    Learner,
    Live,
    Logistic,
    Stage,
    Start,
    behavior,
    credit,
    one,
    per_sequence,
    per_token,
    policy,
    policy_gradient,
    unpaired,
)
from offon.parts.credits import kl_penalty, leave_one_out, return_to_go, whiten
from offon.parts.credits.steps import (
    ByModel,
    implicit_reward,
    leave_one_out_reward,
    min_form,
    normalised_steps,
    progress,
)
from offon.types import Group

Count = Annotated[int, Ge(1)]
GroupSize = Annotated[int, Ge(2)]
Positive = Annotated[float, Gt(0)]
Bounds = tuple[float, float]


@method(
    family="process supervision", interface="step values", usual_provenance="on-policy", usual_role="reshaping",
    paper="2410.01679",
)  # fmt: skip
def vineppo(
    task,
    *,
    group_size: Count = 8,
    continuations: Count = 9,
    separator: str | int = "\n",
    clip: Positive = 0.2,
    kl: Annotated[float, Ge(0)] = 1e-4,
) -> Stage:
    """VinePPO: PPO whose values are measured by continuing from every step, not learned.

        V(s) = mean reward of `continuations` fresh rollouts from s by the live policy;  V(end) = R
        A_t = V(s_k) - V(s_k-1) for every token t of step k, then whitened over the buffer's tokens
        L = -1/N sum_t min(r_t A_t, clip(r_t, 1 - clip, 1 + clip) A_t) + kl * 1/N sum_t k3_t

    r_t = pi(y_t) / pi_sampled(y_t); k3 estimates the KL to the learner when the stage began; N counts tokens.
    Detached: everything but log pi. The advantages of a response add up to R - V(x) before whitening;
    no critic, hence no bias, at the price of `continuations` rollouts per step (9 in the paper's configurations); a
    state that several responses share is measured once.
    separator: the text that ends a step (line breaks in the paper), or a number of tokens per step.
    Watch: tokens_generated in the cost; advantage/mean. Fails: a separator the responses never write leaves one step,
    and R - V(x) for all of it; a value of 0 or 1 everywhere teaches nothing.
    Deviations: the released configuration takes 2 epochs per buffer (`epochs: 2`) and bounds each k3 at 10.
    """
    return Stage(
        rollouts(task, group_size)
        | verify(task)
        | steps(separator)
        | continuation_value(verify(task), n=continuations),
        policy(
            policy_gradient(advantage=credit, ratio=behavior, trust=Clip(clip, clip)),
            policy_gradient(advantage=one, factor=Kl("k3"), coef=kl, name="kl"),
            credit=progress() >> whiten(),
        ),
        recommends={"learning_rate": 1e-6},
    )


@method(
    family="process supervision", interface="step values", usual_provenance="on-policy", usual_role="expansion",
    paper="2410.08146",
)  # fmt: skip
def pav(
    task,
    *,
    group_size: GroupSize = 4,
    alpha: float = 3.0,
    prover: ModelArg | None = None,
    prover_best_of: Count = 4,
    continuations: Count = 8,
    separator: str | int = "\n",
) -> Stage:
    """Rewarding progress (process advantage verifiers): outcome RL with a bonus for steps a prover profits from.

        A_mu(k) = Q_mu(s_k) - Q_mu(s_k-1),   mu = best of `prover_best_of` tries by the prover
        A_t = (R_i - mean_{j != i} R_j) + alpha A_mu(k) for every token t of step k
        L = -1/N sum_t r_t A_t,   r_t = pi(y_t) / pi_sampled(y_t)

    N counts tokens. prover: a model; the one the stage began with unless written. The progress of a step is credited to
    that step alone (the paper's gradient keeps the distribution of states fixed), so it does not telescope away.
    Detached: everything but log pi. alpha = 0 is RLOO. Q_mu is estimated without bias from `continuations` tries per
    step. A prover that is the policy itself adds no signal in expectation; one far too weak or too strong adds none at
    all, because its values do not move.
    Watch: advantage/mean; reward. Fails: alpha so large that progress is earned without ever finishing.
    Deviations: the paper trains a verifier on such estimates and asks it; here they are measured (to train one:
    math_shepherd, then prm). Unverified: alpha (3 to 5 in the paper's RL runs), best of 4.
    """
    mu = Artefact(prover) if prover else SELF_START
    proven = continuation_value(verify(task), n=continuations, completer=mu, best_of=prover_best_of)
    return Stage(
        rollouts(task, group_size) | verify(task) | steps(separator) | proven,
        policy(policy_gradient(advantage=credit, ratio=behavior), credit=leave_one_out() >> progress(coef=alpha)),
        recommends={"learning_rate": 1e-6},
    )


@method(
    family="process supervision", interface="process reward", usual_provenance="on-policy", usual_role="reshaping",
    paper="2402.03300",
)  # fmt: skip
def grpo_process(
    task, *, prm: RewardArg, group_size: GroupSize = 8, clip: Bounds = (0.2, 0.2), separator: str | int = "\n"
) -> Stage:
    """GRPO with process supervision: every step is rewarded, all steps of a group are normalised together.

        r_ik = sigma(score of the process reward model at the last token of step k)
        r~ = (r - mean) / (std + 1e-4) over every step of every member of the group,   std unbiased
        A_it = sum over steps k that end at or after t of r~_ik
        L = -1/N sum_i 1/|y_i| sum_t min(r_t A_it, clip(r_t, 1 - low, 1 + high) A_it),   r_t = pi(y_t) / pi_sampled(y_t)

    Detached: everything but log pi. One step at the end is grpo on the model's score. prm: a model that prm trained.
    Watch: reward (the checker's, which is not trained on here), completions/mean_length.
    Fails: a good step adds to |A| whatever it brings, so splitting steps pays; the checker's reward can fall meanwhile.
    Deviations: the paper adds 0.04 KL to the loss (`with: [kl_loss]`) and leaves std and epsilon open.
    """
    rewards = ByModel(Artefact(prm))
    return Stage(
        rollouts(task, group_size) | verify(task) | steps(separator),
        policy(
            policy_gradient(advantage=credit, ratio=behavior, trust=Clip(*clip), reduce=per_sequence),
            credit=normalised_steps(reward=rewards) >> return_to_go(signal=None),
        ),
        recommends={"learning_rate": 1e-6},
    )


@method(
    family="process supervision", interface="process reward", usual_provenance="on-policy", usual_role="reshaping",
    paper="2504.15275",
)  # fmt: skip
def pure(
    task,
    *,
    prm: RewardArg,
    group_size: GroupSize = 4,
    min_temperature: Positive = 0.1,
    verifiable: float = 1.0,
    baseline: Literal["token", "step"] = "token",
    kl: float = 1e-3,
    clip: float = 0.2,
    separator: str | int = "\n",
) -> Stage:
    """PURE: a response is worth its worst step, so that good steps cannot make up for a bad one.

        r_k = 2 sigma(score at the last token of step k) - 1,   r*_k = r_k softmax_k(-r / min_temperature)
        A_t = sum over steps k that end at or after t of (r*_k - b_k) + verifiable (R - mean of the others' R)
              - kl * sum_{s >= t} (log pi_sampled - log pi_start)(y_s)
        L = -1/N sum_i 1/|y_i| sum_t min(r_t A_t, clip(r_t, 1 - clip, 1 + clip) A_t),   r_t = pi(y_t) / pi_sampled(y_t)

    sum_k r*_k is a soft minimum of the r_k; after the worst step nothing is left to earn. b_k is what the other
    members earn per token times the tokens of step k, or per step (baseline). min_temperature -> 0: the minimum; ->
    infinity: the mean. Detached: everything but log pi. prm: a model that prm trained.
    Watch: reward; advantage/mean. Fails: a process reward model that dislikes one harmless phrase decides everything.
    Deviations: the released code gives separator tokens no advantage. Its constants: 0.1, 1, 1e-3, token.
    """
    worst = min_form(reward=ByModel(Artefact(prm), "signed"), temperature=min_temperature, baseline=baseline)
    earned = kl_penalty(kl) >> worst >> leave_one_out_reward(coef=verifiable) >> return_to_go(signal=None)
    return Stage(
        rollouts(task, group_size) | verify(task) | steps(separator),
        policy(
            policy_gradient(advantage=credit, ratio=behavior, trust=Clip(clip, clip), reduce=per_sequence),
            credit=earned,
        ),
        recommends={"learning_rate": 5e-7, "temperature": 0.5},
    )


@method(
    family="process supervision", interface="reward", usual_provenance="on-policy", usual_role="reshaping",
    paper="2502.01456",
)  # fmt: skip
def prime(
    task,
    *,
    group_size: GroupSize = 4,
    beta: Positive = 0.05,
    process: float = 5.0,
    outcome: float = 5.0,
    scale: Literal["buffer", "none"] = "buffer",
    update: Literal["after", "before"] = "after",
    clip: float = 0.2,
    keep: Bounds = (0.2, 0.8),
    max_rounds: Count = 4,
    prm_learning_rate: Positive = 1e-6,
) -> Stage:
    """PRIME: a process reward model that is a language model, trained by outcomes beside the policy it rewards.

        prm      L = 1/N sum_i -log sigma(+-beta sum_t d_it),  + if the response is right,  d = log pi_prm - log pi_ref
        policy   r_it = beta d_it / scale;   A_it = sum_{s >= t} process (G r_is - sum_j mean_t r_jt) / (G - 1)
                        + outcome (R_i - mean of the others),   then whitened over the buffer's tokens
                 L = -1/N sum_t min(r_t A_t, clip(r_t, 1 - clip, 1 + clip) A_t),   r_t = pi(y_t) / pi_sampled(y_t)

    Both begin as the node's model, which stays as ref. scale: the buffer's largest |sum_{s >= t} beta d|, or none.
    update: the reward model learns from a step's responses after it has scored them, or before (a second forward pass).
    Prompts of a mean reward outside `keep` are drawn again. Detached: A; the reward model learns by its own loss alone,
    through logits (the released code takes a sigmoid first). While prm = ref this is RLOO.
    Watch: rewards/chosen against rewards/rejected (of the reward model); reward. Fails: with all right or all wrong
    prompts the reward model sees no difference. Constants: the released run's, learning rates included.
    Deviations: logits, as said; none else known.
    """
    outcomes = unpaired(link=Logistic(), z="zero", beta=beta, good="right", bad="wrong")
    implicit = implicit_reward(prm=Live("prm"), reference=Start("prm"), beta=beta, coef=process, scale=scale)
    earned = implicit >> leave_one_out_reward(coef=outcome) >> return_to_go(signal=None) >> whiten()
    surrogate = policy_gradient(advantage=credit, ratio=behavior, trust=Clip(clip, clip))
    learners = policy(surrogate, credit=earned), Learner("prm", (outcomes,), learning_rate=prm_learning_rate)
    return Stage(
        refill(rollouts(task, group_size) | verify(task), keep=rate(*keep), max_rounds=max_rounds),
        learners if update == "after" else learners[::-1],
        recommends={"learning_rate": 5e-7},
    )


@method(
    family="process supervision", interface="step labels", usual_provenance="off-policy", usual_role="consolidation",
    paper="2211.14275",
)  # fmt: skip
def prm(
    data,
    *,
    last_step_only: bool = False,
    after_error: Literal["train", "mask"] = "train",
    per: Literal["label", "solution"] = "label",
) -> Stage:
    """A process reward model: one number after each step, trained to say whether the step is right.

        L = 1/D sum over labelled steps k of  -y_k log sigma(s_k) - (1 - y_k) log sigma(-s_k)

    s_k is the score head at the last token of step k itself (no next-token shift); y_k in [0, 1], so that soft labels
    are targets too. D counts labels, so that long solutions weigh more, or per="solution" averages within each first.
    data: rows of prompt, completions (the steps), labels and perhaps separator (what follows each step; a line break
    unless written), as TRL has them; math_shepherd and omegaprm make them. A label of null is not trained.
    last_step_only: only the last step's label, an outcome reward model. after_error: "mask" leaves out the steps after
    the first wrong one, whose labels mean little. The head starts at 0.
    Watch: label/accuracy against label/positive. Fails: labels of a weak completer call good steps wrong.
    Deviations: TRL has two classes, whose softmax is this sigmoid of their difference, and no end token.
    """
    reduce = {"label": per_token, "solution": per_sequence}[per]
    return Stage(
        labelled_steps(data, last_step_only, after_error),
        Learner("prm", (LabelCrossEntropy(reduce=reduce),), head="score"),
        recommends={"learning_rate": 1e-5, "heldout": 0.1},
    )


@method(
    kind="make", family="process supervision", interface="reward", usual_provenance="on-policy",
    usual_role="consolidation", paper="2312.08935",
)  # fmt: skip
def math_shepherd(
    toolbox,
    task,
    *,
    labels: Literal["hard", "soft"] = "hard",
    solutions: Count = 8,
    continuations: Count = 8,
    completer: ModelArg | None = None,
    separator: str | int = "\n",
) -> None:
    """Math-Shepherd: step labels from how often a solution can still be finished, as data for prm.

        c_k of `continuations` completions of the first k steps succeed;   hard y_k = [c_k > 0],   soft y_k = c_k / n
        L = 1/D sum_k -y_k log sigma(s_k) - (1 - y_k) log sigma(-s_k)                  (prm on what this makes)

    The solutions are the node's `init`'s; completer continues them, the same model unless written. The last step's
    label is the verdict on the solution. With one continuation hard and soft are the same.
    Watch: the share of labels that are 1; tokens_generated. Fails: a weak completer calls good steps wrong, a strong
    one repairs bad ones; a lucky answer counts as right. Hard labels of samples need not fall monotonically.
    Deviations: truncated solutions are left out. Unverified: 8 completions.
    """
    values = continuation_value(verify(task), n=continuations, completer=Artefact(completer) if completer else SELF)
    groups = toolbox.collect(solved(task, solutions, separator) | values)
    write_labels(toolbox, groups, lambda value: [float(v > 0) for v in value] if labels == "hard" else value)


@method(
    kind="make", family="process supervision", interface="reward", usual_provenance="on-policy",
    usual_role="consolidation", paper="2406.06592",
)  # fmt: skip
def omegaprm(
    toolbox,
    task,
    *,
    labels: Literal["soft", "hard"] = "soft",
    solutions: Count = 8,
    continuations: Count = 8,
    completer: ModelArg | None = None,
    separator: str | int = "\n",
) -> None:
    """OmegaPRM's search: the first error of a failed solution by bisection, as step labels for prm.

        MC(k) = share of `continuations` completions of the first k steps that succeed
        bisect for the first step with MC = 0: ceil(log2 K) states of K are asked, against K in math_shepherd
        soft   y_k = MC(k) where it was asked, else no label        hard   y_k = 1 before the first error, 0 from it on
        L = 1/D sum_k -y_k log sigma(s_k) - (1 - y_k) log sigma(-s_k)                  (prm on what this makes)

    The solutions are the node's `init`'s, a right one has no error, and the last step's label is the verdict. soft is
    the pointwise soft label, which the paper found best. Assumes that a lost solution stays lost.
    Watch: the share of labels that are 1. Fails: MC = 0 by bad luck of few completions puts the error too early.
    Deviations: no tree: the paper reuses completions as new solutions, by a PUCT rule. Unverified: 8 completions.
    """
    values = continuation_value(
        verify(task), n=continuations, completer=Artefact(completer) if completer else SELF, search="first error"
    )
    groups = toolbox.collect(solved(task, solutions, separator) | values)
    write_labels(toolbox, groups, monotone_labels if labels == "hard" else lambda value: value)


def solved(task, n: int, separator: str | int) -> Pipe:
    """Whole solutions with their verdicts, in steps."""
    whole = rollouts(task, n) | drop(tagged("truncated"), "truncated: it has no end")
    return whole | verify(task) | steps(separator)


def write_labels(toolbox, groups: list[Group], labels: Callable) -> None:
    groups = [
        group.drop([bool(member.text.strip()) for member in group.members], "it says nothing") for group in groups
    ]
    toolbox.record(groups, "kept")
    toolbox.write_rows(step_rows(groups, labels, "value", toolbox.model(SELF).tokenizer))
