"""What a stage logged while it trained, a small line per metric."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from offon.reporting import words
from offon.reporting.drawing import Point, band, line

CURVE = {"width": 220, "height": 84, "left": 4, "right": 4, "top": 8, "bottom": 6}
_MOST_POINTS = 110
_FIRST = (
    "loss/total",
    "reward",
    "rewards/accuracies",
    "rewards/margins",
    "frac_reward_zero_std",
    "completions/mean_length",
    "completions/clipped_ratio",
    "grad_norm",
    "off_policy/sampler_gap_nats",
    "ratio/clip_frac",
)
_NOT_CURVES = ("step", "time", "num_tokens")
MEANING = {
    "loss/total": "what the step minimises",
    "reward": "mean verdict of the step's rollouts",
    "reward_std": "spread of verdicts within a group",
    "rewards/accuracies": "pairs in which the chosen side scores higher",
    "rewards/margins": "how much higher the chosen side scores",
    "rewards/chosen": "score of the chosen side",
    "rewards/rejected": "score of the rejected side",
    "frac_reward_zero_std": "groups that agree, and so teach nothing",
    "completions/mean_length": "tokens per response",
    "completions/clipped_ratio": "responses cut off before their end",
    "grad_norm": "size of the gradient before clipping",
    "learning_rate": "size of a step",
    "off_policy/sampler_gap_nats": "distance from sampler to learner, nats per token",
    "sync/gap_nats": "distance from engine to learner at sampling, nats per token",
    "sync/max_logp_diff": "largest disagreement of engine and learner, nats",
    "ratio/mean": "mean probability ratio, learner over sampler",
    "ratio/clip_frac": "tokens held back by the trust region",
    "time/step_s": "seconds per step",
}


def curves(metrics: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A small line per metric over optimizer steps, the telling ones first. Constant metrics are left out."""
    names = dict.fromkeys(name for record in metrics for name in record if name not in _NOT_CURVES)
    order = sorted(names, key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST))
    return [drawn for name in order if (drawn := _curve(name, metrics))]


def _curve(name: str, metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    values = [(record["step"], record[name]) for record in metrics if isinstance(record.get(name), (int, float))]
    if len(values) < 2 or len({value for _, value in values}) == 1:
        return None
    size = math.ceil(len(values) / _MOST_POINTS)
    buckets = [values[i : i + size] for i in range(0, len(values), size)]
    steps = [sum(step for step, _ in bucket) / len(bucket) for bucket in buckets]
    means = [sum(value for _, value in bucket) / len(bucket) for bucket in buckets]
    lows, highs = ([side(value for _, value in bucket) for bucket in buckets] for side in (min, max))
    low, high = min(lows), max(highs)
    wide = CURVE["width"] - CURVE["left"] - CURVE["right"]
    tall = CURVE["height"] - CURVE["top"] - CURVE["bottom"]

    def at(step: float, value: float) -> Point:
        x = CURVE["left"] + wide * (step - steps[0]) / ((steps[-1] - steps[0]) or 1)
        return x, CURVE["top"] + tall * (1 - (value - low) / (high - low))

    return CURVE | {
        "name": name,
        "meaning": MEANING.get(name, ""),
        "line": line([at(*point) for point in zip(steps, means, strict=True)]),
        "band": band([at(*p) for p in zip(steps, highs, strict=True)], [at(*p) for p in zip(steps, lows, strict=True)])
        if size > 1
        else "",
        "end": at(steps[-1], means[-1]),
        "first": words.short(values[0][1]),
        "last": words.short(values[-1][1]),
        "low": words.short(low),
        "high": words.short(high),
        "steps": (values[0][0], values[-1][0]),
    }
