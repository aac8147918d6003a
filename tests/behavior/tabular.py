"""A world without training: policies are tables of next-token distributions, and everything is known by brute force."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np

STOP = 0


@dataclass
class Table:
    """pi(. | prefix) drawn once per prefix from Dirichlet(concentration); token 0 ends a response.

    `tilt` multiplies the probability of whole responses: see `tilted`.
    """

    seed: int
    vocabulary: int = 3
    horizon: int = 4
    concentration: float = 0.5
    changed: dict = field(default_factory=dict)  # prefix -> distribution, in place of the drawn one
    level: list = field(default_factory=list)  # prefixes of the level being expanded

    def next(self, prefix: tuple[int, ...]) -> np.ndarray:
        if prefix in self.changed:
            return self.changed[prefix]
        rng = np.random.default_rng([self.seed, *(token + 1 for token in prefix)])
        return rng.dirichlet(np.full(self.vocabulary, self.concentration)) * (1 - 1e-9) + 1e-9 / self.vocabulary

    def __len__(self) -> int:
        return 1

    def root(self, prompts) -> None:
        self.level = [() for _ in prompts]

    def extend(self, rows, tokens) -> None:
        self.level = [(*self.level[row], int(token)) for row, token in zip(rows, tokens, strict=True)]

    def log_p(self, rows: slice) -> np.ndarray:
        return np.log(np.stack([self.next(prefix) for prefix in self.level[rows]]))

    def probability(self, prefix) -> float:
        return float(np.prod([self.next(tuple(prefix[:t]))[token] for t, token in enumerate(prefix)]))

    def responses(self) -> list[tuple[int, ...]]:
        """Every response: ended by token 0, or cut at the horizon."""
        found = []
        for length in range(1, self.horizon + 1):
            for tokens in itertools.product(range(self.vocabulary), repeat=length):
                if STOP not in tokens[:-1] and (tokens[-1] == STOP or length == self.horizon):
                    found.append(tokens)
        return found

    def prefixes(self) -> set[tuple[int, ...]]:
        return {response[:t] for response in self.responses() for t in range(1, len(response) + 1)}

    def tilted(self, reward, strength: float) -> Table:
        """The policy proportional to pi(y) exp(strength * reward(y)): filtering, and the optimum of RL with a KL."""
        weight = {y: self.probability(y) * np.exp(strength * reward(y)) for y in self.responses()}
        inside: dict[tuple[int, ...], float] = {}
        for response, w in weight.items():
            for t in range(len(response) + 1):
                inside[response[:t]] = inside.get(response[:t], 0.0) + w
        changed = {}
        for prefix, total in inside.items():
            if len(prefix) < self.horizon and (not prefix or prefix[-1] != STOP):
                changed[prefix] = np.array([inside.get((*prefix, a), 0.0) / total for a in range(self.vocabulary)])
        return Table(self.seed, self.vocabulary, self.horizon, self.concentration, changed)

    def sample(self, rng) -> tuple[int, ...]:
        tokens: tuple[int, ...] = ()
        while len(tokens) < self.horizon and (not tokens or tokens[-1] != STOP):
            p = self.next(tokens)
            tokens = (*tokens, int(rng.choice(self.vocabulary, p=p / p.sum())))
        return tokens

    def logp(self, response) -> np.ndarray:
        return np.log([self.next(tuple(response[:t]))[token] for t, token in enumerate(response)])


@dataclass
class Tables:
    """Several worlds of one vocabulary as the prompts of one policy."""

    worlds: list[Table]
    level: list = field(default_factory=list)  # (world, prefix) of the level being expanded
    widest: int = 0

    @property
    def vocabulary(self) -> int:
        return self.worlds[0].vocabulary

    def __len__(self) -> int:
        return len(self.worlds)

    def root(self, prompts) -> None:
        self.level = [(self.worlds[prompt], ()) for prompt in prompts]

    def extend(self, rows, tokens) -> None:
        self.level = [(w, (*y, int(t))) for (w, y), t in zip([self.level[r] for r in rows], tokens, strict=True)]
        self.widest = max(self.widest, len(self.level))

    def log_p(self, rows: slice) -> np.ndarray:
        return np.log(np.stack([world.next(prefix) for world, prefix in self.level[rows]]))
