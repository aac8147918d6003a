"""A number for each token: penalties on tokens, returns, values, and whitening over the buffer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from offon.lazy import torch
from offon.maths import advantage as maths
from offon.maths.policy_gradient import kl_estimate
from offon.parts.credits.base import PROXIMAL, TOKEN_REWARD, Credit, own_logp, token_rewards
from offon.parts.models import SELF_START, ModelRef, Need
from offon.types import Group, Trajectory


def add_reward(member: Trajectory, reward_T: np.ndarray) -> Trajectory:
    """More reward on single tokens; those nobody trains get none."""
    before = member.token_signals.get(TOKEN_REWARD, np.zeros(len(member)))
    return member.with_token_signals(**{TOKEN_REWARD: before + np.where(member.trainable, reward_T, 0.0)})


@dataclass(frozen=True)
class KlPenalty(Credit):
    """-coef * KL estimate on every token's reward, with d_t = log pi(y_t) - log pi_ref(y_t) (see maths.terms).

    anchor   whose log pi: "behavior", what the sampler reported; "proximal", the learner when the buffer was filled
    across   whether members may be trained under another prompt than they were sampled under (a hint that is dropped):
             theirs is the learner's log pi under the prompt of training, so that learner = reference costs nothing
    coef     0 asks for no model and changes nothing

    Tokens that nobody sampled here (a demonstration's) cost nothing.
    """

    coef: float
    estimator: Literal["k1", "k2", "k3"] = "k1"
    to: ModelRef = SELF_START
    anchor: Literal["behavior", "proximal"] = "behavior"
    across: bool = False

    def across_views(self) -> KlPenalty:
        return replace(self, across=True)

    @property
    def needs(self) -> tuple[Need, ...]:
        proximal = (PROXIMAL,) if self.anchor == "proximal" or self.across else ()
        return (Need("logp", self.to, when="buffer"), *proximal) if self.coef else ()

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"behavior_logp"} if self.coef and self.anchor == "behavior" else {"members"})

    def __call__(self, group: Group) -> Group:
        return group.map(self._penalised) if self.coef else group

    def _penalised(self, member: Trajectory) -> Trajectory:
        reference, *proximal = (member.token_signals[need.column] for need in self.needs)
        policy = proximal[0] if self.anchor == "proximal" else own_logp(member, self.across)
        if policy is None:
            return member
        log_ratio = np.nan_to_num(maths.logp_difference(policy, reference))
        value, _ = kl_estimate(torch.from_numpy(log_ratio), self.estimator)
        return add_reward(member, -self.coef * value.numpy())


@dataclass(frozen=True, kw_only=True)
class OverlongPenalty(Credit):
    """A reward from 0 to -scale for coming close to the token limit (DAPO's soft overlong punishment).

    limit    tokens at which it is -scale; None: the sampler's max_tokens (what was not sampled has no limit)
    buffer   the share of the limit over which it falls
    """

    limit: int | None = None
    buffer: float = 0.2
    scale: float = 1.0
    requires = frozenset({"members"})

    def __call__(self, group: Group) -> Group:
        return group.map(self._penalised)

    def _penalised(self, member: Trajectory) -> Trajectory:
        sampling = member.producer.sampling
        limit = self.limit or (sampling.max_tokens if sampling else None)
        if limit is None:
            return member
        penalty = maths.overlong_penalty(len(member), limit=limit, buffer=max(round(self.buffer * limit), 1))
        last = np.flatnonzero(member.trainable)[-1:]
        reward = np.zeros(len(member))
        reward[last] = self.scale * penalty
        return add_reward(member, reward)


@dataclass(frozen=True, kw_only=True)
class ReturnToGo(Credit):
    """A_t = sum_{s >= t} gamma^(s - t) r_s, over trainable tokens. signal None: only the rewards of single tokens."""

    gamma: float = 1.0
    signal: str | None = "reward"
    counts_token_rewards = True

    def __call__(self, group: Group) -> Group:
        def returns(member: Trajectory) -> Trajectory:
            rewards = token_rewards(member, self.signal)
            return member.with_token_signals(advantage=maths.return_to_go(rewards, member.trainable, gamma=self.gamma))

        return group.map(returns)


@dataclass(frozen=True, kw_only=True)
class Gae(Credit):
    """Generalised advantage estimation against a critic's values, kept with the buffer; also writes the column
    "return" that the critic is trained towards. The environment's tokens are carried through."""

    critic: ModelRef
    gamma: float = 1.0
    lam: float = 0.95
    signal: str | None = "reward"
    provides = frozenset({"advantage", "return"})
    counts_token_rewards = True

    @property
    def needs(self) -> tuple[Need, ...]:
        return (Need("value", self.critic, when="buffer"),)

    def __call__(self, group: Group) -> Group:
        (need,) = self.needs

        def credited(member: Trajectory) -> Trajectory:
            advantage, returns = maths.gae(
                token_rewards(member, self.signal), member.token_signals[need.column], member.trainable,
                gamma=self.gamma, lam=self.lam,
            )  # fmt: skip
            return member.with_token_signals(advantage=advantage, **{"return": returns})

        return group.map(credited)


@dataclass(frozen=True, kw_only=True)
class Whiten(Credit):
    """A <- (A - mean) / (std + epsilon) over the whole buffer.

    over     "tokens": every trainable token counts once, so long responses weigh more; "samples": every response counts
             once, with the mean of its tokens
    centre   False: only divide
    """

    over: Literal["tokens", "samples"] = "tokens"
    centre: bool = True
    epsilon: float = 1e-4
    requires = frozenset()

    def __call__(self, group: Group) -> Group:
        (whitened,) = self.over_buffer([group])
        return whitened

    def over_buffer(self, groups: Sequence[Group]) -> list[Group]:
        columns = [m.token_signals["advantage"][m.trainable] for group in groups for m in group.members]
        columns = [column for column in columns if len(column)]
        if not columns:
            return list(groups)
        each = columns if self.over == "tokens" else [column.mean(keepdims=True) for column in columns]
        population = np.concatenate(each)

        def whitened(member: Trajectory) -> Trajectory:
            column = maths.whiten(
                member.token_signals["advantage"], population, centre=self.centre, epsilon=self.epsilon
            )
            return member.with_token_signals(advantage=column)

        return [group.map(whitened) for group in groups]


kl_penalty, overlong_penalty, return_to_go, gae, whiten = KlPenalty, OverlongPenalty, ReturnToGo, Gae, Whiten
