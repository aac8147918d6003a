"""Supervised fine-tuning and its model-aware forms: token targets from data."""

from __future__ import annotations

from typing import Literal

from offon.collect import demonstrations
from offon.methods.registry import method
from offon.parts import Reduce, Stage, one, per_sequence, per_token, policy, policy_gradient

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
