"""Learning from what a teacher wrote, or from its distribution on prefixes that are given."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from offon.catalogue.arguments import TeacherArg
from offon.catalogue.registry import method
from offon.collect import Collector, demonstrations, rollouts, shown, tagged_by
from offon.collect.shape.targets import as_targets
from offon.collect.sources.hints import ShownView
from offon.parts import SELF_START, Artefact, Mix, Skew, Stage, TopK, divergence, one, policy, policy_gradient

Count = Annotated[int, Ge(1)]
Share = Annotated[float, Ge(0), Le(1)]
Positive = Annotated[float, Gt(0)]
TEACHER = Artefact("teacher")


def prefixes(data, task) -> Collector:
    """Demonstrations where data is given, else the teacher's own responses to the task's prompts."""
    return demonstrations(data) if data is not None else rollouts(task, model=TEACHER)


@method(
    family="off-policy distillation", interface="teacher targets", usual_provenance="off-policy",
    usual_role="expansion or consolidation", paper="1606.07947",
)  # fmt: skip
def sequence_kd(teacher, task, *, group_size: Count = 1) -> Stage:
    """Sequence-level distillation: maximum likelihood on what the teacher wrote.

        L = 1/D sum_t -log pi(y_t | x, y_<t),  y ~ teacher

    D counts tokens. A sample estimates the forward KL of whole sequences: E_{y~q}[-grad log pi(y)] = grad KL(q || pi).
    group_size: responses per prompt, 1 as in the paper. The node's temperature, top_p and top_k are the teacher's.
    Watch: loss/total, which cannot fall below the teacher's entropy. Fails: the student never sees its own mistakes;
    on_policy_distill does.
    Deviations: the paper decodes the teacher by beam search (the mode); here it is sampled, temperature 0 is greedy.
    """
    return Stage(
        rollouts(task, group_size, model=TEACHER),
        policy(policy_gradient(advantage=one)),
        recommends={"learning_rate": 2e-5},
    )


@method(
    family="off-policy distillation", interface="teacher targets", usual_provenance="off-policy",
    usual_role="expansion or consolidation", paper="1503.02531",
)  # fmt: skip
def kd(
    teacher,
    task=None,
    data=None,
    *,
    alpha: Share = 0.5,
    kd_temperature: Positive = 1.0,
    skew: Annotated[float, Ge(0), Lt(1)] = 0.0,
) -> Stage:
    """Distillation on given prefixes: match the teacher's whole next-token distribution, and the tokens.

        L = 1/D sum_t [ (1 - alpha) * -log pi(y_t) + alpha * T^2 KL(q_T || p_T) ],  q_T, p_T = softmax(logits / T)

    Prefixes are the demonstrations in `data`, else the teacher's own responses to the task's prompts. D counts tokens.
    The teacher is detached. T^2 keeps the gradient's scale, (p_T - q_T) T per logit; for large T it is matching logits.
    alpha 0.5 and T 1 are conventions, the paper names no numbers but a low weight on the tokens; alpha 0 is sft, 1
    leaves the tokens out.
    skew a > 0: KL(q_T || a q_T + (1 - a) p_T), bounded where the student misses the teacher's tokens (DistiLLM,
    arXiv:2402.03898, which has a = 0.1); 0 is the KL itself.
    Watch: divergence/forward_nats. Fails: a student too small to cover the teacher spreads over what neither would
    write; it never sees its own mistakes.
    Deviations: MiniLLM's and DistiLLM's code minimise the cross-entropy with q, the KL plus the teacher's entropy: same
    gradient, another value.
    """
    return Stage(
        prefixes(data, task),
        policy(
            policy_gradient(advantage=one, coef=1 - alpha, name="tokens"),
            divergence(to=TEACHER, kind=Skew(skew) if skew else "forward", temperature=kd_temperature, coef=alpha),
        ),
        recommends={"learning_rate": 2e-5},
    )


@method(
    family="off-policy distillation", interface="teacher targets", usual_provenance="off-policy",
    usual_role="expansion or consolidation", paper="2503.16870",
)  # fmt: skip
def topk_kd(
    teacher,
    task=None,
    data=None,
    *,
    top: Count = 64,
    kd_temperature: Positive = 1.0,
    rest: Literal["tail", "renormalised", "raw"] = "tail",
) -> Stage:
    """Distillation on the teacher's K likeliest tokens, the others in one bucket.

        L = 1/D sum_t T^2 KL(coarse(q_T) || coarse(p_T)),  coarse(p) = (p_1 .. p_K, 1 - sum_K p)

    A lower bound of the full KL, growing with K, exact at K = V - 1; p is normalised over the whole vocabulary. The
    reference shows what keeping the K alone does to the student; the bucket is that of arXiv:2601.20802.
    rest="renormalised": both restricted to the K and renormalised (the mass on them is left free); "raw": sum_K q log
    (q/p) without the bucket, verl's estimator, whose minimiser empties the student's tail: for comparison only.
    top=64: a compromise of storage where teachers are remote; unverified as a published default.
    Watch: divergence/forward_nats (negative is possible for raw only). Fails: as kd.
    Deviations: verl clamps each token's value at 0, which removes the gradient there; here nothing is clamped.
    """
    support = TopK(top, of="teacher", rest=rest)
    return Stage(
        prefixes(data, task),
        policy(divergence(to=TEACHER, temperature=kd_temperature, support=support)),
        recommends={"learning_rate": 2e-5},
    )


@method(
    family="off-policy distillation", interface="token targets", usual_provenance="off-policy",
    usual_role="consolidation", paper="2305.02301",
)  # fmt: skip
def rationale_distill(data, *, alpha: Share = 0.5) -> Stage:
    """Distilling step by step: two tasks in one student, the answer and the teacher's rationale.

        L = alpha * 1/D_label sum_t -log pi(y_t) + (1 - alpha) * 1/D_rationale sum_t -log pi(z_t)

    Rows of `data` carry a column `tag`, "label" or "rationale", and a prompt that says which is asked for (the paper
    writes [label] or [rationale] before the question). Each task is a mean over its own tokens of the step: long
    rationales do not outweigh short answers. At deployment only the answer is asked for.
    alpha 0.5: the authors' code; the paper writes L_label + lambda L_rationale with lambda 1, twice this loss. alpha 1
    is sft on the labels.
    Watch: loss/label and loss/rationale. Fails: rationales that are wrong, or that the answer does not depend on.
    Deviations: the authors pair both tasks of a question in one step; here a step draws rows at random.
    """
    return Stage(
        demonstrations(data) | tagged_by("tag"),
        policy(
            policy_gradient(advantage=one, on="tag:label", coef=alpha, name="label"),
            policy_gradient(advantage=one, on="tag:rationale", coef=1 - alpha, name="rationale"),
        ),
        recommends={"learning_rate": 2e-5},
    )


@method(
    family="off-policy distillation", interface="teacher targets", usual_provenance="off-policy",
    usual_role="consolidation", paper="2112.00861",
)  # fmt: skip
def context_distill(
    task, *, view: str = "context", template: str | None = None, targets: Literal["logits", "traces"] = "logits"
) -> Stage:
    """Context distillation: behave without a context as the model did with it.

        logits   L = 1/D sum_t KL(pi_0(. | c, x, y_<t) || pi(. | x, y_<t)),  y ~ pi_0(. | c, x)
        traces   L = 1/D sum_t -log pi(y_t | x, y_<t)  (arXiv:2209.15189)

    pi_0 is the learner when the stage began, frozen, and reads the context; the learner never does. D counts tokens.
    view: the items' own prompt with the context; template: or the text around {prompt} where they bring none.
    Positions are compared by their place in the response, whatever the lengths of the two prompts.
    Watch: divergence/forward_nats, 0 where the context is empty; off_policy/conditioned, 1 by design.
    Fails: a context that adds facts the weights cannot hold; on its own prefixes the learner may drift (context_opd).
    Deviations: scratch-pad text, which the second paper can strip from its targets, stays; the whole response is one.
    """
    term = divergence(to=SELF_START, view=view) if targets == "logits" else policy_gradient(advantage=one)
    shown_first = shown(view, template) | rollouts(task, model=SELF_START, guide=ShownView(view=view))
    return Stage(
        shown_first if targets == "logits" else shown_first | as_targets(),
        policy(term),
        recommends={"learning_rate": 1e-5},
    )


@method(
    family="consolidation", interface="teacher targets", usual_provenance="any",
    usual_role="consolidation", paper="1503.02531",
)  # fmt: skip
def ensemble_kd(
    task=None,
    data=None,
    *,
    teachers: list[TeacherArg],
    weights: list[float] | None = None,
    kind: Literal["forward", "reverse"] = "forward",
) -> Stage:
    """Distillation from several teachers into one student: specialists, or stages that each forgot something else.

        forward   L = 1/D sum_t sum_k w_k KL(q_k || p), the gradient of KL(sum_k w_k q_k || p): arithmetic mean
        reverse   L = 1/D sum_t sum_k w_k KL(p || q_k), that of KL(p || prod_k q_k^w_k / Z): geometric mean

    Trained is the right-hand side: one divergence to one mixture, whose value is 0 where the student is the mean.
    Prefixes are the demonstrations in `data`, else the student's own rollouts; D counts tokens. Teachers are detached.
    weights: equal unless given, with sum 1. Forward keeps what any teacher would write, reverse what all would.
    Watch: divergence/forward_nats; success on each teacher's own tasks. Fails: teachers that disagree about the same
    prompts; for teachers with domains of their own use multi_teacher_opd.
    Deviations: the paper softens teachers and student by a temperature T; there is none here.
    """
    shares = tuple(weights or [1 / len(teachers)] * len(teachers))
    mean = Mix(tuple(map(Artefact, teachers)), shares, "probability" if kind == "forward" else "logit")
    return Stage(
        demonstrations(data) if data is not None else rollouts(task),
        policy(divergence(to=mean, kind=kind)),
        recommends={"learning_rate": 1e-5},
    )
