"""Values that change over a stage: pure functions of the step."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Fade:
    """From `start` to `end` over the first `share` of the stage, then `end`.

    linear: start + (end - start) u;  cosine: end + (start - end) (1 + cos(pi u)) / 2, with u = step / (share * steps).
    rise: it first goes from `before` to `start` over this share of the stage, linearly.

        >>> [Fade(1.0, 0.0, share=0.5)(step, steps=4) for step in range(4)]
        [1.0, 0.5, 0.0, 0.0]
    """

    start: float
    end: float
    share: float = 1.0
    shape: Literal["linear", "cosine"] = "linear"
    rise: float = 0.0
    before: float = 0.0

    def __call__(self, step: int, steps: int) -> float:
        risen = self.rise * steps
        if step < risen:
            return self.before + (self.start - self.before) * step / risen
        u = min((step - risen) / max(self.share * steps, 1e-9), 1.0)
        if self.shape == "cosine":
            return self.end + (self.start - self.end) * (1 + math.cos(math.pi * u)) / 2
        return self.start + (self.end - self.start) * u

    @property
    def complement(self) -> Fade:
        """1 minus it."""
        return dataclasses.replace(self, start=1 - self.start, end=1 - self.end, before=1 - self.before)


@dataclass(frozen=True)
class Sigmoid:
    """1 / (1 + exp(steepness (u - middle))) with u = step / steps: from 1 to 0 around the middle.

    >>> [round(Sigmoid(0.5, 10.0)(step, steps=4), 2) for step in range(4)]
    [0.99, 0.92, 0.5, 0.08]
    """

    middle: float
    steepness: float

    def __call__(self, step: int, steps: int) -> float:
        return 0.5 * (1 - math.tanh(self.steepness * (step / max(steps, 1) - self.middle) / 2))


@dataclass(frozen=True)
class Growth:
    """start * factor^step, as a whole number: step counts that grow with the iteration.

    >>> [Growth(40, 1.2)(step, steps=3) for step in range(3)]
    [40, 48, 58]
    """

    start: int
    factor: float

    def __call__(self, step: int, steps: int) -> int:
        return round(self.start * self.factor**step)


@dataclass(frozen=True)
class Each:
    """One value per step, in order; the last one stays.

    >>> [Each((0.5, 0.9))(step, steps=3) for step in range(3)]
    [0.5, 0.9, 0.9]
    """

    values: tuple[Any, ...]

    def __call__(self, step: int, steps: int) -> Any:
        return self.values[min(step, len(self.values) - 1)]


Schedule = float | Fade | Sigmoid | Growth | Each


def value_at(schedule: Schedule, step: int, steps: int) -> float:
    return schedule(step, steps) if callable(schedule) else schedule


def learning_rate_at(base: float, step: int, steps: int, *, warmup_steps: int, shape: str) -> float:
    """Linear warm-up over `warmup_steps`, then constant, linear to 0, or cosine to 0. Steps count from 0."""
    if step < warmup_steps:
        return base * (step + 1) / warmup_steps
    u = (step - warmup_steps) / max(steps - warmup_steps, 1)
    match shape:
        case "constant":
            return base
        case "linear":
            return base * (1 - u)
        case "cosine":
            return base * (1 + math.cos(math.pi * u)) / 2
    raise ValueError(f"unknown schedule {shape!r}; one of constant, linear, cosine")
