"""Learning from what a teacher wrote, or from its distribution on prefixes that are given."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Gt

from offon.collect import demonstrations, rollouts
from offon.methods.registry import method
from offon.parts import Artefact, Stage, divergence, one, policy, policy_gradient


@method(
    family="off-policy distillation", interface="teacher targets", usual_provenance="off-policy",
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
