"""Right responses whose probability under a model is exact: they bound its success from below, however rare it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from offon.data.turns import turns_of
from offon.models.model import Model
from offon.models.packed.layout import Layout
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
    there = [p for p, group in enumerate(groups) if group.item.whole_reference]
    verdicts = task.verify([(groups[p].item, groups[p].item.whole_reference) for p in there])
    right, rejected = {}, [False] * len(groups)
    for p, verdict in zip(there, verdicts, strict=True):
        end = turns_of(tokenizer).closing(groups[p].prompt)
        right_form = verdict.score is not None and verdict.score >= RIGHT
        if right_form and end is not None:
            ids = tokenizer(groups[p].item.whole_reference, add_special_tokens=False).input_ids
            right[p] = (*ids, end)
        rejected[p] = bool(verdict.right_content) and not right_form
    return References(right, rejected)


def logps(
    model: Model, groups: Sequence[Group], responses: Sequence[tuple[int, Tokens]], sampling: Sampling
) -> list[float]:
    """Log-prob (nats) of each (prompt, response) under the sampler, which must be a full softmax."""
    return [float(logp_T.sum()) for logp_T in token_logps(model, groups, responses, sampling)]


@torch.inference_mode()
def token_logps(
    model: Model, groups: Sequence[Group], responses: Sequence[tuple[int, Tokens]], sampling: Sampling
) -> list[np.ndarray]:
    """[T] log-probs of the tokens of each (prompt, response), under the same condition."""
    pieces: list[np.ndarray] = []
    size = max(1, SCORED_TOKENS // max((len(tokens) for _, tokens in responses), default=1))
    for first in range(0, len(responses), size):
        layout = Layout.of([(groups[p].prompt, tokens) for p, tokens in responses[first : first + size]])
        temperature = torch.full((len(layout.sequence),), sampling.temperature)
        logp = model.logp(layout, temperature).double().cpu()
        pieces += [piece.numpy() for piece in logp.split(layout.lengths)]
    return pieces
