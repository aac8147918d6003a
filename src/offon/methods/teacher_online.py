"""A teacher on the learner's own rollouts."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge

from offon.collect import rollouts
from offon.methods.registry import method
from offon.parts import Artefact, Stage, behavior, credit, divergence, policy, policy_gradient, teacher_logratio

Count = Annotated[int, Ge(1)]


@method(
    family="on-policy distillation", interface="teacher targets", usual_provenance="on-policy",
    usual_role="consolidation", paper="2306.13649",
)  # fmt: skip
def on_policy_distill(task, teacher, *, form: Literal["sampled", "full"] = "full", group_size: Count = 1,
                      kind: Literal["reverse", "forward", "jsd"] = "reverse", beta: float = 0.5) -> Stage:  # fmt: skip
    """On-policy distillation: the student writes, the teacher grades every token.

        full      L = 1/N sum_t D(p(. | x, y_<t), q(. | x, y_<t)), whole vocabulary, y ~ student (GKD, lambda = 1)
        sampled   L = -1/N sum_t r_t A_t,   A_t = log q(y_t) - log p(y_t) detached,   r_t = pi(y_t) / pi_sampled(y_t)

    N counts tokens.

    The sampled form is scored by the teacher before credit and estimates the gradient of the reverse KL from one token
    per position, at the price of variance; prefixes are not differentiated in either form (discount 0).
    Watch: divergence/reverse_nats, or advantage/mean, which is minus the KL. Fails: on prefixes the teacher would never
    write, its targets say little; a student that starts at random has only such prefixes.
    """
    to = Artefact("teacher")
    if form == "sampled":
        learner = policy(policy_gradient(advantage=credit, ratio=behavior), credit=teacher_logratio(teacher=to))
    else:
        learner = policy(divergence(to=to, kind=kind, beta=beta, on="learner"))
    return Stage(rollouts(task, group_size), learner, recommends={"learning_rate": 1e-5})
