"""A teacher on the learner's own rollouts."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from offon.collect import demonstrations, mixture, rollouts, shown
from offon.methods.registry import method
from offon.parts import (
    SELF_START,
    Artefact,
    Clip,
    Jsd,
    Stage,
    TopK,
    behavior,
    credit,
    divergence,
    jsd,
    policy,
    policy_gradient,
    teacher_logratio,
)

Count = Annotated[int, Ge(1)]
Inside = Annotated[float, Gt(0), Lt(1)]
Share = Annotated[float, Ge(0), Le(1)]
TEACHER = Artefact("teacher")


@method(
    family="on-policy distillation", interface="teacher targets", usual_provenance="on-policy",
    usual_role="consolidation", paper="2306.13649",
)  # fmt: skip
def on_policy_distill(task, teacher, *, form: Literal["sampled", "full"] = "full", group_size: Count = 1,
                      kind: Literal["reverse", "forward", "jsd"] = "reverse", beta: Inside = 0.5) -> Stage:  # fmt: skip
    """On-policy distillation: the student writes, the teacher grades every token.

        full      L = 1/N sum_t D(p(. | x, y_<t), q(. | x, y_<t)), whole vocabulary, y ~ student (GKD, lambda = 1)
        sampled   L = -1/N sum_t r_t A_t,   A_t = log q(y_t) - log p(y_t) detached,   r_t = pi(y_t) / pi_sampled(y_t)

    N counts tokens. kind and beta are the full form's: reverse KL(p || q), forward KL(q || p), or jsd of both to
    beta q + (1 - beta) p. The sampled form is opd.
    The sampled form is scored by the teacher before credit and estimates the gradient of the reverse KL from one token
    per position, at the price of variance; prefixes are not differentiated in either form (discount 0).
    Watch: divergence/reverse_nats, or advantage/mean, which is minus the KL. Fails: on prefixes the teacher would never
    write, its targets say little; a student that starts at random has only such prefixes.
    """
    if form == "sampled":
        return opd(task, teacher, group_size=group_size)
    term = divergence(to=TEACHER, kind=Jsd(beta) if kind == "jsd" else kind, on="learner")
    return Stage(rollouts(task, group_size), policy(term), recommends={"learning_rate": 1e-5})


@method(
    family="on-policy distillation", interface="teacher targets", usual_provenance="on-policy",
    usual_role="consolidation", paper="2306.13649",
)  # fmt: skip
def opd(task, teacher, *, group_size: Count = 4) -> Stage:
    """On-policy distillation with sampled tokens: reinforcement learning on the teacher's log-ratio (the form of
    thinkingmachines.ai/blog/on-policy-distillation, 2025; the reverse KL on own samples is GKD's).

        L = -1/N sum_t r_t A_t,   A_t = log q(y_t) - log p(y_t),   r_t = pi(y_t) / pi_sampled(y_t)

    N counts tokens; A and r are detached as a coefficient, p is what sampled y. Discount 0: each token answers for its
    own divergence only, and the expected gradient is that of the reverse KL at each sampled prefix.
    group_size 4: as in the blog (for reuse of prompts; no group statistic is taken).
    Watch: advantage/mean, minus the reverse KL in nats per token. Fails: whitening, or a k3 estimate as the reward,
    biases it; a teacher of another chat template grades its own template.
    """
    return Stage(
        rollouts(task, group_size),
        policy(policy_gradient(advantage=credit, ratio=behavior), credit=teacher_logratio(TEACHER)),
        recommends={"learning_rate": 1e-5},
    )


@method(
    family="on-policy distillation", interface="teacher targets", usual_provenance="on-policy",
    usual_role="expansion or consolidation", paper="2602.12125",
)  # fmt: skip
def g_opd(task, teacher, *, strength: Annotated[float, Ge(0)] = 1.25, reference: str | None = None,
          group_size: Count = 1) -> Stage:  # fmt: skip
    """Generalised on-policy distillation: past the teacher, away from where it came from (ExOPD where strength > 1).

        L = -1/N sum_t min(r_t A_t, clip(r_t, 0.8, 1.2) A_t)
        A_t = strength * (log q - log ref)(y_t) - (log p - log ref)(y_t)

    The optimum is ref * (q / ref)^strength: 1 is opd whatever the reference, 0 stays at it, above 1 extrapolates.
    A is detached. reference: the learner when the stage began, or a model of the recipe: the one that the teacher was
    trained from is the paper's "reward correction". strength 1.25, one rollout a prompt, clip 0.2: the authors' code.
    Watch: advantage/mean and success; past the teacher its log-prob no longer says how good a response is.
    Fails: where the teacher differs from the reference in style only, style is what is extrapolated.
    Deviations: the authors add truncated importance sampling at 5 for their engine; add the tis modifier for one.
    """
    anchor = Artefact(reference) if reference else SELF_START
    return Stage(
        rollouts(task, group_size),
        policy(
            policy_gradient(advantage=credit, ratio=behavior, trust=Clip(0.2, 0.2)),
            credit=teacher_logratio((TEACHER, strength), (anchor, 1 - strength)),
        ),
        recommends={"learning_rate": 1e-5},
    )


@method(
    family="on-policy distillation", interface="teacher targets", usual_provenance="mixed",
    usual_role="consolidation", paper="2306.13649",
)  # fmt: skip
def gkd(teacher, task=None, data=None, *, beta: Share = 0.5, on_policy: Share = 0.5) -> Stage:
    """Generalised knowledge distillation: any mixture of two divergences, on any mixture of two sources of prefixes.

        L = 1/N sum_t [ beta KL(q || m) + (1 - beta) KL(p || m) ],  m = beta q + (1 - beta) p

    N counts tokens; the teacher q and the prefixes are detached. With probability on_policy (the paper's lambda), by
    one coin a step from (seed, step), all prefixes are the student's own; else the demonstrations in `data`, or without
    data the teacher's responses (the paper's SeqKD variant).
    beta 0 is the forward KL and beta 1 the reverse, unscaled, as in TRL; in between the divergence falls to 0 towards
    both ends: 0.01 trains a hundred times more slowly than 0. on_policy 1: on_policy_distill. 0.5 and 0.5: TRL's.
    Watch: divergence/jsd_nats, at most the entropy of the coin beta. Fails: as on_policy_distill at 1, as kd at 0.
    Deviations: own tokens are compared at the temperature that sampled them, TRL at 1.
    """
    other = demonstrations(data) if data is not None else rollouts(task, model=TEACHER)
    return Stage(
        mixture(rollouts(task), other, share=on_policy, per="step"),
        policy(divergence(to=TEACHER, kind=jsd(beta))),
        recommends={"learning_rate": 1e-5},
    )


@method(
    family="on-policy distillation", interface="teacher targets", usual_provenance="on-policy",
    usual_role="consolidation", paper="2602.12275",
)  # fmt: skip
def context_opd(task, teacher=None, *, view: str = "context", template: str | None = None, top: Count = 256,
                rest: Literal["tail", "renormalised", "raw"] = "raw") -> Stage:  # fmt: skip
    """On-policy context distillation: on its own responses, agree with a model that reads a context.

        L = 1/N sum_t sum_{v in K} p_v (log p_v - log q_v),  p = pi(. | x, y_<t),  q = teacher(. | c, x, y_<t)

    y ~ pi(. | x); K are the student's `top` likeliest tokens, N counts tokens. The teacher is the learner when the
    stage began, or a bigger model, frozen; only it reads the context.
    view: the items' own prompt with the context; template: or the text around {prompt} where they bring none.
    top 256, not renormalised: the authors' code (kl_renorm_topk off); rest="tail" is a divergence at every top.
    Watch: divergence/reverse_nats, 0 at the start where the context is empty. Fails: as context_distill, less drift.
    """
    return Stage(
        shown(view, template) | rollouts(task),
        policy(
            divergence(
                to=TEACHER if teacher else SELF_START, kind="reverse", view=view, support=TopK(top, "student", rest)
            )
        ),
        recommends={"learning_rate": 5e-6},
    )


@method(
    family="on-policy distillation", interface="privileged information", usual_provenance="on-policy",
    usual_role="expansion or consolidation", paper="2601.18734",
)  # fmt: skip
def opsd(task, *, beta: Share = 0.5, view: str = "privileged",
         template: str | None = "{prompt}\n\nA reference solution:\n{reference}\n\nSolve it in your own words.",
         group_size: Count = 1) -> Stage:  # fmt: skip
    """On-policy self-distillation: the model that knows the solution teaches the model that does not.

        L = 1/N sum_t JSD_beta(q, p),  p = pi(. | x, y_<t),  q = pi_0(. | solution, x, y_<t),  y ~ pi(. | x)

    pi_0 is the learner when the stage began, frozen (under LoRA: the adapter off, no second copy). N counts tokens.
    view: the items' own privileged prompt where they bring one; template: else written around {prompt} and {reference}.
    beta 0.5, whole vocabulary, compared at the sampling temperature, 1.1: the authors' code.
    Watch: divergence/jsd_nats; it need not reach 0, a student cannot know what it is not told. Fails: where knowing the
    solution changes the style (references to it) more than the reasoning, style is what is learned.
    Deviations: the authors' student and teacher prompts differ in more than the solution; here by the template only.
    """
    return Stage(
        shown(view, template) | rollouts(task, group_size),
        policy(divergence(to=SELF_START, kind=jsd(beta), view=view)),
        recommends={"learning_rate": 2e-5, "temperature": 1.1},
    )
