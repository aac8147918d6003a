"""The batch of one optimizer step: token-aligned columns, and one weight column per term.

Axes: M response tokens (sequence-major), B sequences, P pairs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from offon.types.trajectory import Group, Source, Trajectory

PAIRS = "pairs:"  # terms whose units are pairs have names that begin with this; all others have tokens as units


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Frozen columns of the trajectories of some groups, in order.

    sequence     [M] long: which trajectory a token belongs to
    group        [B] long: which group a trajectory belongs to
    pairs        [P, 2] long: (winner, loser) trajectories
    temperature  [B] float32: the temperature its tokens are scored at (the learner's sampler's; 1 for others' tokens)
    columns      name -> [M]: "source", "trainable", "behavior_logp" (NaN where unknown) and every token signal of its
                 trajectories (NaN where a trajectory has none)
    weights      term name -> weight of each of its units: [M] for token terms, [P] for pair terms

    `Batch.of([Group(members=(a, b)), ...])` with a of 3 and b of 2 tokens has sequence = [0, 0, 0, 1, 1].
    """

    trajectories: tuple[Trajectory, ...]
    sequence: Tensor
    group: Tensor
    pairs: Tensor
    temperature: Tensor
    columns: Mapping[str, Tensor]
    weights: Mapping[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def of(groups: Sequence[Group]) -> Batch:
        trajectories, group, pairs = [], [], []
        for index, item in enumerate(groups):
            first = len(trajectories)
            trajectories += item.members
            group += [index] * len(item.members)
            pairs += [(first + c.winner, first + c.loser) for c in item.comparisons]
        lengths = [len(t) for t in trajectories]
        return Batch(
            trajectories=tuple(trajectories),
            sequence=torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths, dtype=torch.long)),
            group=torch.tensor(group, dtype=torch.long),
            pairs=torch.tensor(pairs, dtype=torch.long).reshape(-1, 2),
            temperature=torch.tensor([_temperature(t) for t in trajectories], dtype=torch.float32),
            columns=_columns(trajectories),
        )

    @property
    def n_sequences(self) -> int:
        return len(self.trajectories)

    @property
    def n_tokens(self) -> int:
        return len(self.sequence)

    def total_weight(self) -> float:
        return float(sum(weight.abs().sum() for weight in self.weights.values()))

    def with_weights(self, weights: Mapping[str, Tensor]) -> Batch:
        return dataclasses.replace(self, weights=dict(weights))

    def take(self, sequences: Sequence[int]) -> Batch:
        """The sub-batch of some sequences, weights unchanged. Pairs stay only when both their members do."""
        chosen = torch.tensor(sequences, dtype=torch.long)
        position = torch.full((self.n_sequences,), -1, dtype=torch.long)
        position[chosen] = torch.arange(len(chosen))
        starts = torch.searchsorted(self.sequence, torch.arange(self.n_sequences + 1))
        tokens = torch.cat([torch.arange(starts[i], starts[i + 1]) for i in sequences] or [chosen])
        whole = (position[self.pairs] >= 0).all(-1) if len(self.pairs) else torch.zeros(0, dtype=torch.bool)
        return Batch(
            trajectories=tuple(self.trajectories[i] for i in sequences),
            sequence=position[self.sequence[tokens]],
            group=self.group[chosen],
            pairs=position[self.pairs[whole]],
            temperature=self.temperature[chosen],
            columns={name: column[tokens] for name, column in self.columns.items()},
            weights={
                name: weight[whole] if name.startswith(PAIRS) else weight[tokens]
                for name, weight in self.weights.items()
            },
        )

    def split(self, max_tokens: int | None) -> list[Batch]:
        """Micro-batches of at most max_tokens tokens each. A group is kept together, so that its prompt is computed
        once, unless it alone is larger; then its members are spread, but the two of a pair never part.

        Tokens are counted as they will be computed: each distinct prefix of a group once, then its responses.
        """
        if max_tokens is None:
            return [self]
        parts, current, used = [], [], 0
        for members in self._atoms(max_tokens):
            cost = self._cost(members)
            if current and used + cost > max_tokens:
                parts.append(current)
                current, used = [], 0
            current, used = current + members, used + cost
        return [self.take(part) for part in [*parts, current] if part]

    def _atoms(self, max_tokens: int) -> Iterator[list[int]]:
        paired = set(self.group[self.pairs.flatten()].tolist())
        for index in self.group.unique_consecutive().tolist():
            members = (self.group == index).nonzero()[:, 0].tolist()
            if index in paired or self._cost(members) <= max_tokens:
                yield members
            else:
                yield from ([member] for member in members)

    def _cost(self, members: Sequence[int]) -> int:
        prefixes = {self.trajectories[i].prefix() for i in members}
        return sum(map(len, prefixes)) + sum(len(self.trajectories[i]) for i in members)


def _temperature(trajectory: Trajectory) -> float:
    """The temperature a trajectory is scored at: that of the learner's own sampler, which defines the policy; what a
    teacher or a data set wrote is a target for the model itself, at 1, however it was sampled."""
    sampling = trajectory.producer.sampling
    own = sampling is not None and bool((trajectory.source == Source.LEARNER).any())
    return sampling.temperature if own and sampling.temperature > 0 else 1.0


def _columns(trajectories: Sequence[Trajectory]) -> dict[str, Tensor]:
    def column(values: list[np.ndarray], dtype) -> Tensor:
        return torch.from_numpy(np.concatenate([np.zeros(0, dtype), *values]).astype(dtype))

    def missing(trajectory: Trajectory) -> np.ndarray:
        return np.full(len(trajectory), np.nan, np.float32)

    names = sorted({name for t in trajectories for name in t.token_signals})
    return {
        "source": column([t.source for t in trajectories], np.int64),
        "trainable": column([t.trainable for t in trajectories], bool),
        "behavior_logp": column(
            [missing(t) if t.behavior_logp is None else t.behavior_logp for t in trajectories], np.float32
        ),
        **{name: column([t.token_signals.get(name, missing(t)) for t in trajectories], np.float32) for name in names},
    }


def source_counts(trajectories: Sequence[Trajectory]) -> dict[str, int]:
    """Response tokens by who produced them."""
    counts = np.zeros(len(Source), dtype=int)
    for trajectory in trajectories:
        counts += np.bincount(trajectory.source, minlength=len(Source))
    return {source.name.lower(): int(counts[source]) for source in Source}
