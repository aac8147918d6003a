"""Filtering: likelihood of responses that were sampled and then selected."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge

from offon.collect import keep_best, rollouts, verify
from offon.methods.registry import method
from offon.parts import Stage, one, policy, policy_gradient

Count = Annotated[int, Ge(1)]


@method(
    family="filtering and replay",
    interface="reward",
    usual_provenance="on-policy",
    usual_role="reshaping",
    paper="2304.06767",
)
def raft(task, *, group_size: Count = 8, keep: Count = 1, at_least: float | None = 1.0) -> Stage:
    """Reward-ranked fine-tuning: sample, keep the best, maximise their likelihood; fresh samples each round.

        L = 1/D sum over kept tokens of -log pi(y_t)

    With rewards in {0, 1} the first step is REINFORCE without a baseline. Later steps of a buffer train older samples:
    the ledger says how much older (mean age), which is how off-policy the stage was.
    at_least: a kept response must reach this reward; None keeps the best of each group, good or bad (the paper's form).
    Watch: the share of prompts with a kept response. Fails: easy prompts dominate; nothing wrong is ever pushed down.
    """
    return Stage(
        rollouts(task, group_size) | verify(task) | keep_best(keep, at_least),
        policy(policy_gradient(advantage=one)),
        recommends={"learning_rate": 1e-5},
    )
