"""The batch of one optimizer step: token-aligned columns, and one weight column per term.

Axes: M response tokens (sequence-major), B sequences, P pairs, G groups.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

import numpy as np

from offon.lazy import Tensor, torch
from offon.types.trajectory import TARGET, Group, Item, Source, Trajectory

Unit = Literal["token", "sequence", "pair", "group"]  # what a term has one loss and one weight for


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Frozen columns of the trajectories of some groups, in order.

    sequence     [M] long: which trajectory a token belongs to
    group        [B] long: which group a trajectory belongs to, counting groups that have members
    items        the item that each trajectory answers
    pairs        [P, 2] long: (winner, loser) trajectories
    margins      [P] float32: by how much the winner is better, where the data say so; else 0
    temperature  [B] float32: the temperature its tokens are scored at (the learner's sampler's; 1 for others' tokens)
    columns      name -> [M]: "source", "trainable", "behavior_logp" (NaN where unknown) and every token signal of its
                 trajectories (NaN where a trajectory has none); what a term prepares may be [M, K]
    constants    name -> a number that a term prepared from the whole step batch
    weights      term name -> weight of each of its units: [M], [B], [P] or [G]
    units        term name -> its unit, token unless written

    `Batch.of([Group(members=(a, b)), ...])` with a of 3 and b of 2 tokens has sequence = [0, 0, 0, 1, 1].
    """

    trajectories: tuple[Trajectory, ...]
    sequence: Tensor
    group: Tensor
    pairs: Tensor
    margins: Tensor
    temperature: Tensor
    columns: Mapping[str, Tensor]
    items: tuple[Item, ...]
    constants: Mapping[str, float] = field(default_factory=dict)
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    units: Mapping[str, Unit] = field(default_factory=dict)

    @staticmethod
    def of(groups: Sequence[Group]) -> Batch:
        trajectories, group, pairs, margins = [], [], [], []
        for index, item in enumerate(item for item in groups if item.members):
            first = len(trajectories)
            trajectories += item.members
            group += [index] * len(item.members)
            pairs += [(first + c.winner, first + c.loser) for c in item.comparisons]
            margins += [c.margin or 0.0 for c in item.comparisons]
        lengths = [len(t) for t in trajectories]
        return Batch(
            trajectories=tuple(trajectories),
            sequence=torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths, dtype=torch.long)),
            group=torch.tensor(group, dtype=torch.long),
            pairs=torch.tensor(pairs, dtype=torch.long).reshape(-1, 2),
            margins=torch.tensor(margins, dtype=torch.float32),
            temperature=torch.tensor([_temperature(t) for t in trajectories], dtype=torch.float32),
            columns=_columns(trajectories),
            items=tuple(item.item for item in groups for _ in item.members),
        )

    @property
    def n_sequences(self) -> int:
        return len(self.trajectories)

    @property
    def n_tokens(self) -> int:
        return len(self.sequence)

    @property
    def n_groups(self) -> int:
        return int(self.group[-1]) + 1 if self.n_sequences else 0

    def total_weight(self) -> float:
        return float(sum(weight.abs().sum() for weight in self.weights.values()))

    def trained(self) -> list[int]:
        """The sequences on which some term has weight: what "trained" means."""
        chosen = torch.zeros(self.n_sequences, dtype=torch.bool, device=self.sequence.device)
        for name, weight in self.weights.items():
            match self.units.get(name, "token"):
                case "token":
                    chosen[self.sequence[weight != 0]] = True
                case "sequence":
                    chosen |= weight != 0
                case "pair":
                    chosen[self.pairs[weight != 0].flatten()] = True
                case "group":
                    chosen |= (weight != 0)[self.group]
        return chosen.nonzero()[:, 0].tolist()

    def with_weights(self, weights: Mapping[str, Tensor], units: Mapping[str, Unit] = MappingProxyType({})) -> Batch:
        return dataclasses.replace(self, weights=dict(weights), units=dict(units))

    def with_columns(self, columns: Mapping[str, Tensor]) -> Batch:
        return dataclasses.replace(self, columns={**self.columns, **columns})

    def with_constants(self, constants: Mapping[str, float]) -> Batch:
        return dataclasses.replace(self, constants={**self.constants, **constants})

    def to(self, device: torch.device) -> Batch:
        """The same batch with every tensor on a device."""

        def moved(value: Tensor | Mapping[str, Tensor]):
            return value.to(device) if isinstance(value, torch.Tensor) else {k: v.to(device) for k, v in value.items()}

        names = ("sequence", "group", "pairs", "margins", "temperature", "columns", "weights")
        return dataclasses.replace(self, **{name: moved(getattr(self, name)) for name in names})

    def take(self, sequences: Sequence[int]) -> Batch:
        """The sub-batch of some sequences, weights unchanged. A pair or group counts only where all of it stays."""
        chosen = torch.tensor(sequences, dtype=torch.long)
        position = torch.full((self.n_sequences,), -1, dtype=torch.long)
        position[chosen] = torch.arange(len(chosen))
        starts = torch.searchsorted(self.sequence, torch.arange(self.n_sequences + 1))
        tokens = torch.cat([torch.arange(starts[i], starts[i + 1]) for i in sequences] or [chosen])
        pairs = (position[self.pairs] >= 0).all(-1)
        groups, renumbered, size = self.group[chosen].unique_consecutive(return_inverse=True, return_counts=True)
        complete = (size == self.group.bincount(minlength=self.n_groups)[groups]).to(torch.float64)
        of_unit = {
            "token": lambda weight: weight[tokens],
            "sequence": lambda weight: weight[chosen],
            "pair": lambda weight: weight[pairs],
            "group": lambda weight: weight[groups] * complete,
        }
        return dataclasses.replace(
            self,
            trajectories=tuple(self.trajectories[i] for i in sequences),
            sequence=position[self.sequence[tokens]],
            group=renumbered,
            pairs=position[self.pairs[pairs]],
            margins=self.margins[pairs],
            temperature=self.temperature[chosen],
            columns={name: column[tokens] for name, column in self.columns.items()},
            items=tuple(self.items[i] for i in sequences),
            weights={name: of_unit[self.units.get(name, "token")](weight) for name, weight in self.weights.items()},
        )

    def split(self, max_tokens: int | None) -> list[Batch]:
        """Micro-batches of at most max_tokens tokens each. A group is kept together, so that its prompt is computed
        once, unless it alone is larger; then its members are spread, but those of a pair never part, nor those of a
        group where a term has groups as units.

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
        whole = "group" in self.units.values()
        paired = set(range(self.n_groups) if whole else self.group[self.pairs.flatten()].tolist())
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
    teacher or a data set wrote, and own samples that are imitated, are targets for the model itself, at 1, however they
    were sampled."""
    sampling = trajectory.producer.sampling
    own = sampling is not None and TARGET not in trajectory.tags and bool((trajectory.source == Source.LEARNER).any())
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
