"""Values that change over a stage: pure functions of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Fade:
    """From `start` to `end` over the first `share` of the stage, then `end`.

    linear: start + (end - start) u;  cosine: end + (start - end) (1 + cos(pi u)) / 2, with u = step / (share * steps).

        >>> [Fade(1.0, 0.0, share=0.5)(step, steps=4) for step in range(4)]
        [1.0, 0.5, 0.0, 0.0]
    """

    start: float
    end: float
    share: float = 1.0
    shape: Literal["linear", "cosine"] = "linear"

    def __call__(self, step: int, steps: int) -> float:
        u = min(step / max(self.share * steps, 1e-9), 1.0)
        if self.shape == "cosine":
            return self.end + (self.start - self.end) * (1 + math.cos(math.pi * u)) / 2
        return self.start + (self.end - self.start) * u


Schedule = float | Fade


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
