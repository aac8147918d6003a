"""What every credit is, and how two of them make one.

A credit turns what was collected about a group (signals, token signals) into the advantage column. Two token columns
carry it, so that steps can be chained without confusion:

    token_reward   rewards that belong to single tokens (a KL penalty, a step's score); the response's own reward is
                   counted at its last trainable token. Steps that shape rewards add to it.
    advantage      what terms read. Group statistics, returns and GAE turn rewards into it; whitening rescales it.

    kl_penalty(0.05) >> return_to_go() >> whiten()
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from offon.errors import DataError
from offon.parts.models import SELF, Need
from offon.types import Group, Source, Trajectory

TOKEN_REWARD = "token_reward"


class Credit(ABC):
    """Base of every credit: `a >> b` runs b on what a returned. Pure: it sees groups, and no model.

    needs      log-probs or values to be scored and kept with the buffer
    requires   what collectors must provide
    provides   the columns it writes; other learners may read all but "advantage"
    min_group  smaller groups are set aside before any credit is given
    counts_token_rewards   whether rewards of single tokens that came before reach the advantage
    """

    @property
    def needs(self) -> tuple[Need, ...]:
        return ()

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"reward"})

    @property
    def provides(self) -> frozenset[str]:
        return frozenset({"advantage"})

    @property
    def min_group(self) -> int:
        return 1

    @property
    def counts_token_rewards(self) -> bool:
        return False

    @property
    def steps(self) -> tuple[Credit, ...]:
        return (self,)

    def exchange(self, kind: type[Credit], change: Callable[[Credit], Credit]) -> Credit:
        """The same credit with every part of a kind changed for another, in a chain or inside another credit too."""
        return change(self) if isinstance(self, kind) else self

    def __rshift__(self, other: Credit) -> Chain:
        return Chain((*self.steps, *other.steps))

    def across_views(self) -> Credit:
        """The same credit for members that may be trained under another prompt than they were sampled under: a log-prob
        that meets one under the prompt of training is the learner's own under that prompt, not the sampler's."""
        return self

    @abstractmethod
    def __call__(self, group: Group) -> Group:
        """The group with more in its columns. What reads other groups too overrides `over_buffer` instead."""

    def over_buffer(self, groups: Sequence[Group]) -> list[Group]:
        return [self(group) if group.members else group for group in groups]


@dataclass(frozen=True)
class Chain(Credit):
    """Credits in order."""

    links: tuple[Credit, ...]

    @property
    def steps(self) -> tuple[Credit, ...]:
        return self.links

    def exchange(self, kind: type[Credit], change: Callable[[Credit], Credit]) -> Credit:
        return Chain(tuple(link.exchange(kind, change) for link in self.links))

    def across_views(self) -> Credit:
        return Chain(tuple(link.across_views() for link in self.links))

    @property
    def needs(self) -> tuple[Need, ...]:
        return tuple(dict.fromkeys(need for step in self.links for need in step.needs))

    @property
    def requires(self) -> frozenset[str]:
        return frozenset().union(*(step.requires for step in self.links))

    @property
    def provides(self) -> frozenset[str]:
        return frozenset().union(*(step.provides for step in self.links))

    @property
    def min_group(self) -> int:
        return max(step.min_group for step in self.links)

    @property
    def counts_token_rewards(self) -> bool:
        return any(step.counts_token_rewards for step in self.links)

    def __call__(self, group: Group) -> Group:
        (credited,) = self.over_buffer([group])
        return credited

    def over_buffer(self, groups: Sequence[Group]) -> list[Group]:
        for step in self.links:
            groups = step.over_buffer(groups)
        return list(groups)


def signal_of(member: Trajectory, signal: str) -> float:
    """A number about the response. Unscored (None) is not a number, and never counts as 0."""
    if member.signals.get(signal) is None:
        raise DataError(
            f"credit needs the signal {signal!r}, and a response has none",
            where=member.id,
            why=f"it has {', '.join(f'{name} {value}' for name, value in member.signals.items()) or 'no signals'}",
            fix="a collector that gives every response this signal, or sets aside those it cannot score",
        )
    return float(member.signals[signal])


def token_rewards(member: Trajectory, signal: str | None = "reward") -> np.ndarray:
    """[T]: rewards of single tokens, plus the response's own (its `signal`) at its last trainable token."""
    rewards = np.array(member.token_signals.get(TOKEN_REWARD, np.zeros(len(member))), dtype=np.float64)
    trainable = np.flatnonzero(member.trainable)
    if signal is not None and len(trainable):
        rewards[trainable[-1]] += signal_of(member, signal)
    return rewards


def total_reward(member: Trajectory, signal: str = "reward") -> float:
    """The response as one action: its own reward and those of its tokens."""
    return signal_of(member, signal) + float(np.sum(member.token_signals.get(TOKEN_REWARD, 0.0)))


def without_token_reward(member: Trajectory) -> Trajectory:
    kept = {name: column for name, column in member.token_signals.items() if name != TOKEN_REWARD}
    return member.replace(token_signals=kept)


PROXIMAL = Need("logp", SELF, when="buffer")  # the learner when the buffer was filled, under the prompt of training


def own_logp(member: Trajectory, across: bool) -> np.ndarray | None:
    """log pi(y_t) as the sampler reported it; trained under another prompt, as the learner says under that one."""
    if across and member.off_policy_by_conditioning:
        return np.where(member.source == Source.LEARNER, member.token_signals[PROXIMAL.column], np.nan)
    return member.behavior_logp
