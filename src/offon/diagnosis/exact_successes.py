"""Right responses whose probability under a model is exact: they bound its success from below, however rare it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from offon.models.layout import Layout
from offon.models.model import Model
from offon.types import RIGHT, Group, Sampling
from offon.types.trajectory import Tokens

SCORED_TOKENS = 16_384  # response tokens of one forward pass


@dataclass(frozen=True)
class References:
    """The tasks' known good responses, judged by its checker.

    right     prompt -> the tokens of one that it accepts, with their end
    rejected  [P] where it finds the content right and the form wrong
    """

    right: Mapping[int, Tokens]
    rejected: Sequence[bool]


def references(task: Any, groups: Sequence[Group], tokenizer: Any) -> References:
    there = [p for p, group in enumerate(groups) if group.item.reference]
    verdicts = task.verify([(groups[p].item, groups[p].item.reference) for p in there])
    right, rejected = {}, [False] * len(groups)
    for p, verdict in zip(there, verdicts, strict=True):
        if verdict.score is not None and verdict.score >= RIGHT and tokenizer.eos_token_id is not None:
            ids = tokenizer(groups[p].item.reference, add_special_tokens=False).input_ids
            right[p] = (*ids, tokenizer.eos_token_id)
        rejected[p] = verdict.score is not None and verdict.score < RIGHT <= (verdict.content or 0.0)
    return References(right, rejected)


@torch.inference_mode()
def logps(
    model: Model, groups: Sequence[Group], responses: Sequence[tuple[int, Tokens]], sampling: Sampling
) -> list[float]:
    """Log-prob (nats) of each (prompt, response) under the sampler, which must be a full softmax."""
    sums: list[float] = []
    size = max(1, SCORED_TOKENS // max((len(tokens) for _, tokens in responses), default=1))
    for first in range(0, len(responses), size):
        layout = Layout.of([(groups[p].prompt, tokens) for p, tokens in responses[first : first + size]])
        temperature = torch.full((len(layout.sequence),), sampling.temperature)
        logp = model.logp(layout, temperature).double().cpu()
        sums += [float(piece.sum()) for piece in logp.split(layout.lengths)]
    return sums
