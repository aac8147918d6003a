"""Process supervision: rewards and values for the steps of a response."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge

from offon.collect import continuation_value, rollouts, steps, verify
from offon.methods.registry import method
from offon.parts import SELF_START, Clip, Kl, Stage, behavior, credit, one, policy, policy_gradient
from offon.parts.credit import leave_one_out, whiten
from offon.parts.credit.steps import progress

Count = Annotated[int, Ge(1)]
GroupSize = Annotated[int, Ge(2)]


@method(
    family="process supervision", interface="step values", usual_provenance="on-policy", usual_role="reshaping",
    paper="2410.01679",
)  # fmt: skip
def vineppo(
    task, *, group_size: Count = 8, continuations: Count = 9, separator: str | int = "\n", clip: float = 0.2,
    kl: float = 1e-4,
) -> Stage:  # fmt: skip
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
        rollouts(task, group_size) | verify(task) | steps(separator) | continuation_value(task=task, n=continuations),
        policy(
            policy_gradient(advantage=credit, ratio=behavior, trust=Clip(clip, clip)),
            policy_gradient(advantage=one, gain=Kl("k3"), coef=kl, name="kl"),
            credit=progress() >> whiten(),
        ),
        recommends={"learning_rate": 1e-6},
    )


@method(
    family="process supervision", interface="step values", usual_provenance="on-policy", usual_role="expansion",
    paper="2410.08146",
)  # fmt: skip
def pav(
    task, *, group_size: GroupSize = 4, alpha: float = 3.0, prover_best_of: Count = 4, continuations: Count = 8,
    separator: str | int = "\n",
) -> Stage:  # fmt: skip
    """Rewarding progress (process advantage verifiers): outcome RL with a bonus for steps a prover profits from.

        A_mu(k) = Q_mu(s_k) - Q_mu(s_k-1),   mu = best of `prover_best_of` tries by the model the stage began with
        A_t = (R_i - mean_{j != i} R_j) + alpha A_mu(k) for every token t of step k
        L = -1/N sum_t r_t A_t,   r_t = pi(y_t) / pi_sampled(y_t)

    N counts tokens. The progress of a step is credited to that step alone (the paper's gradient keeps the distribution
    of states fixed), so it does not telescope away. Detached: everything but log pi. alpha = 0 is RLOO. Q_mu is
    estimated without bias from `continuations` tries per step. A prover that is the policy itself adds no signal in
    expectation; one far too weak or too strong adds none at all, because its values do not move.
    Watch: advantage/mean; reward. Fails: alpha so large that progress is earned without ever finishing.
    Deviations: the paper trains a verifier on such estimates and asks it; here they are measured (to train one:
    math_shepherd, then prm). Unverified: alpha (3 to 5 in the paper's RL runs), best of 4.
    """
    prover = continuation_value(task=task, n=continuations, completer=SELF_START, best_of=prover_best_of)
    return Stage(
        rollouts(task, group_size) | verify(task) | steps(separator) | prover,
        policy(policy_gradient(advantage=credit, ratio=behavior), credit=leave_one_out() >> progress(coef=alpha)),
        recommends={"learning_rate": 1e-6},
    )
