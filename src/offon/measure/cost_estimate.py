"""How many tokens and how much time a probe will take, from a few rollouts made beforehand."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from offon.data import prompt_groups
from offon.engines.api import Engine, Request
from offon.models.model import Model
from offon.recipe.fields import Probe, sampling_of

FEW, MANY = 8, 64  # rollouts of the pilot's two batches


@dataclass(frozen=True)
class Forecast:
    """What a probe will take, and the tokens that the pilot took."""

    tokens: int
    seconds: float
    pilot_tokens: int


def forecast(model: Model, task: Any, probe: Probe, salt: int, *, engine: Engine) -> Forecast:
    """A step of decoding costs a + b B seconds for B sequences at once; a few and many rollouts give a and b.

    steps = tokens / B,   B = rollouts, at most the engine's slots
    """
    sampling = sampling_of(probe)
    groups = prompt_groups(list(task.items("heldout"))[: probe.prompts], model.tokenizer)
    lengths, paces = [], []
    for size in (FEW, FEW, MANY):  # the first warms up
        requests = [Request(groups[i % len(groups)].prompt, sampling, (salt, i)) for i in range(size)]
        started = time.perf_counter()
        drawn = [len(completion.tokens) for completion in engine.generate(requests, model)]
        paces.append((sum(drawn) / max(drawn), (time.perf_counter() - started) / max(drawn)))
        lengths += drawn
    (few, short), (many, long) = paces[1:]
    each = max(0.0, (long - short) / max(many - few, 1e-9))
    fixed = max(0.0, short - each * few)
    rollouts = len(groups) * probe.samples
    tokens = sum(lengths) / len(lengths) * rollouts
    at_once = min(rollouts, engine.max_slots)
    return Forecast(round(tokens), tokens / at_once * (fixed + each * at_once), sum(lengths))
