"""A teacher on the learner's own rollouts."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from offon.catalogue.arguments import DataArg, ModelArg, TeacherArg
from offon.catalogue.methods.consolidation import replay
from offon.catalogue.registry import method
from offon.collect import demonstrations, mixture, rollouts, shown, sibling_shown, verify
from offon.parts import (
    SELF,
    SELF_START,
    Artefact,
    Clip,
    Ema,
    Jsd,
    Likelier,
    Mask,
    Mix,
    Route,
    Stage,
    TopK,
    behavior,
    credit,
    divergence,
    jsd,
    per_remaining,
    policy,
    policy_gradient,
    proximal,
    teacher_logratio,
)
from offon.parts.credits import whiten

Count = Annotated[int, Ge(1)]
Inside = Annotated[float, Gt(0), Lt(1)]
Share = Annotated[float, Ge(0), Le(1)]
TEACHER = Artefact("teacher")


@method(
    family="on-policy distillation", interface="teacher targets", usual_provenance="on-policy",
    usual_role="consolidation", paper="2306.13649",
)  # fmt: skip
def on_policy_distill(
    task,
    teacher,
    *,
    form: Literal["sampled", "full"] = "full",
    group_size: Count = 1,
    kind: Literal["reverse", "forward", "jsd"] = "reverse",
    beta: Inside = 0.5,
) -> Stage:
    """On-policy distillation: the student writes, the teacher grades every token.

        full      L = 1/N sum_t D(p(. | x, y_<t), q(. | x, y_<t)), whole vocabulary, y ~ student (GKD, lambda = 1)
        sampled   L = -1/N sum_t r_t A_t,   A_t = log q(y_t) - log p(y_t) detached,   r_t = pi(y_t) / pi_sampled(y_t)

    N counts tokens. kind and beta are the full form's: reverse KL(p || q), forward KL(q || p), or jsd of both to
    beta q + (1 - beta) p. The sampled form is opd.
    The sampled form is scored by the teacher before credit and estimates the gradient of the reverse KL from one token
    per position, at the price of variance; prefixes are not differentiated in either form (discount 0).
    Watch: divergence/reverse_nats, or advantage/mean, which is minus the KL. Fails: on prefixes the teacher would never
    write, its targets say little; a student that starts at random has only such prefixes.
    Deviations: own tokens are compared at the temperature that sampled them; TRL at 1, or at T without T^2.
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
    group_size 4: as in the blog (for reuse of prompts; no group statistic is taken; unverified).
    Watch: advantage/mean, minus the reverse KL in nats per token. Fails: whitening, or a k3 estimate as the reward,
    biases it; a teacher of another chat template grades its own template.
    Deviations: the blog's loss has the same ratio, unclipped, and sums over tokens; a mean here.
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
def g_opd(
    task, teacher, *, strength: Annotated[float, Ge(0)] = 1.25, reference: ModelArg | None = None, group_size: Count = 1
) -> Stage:
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
    one coin a buffer from (seed, draw), all prefixes are the student's own; else the demonstrations in `data`, or
    without data the teacher's responses (the paper's SeqKD variant).
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
def context_opd(
    task,
    teacher=None,
    *,
    view: str = "context",
    template: str | None = None,
    top: Count = 256,
    rest: Literal["tail", "renormalised", "raw"] = "raw",
) -> Stage:
    """On-policy context distillation: on its own responses, agree with a model that reads a context.

        L = 1/N sum_t sum_{v in K} p_v (log p_v - log q_v),  p = pi(. | x, y_<t),  q = teacher(. | c, x, y_<t)

    y ~ pi(. | x); K are the student's `top` likeliest tokens, N counts tokens. The teacher is the learner when the
    stage began, or a bigger model, frozen; only it reads the context.
    view: the items' own prompt with the context; template: or the text around {prompt} where they bring none.
    top 256, not renormalised: the authors' code (kl_renorm_topk off); rest="tail" is a divergence at every top.
    Watch: divergence/reverse_nats, 0 at the start where the context is empty. Fails: as context_distill, less drift.
    Deviations: none known from the authors' code.
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
def opsd(
    task,
    *,
    beta: Share = 0.5,
    view: str = "privileged",
    template: str | None = "{prompt}\n\nA reference solution:\n{reference}\n\nSolve it in your own words.",
    group_size: Count = 1,
) -> Stage:
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


@method(
    family="on-policy distillation", interface="teacher targets", usual_provenance="off-policy",
    usual_role="consolidation", paper="2306.08543",
)  # fmt: skip
def minillm(
    task,
    teacher,
    *,
    mix: Share = 0.2,
    returns: Literal["next", "own"] = "next",
    text: DataArg | None = None,
    text_share: Share = 0.2,
    clip: Annotated[float, Gt(0)] = 0.2,
) -> Stage:
    """MiniLLM: the reverse KL of whole sequences, by policy gradient.

        L = 1/N sum_t [ -min(w_t R_t, clip(w_t, 0.8, 1.2) R_t) + KL(p(. | y_<t) || q(. | y_<t)) ]
            + 1/N' sum_t -log pi(z_t)
        R_t = whiten( 1/(T - t) sum_{s > t} log(q / p)(y_s) ),   w_t = pi(y_t) / (mix q + (1 - mix) p)(y_t)

    y is sampled, token by token, from the mixture of teacher q and student p, which keeps reward hacking away; what was
    sampled from is recorded, so that the importance weight is the plain ratio. The first term is what a token does to
    the rest of the sequence, divided by its length; the second what it does now, exact over the vocabulary; the third,
    with `text`, plain likelihood on a share of the groups (the replay modifier). N counts sampled tokens, N' those of
    the text. R and w are detached. returns="next" is the paper's sum from t + 1; "own" counts the token itself too, as
    the authors' code.
    mix 0.2, clip 0.2: the paper. Buffers: prompts_per_buffer 256 and epochs 4 there; here once by default.
    Watch: advantage/mean, divergence/reverse_nats; the sampler gap is the mixture's, so the ledger calls the stage
    off-policy unless mix is 0. Fails: a large mix trains prefixes the student never reaches.
    Deviations: the code divides rewards by 0.5 and cuts them at 100; whitening undoes the first.
    TRL's port leaves the advantage attached and has gamma 0 by default, which is opd with an exact term.
    """
    graded = teacher_logratio(TEACHER, student="proximal") >> per_remaining(start=returns) >> whiten()
    stage = Stage(
        rollouts(task, model=Mix((TEACHER, SELF), (mix, 1 - mix))),
        policy(
            policy_gradient(advantage=credit, ratio=behavior, trust=Clip(clip, clip)),
            divergence(to=TEACHER, kind="reverse"),
            credit=graded,
        ),
        recommends={"learning_rate": 5e-6},
    )
    return stage if text is None else replay(stage, data=text, share=text_share, coef=1.0)


@method(
    family="on-policy distillation", interface="verifier and privileged information", usual_provenance="on-policy",
    usual_role="expansion", paper="2601.20802",
)  # fmt: skip
def sdpo(
    task,
    *,
    group_size: Annotated[int, Ge(2)] = 8,
    beta: Share = 0.5,
    top: Count = 100,
    rate: Share = 0.05,
    template: str = "{prompt}\n\nA correct solution:\n{sibling}\n\nSolve it in your own words.",
) -> Stage:
    """Self-distillation policy optimisation: a sibling that succeeded becomes the privilege of the teacher.

        L = 1/N sum_t min(pi(y_t) / pi_sampled(y_t), 2) JSD_beta(coarse(q), coarse(p)),  y ~ pi(. | x)
        p = pi(. | x, y_<t),   q = pi_ema(. | sibling, x, y_<t),   coarse: the student's 100 likeliest and the rest

    Every token is graded by what the model itself would have written next had it seen a right answer: a dense signal
    from a binary reward, no group advantage. Members without a successful sibling are dropped and not counted. The
    teacher is the running average of the learner, ema += rate (pi - ema); teacher, gain and support are detached. N
    counts tokens. beta 0.5 (0 forward, 1 reverse), top 100 with the rest in one bucket, gain capped at 2, rate 0.05,
    group of 8: the authors' code. template: words of our own.
    Watch: divergence/jsd_nats, the share of groups without a success; the model has to read a prompt, a sibling and a
    response in one. Fails: hard prompts, where nobody succeeds; a model too small to use what it is shown unlearns
    (docs/learning.md has that cell); easy prompts, where the sibling's style is all there is to learn.
    Deviations: feedback in words (of a compiler, say) is not shown, only siblings; TRL's port defaults to the sampled
    token, reverse KL and no bucket.
    """
    return Stage(
        rollouts(task, group_size) | verify(task) | sibling_shown(template=template),
        policy(
            divergence(
                to=Ema(SELF, rate), kind=jsd(beta), view="sibling", support=TopK(top, "student"), factor=Likelier(2.0)
            )
        ),
        recommends={"learning_rate": 1e-5},
    )


@method(
    family="on-policy distillation", interface="teacher targets", usual_provenance="on-policy",
    usual_role="consolidation", paper="2606.30406",
)  # fmt: skip
def multi_teacher_opd(
    task, *, teachers: dict[str, TeacherArg], by: str = "family", band: tuple[float, float] = (0.5, 5.0)
) -> Stage:
    """On-policy distillation from a teacher for each domain.

        L = -1/N sum_t rho_t [low <= rho_t <= high] r_t A_t,   A_t = log q_d(x)(y_t) - log p(y_t)
        rho_t = pi_buffer(y_t) / pi_sampled(y_t),   r_t = pi(y_t) / pi_buffer(y_t)

    d(x) is the item's `by` (its family, or a column); teachers maps its values to models. Each prompt is graded by its
    own specialist, and only there: the student collects what they know without averaging what they do not. p is what
    sampled y, pi_buffer the learner when the buffer was filled. A, rho and r are detached; N counts tokens, masked ones
    included. With one teacher and an open band: opd.
    band: the gate is the paper's and NeMo-RL's; unverified: its bounds, which here are IcePop's (arXiv:2510.18855).
    Watch: advantage/mean; success by family. Fails: domains that overlap under different labels.
    Deviations: the paper's gate is on pi / pi_sampled itself (r and rho are one number there; with one step per buffer
    they are here too); it can add the advantage of an outcome reward, which a row of your own would.
    """
    to = Route(by, {value: Artefact(model) for value, model in teachers.items()})
    return Stage(
        rollouts(task),
        policy(
            policy_gradient(advantage=credit, ratio=proximal, correction=Mask(low=band[0], high=band[1])),
            credit=teacher_logratio(to),
        ),
        recommends={"learning_rate": 1e-5},
    )
