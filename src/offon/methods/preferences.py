"""Preference optimisation on pairs that are given."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt

from offon.collect import best_against_worst, preferences, rollouts, verify
from offon.methods.registry import method
from offon.parts import Stage, contrast, one, per_sequence, per_token, policy, policy_gradient


@method(
    family="offline preference", interface="preferences", usual_provenance="off-policy", usual_role="reshaping",
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
