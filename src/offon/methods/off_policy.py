"""Rows that learn from trajectories supplied from outside the current learner."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt

from offon.collect import best_against_worst, demonstrations, preferences, rollouts, verify
from offon.methods.registry import method
from offon.parts import (
    Artefact,
    Reduce,
    Stage,
    contrast,
    divergence,
    one,
    per_sequence,
    per_token,
    policy,
    policy_gradient,
)

PER: dict[str, Reduce] = {"token": per_token, "sequence": per_sequence}


@method(
    family="sft", interface="token targets", usual_provenance="off-policy", usual_role="expansion or reshaping",
    paper="2203.02155",
)  # fmt: skip
def sft(data, *, per: Literal["token", "sequence"] = "token") -> Stage:
    """Supervised fine-tuning: maximum likelihood on demonstrated responses.

        L = 1/D sum_i sum_t -log pi(y_it | x_i, y_i,<t)

    per="token": D is the number of supervised tokens in the step (each token counts the same, long answers weigh more);
    per="sequence": the mean over sequences of their token means (each sample counts the same).
    Supervised are the assistant's tokens with their end-of-turn; never the prompt, user or tool turns.
    Watch: loss/total; success after the stage, not the loss, says whether it helped.
    Fails: learns the surface of data the model could already produce; a large learning rate erases other skills.
    """
    return Stage(
        demonstrations(data),
        policy(policy_gradient(advantage=one, reduce=PER[per])),
        recommends={"learning_rate": 2e-5},
    )


@method(
    family="offline-preference", interface="preferences", usual_provenance="off-policy", usual_role="reshaping",
    paper="2305.18290",
)  # fmt: skip
def dpo(
    data=None,
    task=None,
    *,
    beta: Annotated[float, Gt(0)] = 0.1,
    nll: Annotated[float, Ge(0)] = 0.0,
    nll_per: Literal["pair", "token"] = "pair",
    group_size: Annotated[int, Ge(2)] = 8,
) -> Stage:
    """Direct preference optimisation, optionally with a likelihood term on the chosen response.

        L = 1/P sum -log sigmoid(beta * [(S_w - S_w^ref) - (S_l - S_l^ref)]) + nll * NLL(chosen)
        S = sum_t log pi(y_t),  ref = the learner when the stage began

    nll_per="pair": 1/P sum_pairs NLL(y_w) / |y_w| (iterative RPO, arXiv:2404.19733); "token": a mean over all chosen
    tokens of the step, a second denominator beside 1/P.
    Pairs come from `data` (prompt, chosen, rejected); without data they are built from `group_size` scored rollouts of
    the task, best against worst.
    Watch: rewards/chosen falling together with rewards/rejected; at the start accuracies are 0.5, the loss log 2.
    Deviation: TRL's sft term is a token mean over the local micro-batch; here counts are taken on the whole step.
    """
    pairs = preferences(data) if data is not None else rollouts(task, group_size) | verify(task) | best_against_worst()
    likelihood = policy_gradient(
        advantage=one, on="tag:chosen", coef=nll, reduce=per_sequence if nll_per == "pair" else per_token, name="nll"
    )
    terms = (contrast(beta=beta), likelihood) if nll else (contrast(beta=beta),)
    return Stage(pairs, policy(*terms), recommends={"learning_rate": 1e-6})


@method(
    family="off-policy-distillation", interface="teacher targets", usual_provenance="off-policy",
    usual_role="expansion or consolidation", paper="1606.07947",
)  # fmt: skip
def distill(
    teacher,
    task=None,
    data=None,
    *,
    targets: Literal["traces", "logits"] = "traces",
    kind: Literal["forward", "reverse", "jsd"] = "forward",
    kd_temperature: Annotated[float, Gt(0)] = 1.0,
) -> Stage:
    """Off-policy distillation: learn from what a teacher wrote, or from its distribution on given prefixes.

        traces   L = 1/D sum_t -log pi(y_t),  y sampled by the teacher (sequence-level KD)
        logits   L = 1/D sum_t T^2 KL(q_T(. | x, y_<t) || p_T(. | x, y_<t)) over the whole vocabulary (arXiv:1503.02531)

    Prefixes are the teacher's own responses to the task's prompts, or the demonstrations in `data`. D counts tokens.
    Watch: divergence/forward_nats. Fails: the student never sees its own mistakes; on_policy_distill does.
    """
    traces = demonstrations(data) if data is not None else rollouts(task, model=Artefact("teacher"))
    if targets == "traces":
        term = policy_gradient(advantage=one)
    else:
        term = divergence(to=Artefact("teacher"), kind=kind, temperature=kd_temperature)
    return Stage(traces, policy(term), recommends={"learning_rate": 2e-5})
