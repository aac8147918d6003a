"""Proximal policy optimisation: a policy and a critic."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Le

from offon.catalogue.arguments import RewardArg
from offon.catalogue.registry import method
from offon.collect import rollouts, verify
from offon.parts import (
    SELF_START,
    Artefact,
    Clip,
    Learner,
    Live,
    SquaredError,
    Stage,
    credit,
    policy,
    policy_gradient,
    proximal,
)
from offon.parts.credits import gae, kl_penalty, whiten

Discount = Annotated[float, Ge(0), Le(1)]


@method(family="rl", interface="reward", usual_provenance="on-policy", usual_role="reshaping", paper="1707.06347")
def ppo(
    task,
    *,
    clip: tuple[float, float] = (0.2, 0.2),
    value_clip: Annotated[float, Gt(0)] | None = 0.2,
    gamma: Discount = 1.0,
    lam: Discount = 0.95,
    kl: Annotated[float, Ge(0)] = 0.05,
    critic: RewardArg | None = None,
    critic_learning_rate: Annotated[float, Gt(0)] = 1e-5,
) -> Stage:
    """PPO with a critic: generalised advantages per token, clipped policy, clipped values, KL in the reward.

        rew_t = -kl (log pi_sampled(y_t) - log pi_ref(y_t)) + 1[t = T] R
        delta_t = rew_t + gamma V_{t+1} - V_t,   A_t = delta_t + gamma lam A_{t+1},   return_t = A_t + V_t
        L = -1/D sum min(r_t A'_t, clip(r_t, 1 - low, 1 + high) A'_t),   A' = A whitened over the buffer
        L_critic = 1/D sum 1/2 max((V_t - return_t)^2, (V_old,t + clamp(V_t - V_old,t, value_clip) - return_t)^2)

    D counts tokens. V_t is read at the state before y_t, when the buffer was filled; A, returns and KL are detached.
    r_t = pi / pi_proximal, the policy when the buffer was filled; ref = the policy when the stage began. Each prompt
    gives one response and each buffer 4 epochs (TRL). lam 1 and V = 0 is reinforce with returns; lam 0 the TD error.
    critic: a reward model (train_reward_model) to start it from; the node's model with a new head unless written. It is
    a network of its own, with its own optimizer, kept beside the policy in the directory `critic`.
    Watch: critic/value/mean against critic/value/target, ratio/clip_frac, reward. Fails: a critic that lags gives noise
    for advantages; a KL weight that is too small lets the policy leave what the reward model knows.
    Deviations: TRL weighs the value loss by 0.1 in one optimizer, which two make a learning rate of its own; a response
    cut at max_tokens ends as if by itself, with the reward its checker gives it (V after the last token is 0).
    """
    actor = policy(
        policy_gradient(advantage=credit, ratio=proximal, trust=Clip(*clip)),
        credit=kl_penalty(kl) >> gae(critic=Live("critic"), gamma=gamma, lam=lam) >> whiten(),
    )
    value = Learner(
        "critic", (SquaredError(clip=value_clip),), init=Artefact(critic) if critic else SELF_START, head="value",
        learning_rate=critic_learning_rate,
    )  # fmt: skip
    return Stage(rollouts(task) | verify(task), (actor, value), recommends={"learning_rate": 1e-6, "epochs": 4})
